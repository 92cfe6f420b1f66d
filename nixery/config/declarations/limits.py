"""Settings of the limits for clients: requests, connections, downloads and packages."""

from __future__ import annotations

from attrs import frozen

from nixery.config import types
from nixery.config.setting import setting
from nixery.image.patterns import PackagePatterns
from nixery.limits.addresses import TrustedProxies
from nixery.limits.unsent_bytes import MAX_UNSENT_BYTES

__all__ = ["LimitConfig"]


@frozen(kw_only=True)
class LimitConfig:
    """Settings of the limits for clients: requests, connections, downloads and packages."""

    trusted_proxies: TrustedProxies = setting(
        types.PROXIES,
        "proxies whose X-Forwarded-For is trusted: addresses, networks, unix for UNIX sockets",
        default=TrustedProxies(),
        default_text="nobody's",
    )
    requests_per_client: int = setting(
        types.integer(0, 1_000_000, unit="requests a second"),
        "requests per second that one client may send, in bursts of 20 times that; 0: unlimited",
        default=1000,
        aliases=("client_rate",),
    )
    builds_per_client: int = setting(
        types.integer(0, 100_000, unit="images"),
        "images that one client may have built, or waiting, at once; 0: unlimited",
        default=50,
        aliases=("client_builds",),
    )
    builds_per_client_per_hour: int = setting(
        types.integer(0, 1_000_000, unit="images"),
        "images that one client may have built in an hour; 0: unlimited",
        default=1000,
        aliases=("client_builds_hourly",),
    )
    connections_per_client: int = setting(
        types.integer(0, 1_000_000, unit="connections"),
        "connections that one client may have; 0: unlimited",
        default=500,
        aliases=("client_connections",),
    )
    idle_timeout: float = setting(
        types.SECONDS, "how long a connection may wait for its next request", default=60.0
    )
    max_unsent_size: int = setting(
        types.SIZE,
        "memory for data that clients have not received yet, for all of them; 0: unlimited",
        default=MAX_UNSENT_BYTES,
        default_text="256 MiB",
    )
    max_packages: int = setting(
        types.integer(1, 1000, unit="packages"),
        "packages that an image may be asked for",
        default=100,
    )
    max_closure_size: int = setting(
        types.SIZE,
        "size that an image may have, unpacked, with all dependencies, as 32 GiB",
        default=32 * 2**30,
        default_text="32 GiB",
        aliases=("max_closure",),
    )
    allow_packages: PackagePatterns | None = setting(
        types.PACKAGES,
        "packages to serve, as [shell, git, python3Packages.*], and no others",
        default_text="all",
    )
    deny_packages: PackagePatterns | None = setting(
        types.PACKAGES,
        "packages never to serve, whatever package set has them",
        default_text="none",
    )
