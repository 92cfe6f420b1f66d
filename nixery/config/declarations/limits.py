"""Settings of the limits for clients: requests, connections, downloads and packages."""

from __future__ import annotations

from nixery.config import types
from nixery.config.setting import Setting
from nixery.limits.addresses import TrustedProxies

__all__ = ["LIMIT_SETTINGS"]

LIMIT_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="trusted_proxies",
        kind=types.PROXIES,
        help="whose X-Forwarded-For is believed: addresses, networks, unix for UNIX sockets",
        default=TrustedProxies(),
        default_text="nobody's",
    ),
    Setting(
        name="requests_per_client",
        kind=types.integer(0, 1_000_000, unit="requests a second"),
        help="how many requests one client may send in the long run; 0: any number",
        default=1000,
        aliases=("client_rate",),
    ),
    Setting(
        name="requests_per_client_burst",
        kind=types.integer(1, 10_000_000, unit="requests"),
        help="how many requests one client may send at once",
        default=20_000,
        aliases=("client_burst",),
    ),
    Setting(
        name="builds_per_client",
        kind=types.integer(0, 100_000, unit="images"),
        help="how many images are made at once, or wait for it, for one client; 0: any number",
        default=50,
        aliases=("client_builds",),
    ),
    Setting(
        name="builds_per_client_per_hour",
        kind=types.integer(0, 1_000_000, unit="images"),
        help="how many images are made in an hour for one client; 0: any number",
        default=1000,
        aliases=("client_builds_hourly",),
    ),
    Setting(
        name="connections_per_client",
        kind=types.integer(0, 1_000_000, unit="connections"),
        help="how many connections one client may have; 0: any number",
        default=5000,
        aliases=("client_connections",),
    ),
    Setting(
        name="max_connections",
        kind=types.integer(0, 1_000_000, unit="connections"),
        help="how many connections there may be, if there may be files for them; 0: any number",
        default=10_000,
    ),
    Setting(
        name="request_read_timeout",
        kind=types.SECONDS,
        help="how long a request may take to arrive, from its first byte to its last",
        default=30.0,
        aliases=("head_timeout",),
    ),
    Setting(
        name="idle_timeout",
        kind=types.SECONDS,
        help="how long a connection may wait for its next request",
        default=60.0,
    ),
    Setting(
        name="send_timeout",
        kind=types.SECONDS,
        help="how long a client may take nothing of what it downloads",
        default=600.0,
        aliases=("stall_timeout",),
    ),
    Setting(
        name="min_response_rate",
        kind=types.integer(0, unit="bytes a second"),
        help="what a client must take of a download in the long run; 0: nothing",
        default=1024,
        aliases=("min_send_rate",),
    ),
    Setting(
        name="max_packages",
        kind=types.integer(1, 1000, unit="packages"),
        help="how many packages an image may be asked for",
        default=100,
    ),
    Setting(
        name="max_closure_size",
        kind=types.SIZE,
        help="how large an image may be, unpacked, with all that its packages need, as 32 GiB",
        default=32 * 2**30,
        default_text="32 GiB",
        aliases=("max_closure",),
    ),
    Setting(
        name="allow_packages",
        kind=types.PACKAGES,
        help="which packages are served, as [shell, git, python3Packages.*], and no others",
        default_text="all",
    ),
    Setting(
        name="deny_packages",
        kind=types.PACKAGES,
        help="which packages are not served, wherever they are found",
        default_text="none",
    ),
)
