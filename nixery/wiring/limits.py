"""Makes the limits that the configuration asks for."""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen
from twisted.logger import Logger

from nixery.config.declarations.limits import LimitConfig
from nixery.http.back_pressure import STALL_LIMIT_SECONDS, SendLimits
from nixery.limits.admission import (
    REQUEST_READ_TIMEOUT_SECONDS,
    RESERVED_CONNECTIONS,
    AdmissionControl,
    AdmissionLimits,
)
from nixery.limits.build_quota import BuildQuota
from nixery.limits.package_rules import PackageRules
from nixery.limits.unsent_bytes import UnsentBytes
from nixery.runtime.open_files import raise_open_files
from nixery.runtime.startup import Component

__all__ = ["LimitSubsystem", "make_limits"]

BURST_SECONDS = 20
"""
Seconds whose requests a client may send at once: fifty nodes behind one address begin a pull in
the same second, of about a hundred requests each.
"""

MAX_CONNECTIONS = 10_000
"""
The most connections of all clients together.  A machine that is to have fewer says so by the limit
of open files (``LimitNOFILE=``), to which this one is fitted.
"""

FILES_PER_CONNECTION = 4
"""
Files that a connection may need: its socket, the duplicates that it sends by and that its bytes
are counted by, and a blob.
"""

OTHER_FILES = 256
"""Files that are kept for builds and for the daemon itself."""

_log = Logger()


@frozen(kw_only=True)
class LimitSubsystem:
    """
    The limits of the daemon for its clients.

    :param admission: limits requests and connections.
    :param build_quota: limits the builds of each client.
    :param rules: decide which packages are served.
    :param sending: the minimum speed of clients.
    :param unsent: limits the bytes that wait for clients.
    """

    admission: AdmissionControl
    build_quota: BuildQuota
    rules: PackageRules
    sending: SendLimits
    unsent: UnsentBytes
    components: tuple[Component, ...]


def make_limits(config: LimitConfig, reactor: Any) -> LimitSubsystem:
    """
    Make the configured limits.

    :param reactor: the global reactor, which has no type.
    """
    admission = AdmissionControl(
        limits=AdmissionLimits(
            requests_per_second=config.requests_per_client,
            burst=BURST_SECONDS * config.requests_per_client,
            max_connections=MAX_CONNECTIONS,
            connections_per_client=config.connections_per_client,
            request_read_timeout=REQUEST_READ_TIMEOUT_SECONDS,
            idle_timeout=config.idle_timeout,
            proxies=config.trusted_proxies,
        ),
        seconds=reactor.seconds,
    )

    def count_slow_download() -> None:
        admission.count_refusal("slow_download")

    async def start() -> None:
        fit_open_files(admission)

    return LimitSubsystem(
        admission=admission,
        build_quota=BuildQuota(
            max_concurrent=config.builds_per_client,
            max_per_hour=config.builds_per_client_per_hour,
            seconds=reactor.seconds,
            on_refusal=admission.count_refusal,
        ),
        rules=PackageRules(
            allowed=config.allow_packages,
            denied=config.deny_packages,
            max_packages=config.max_packages,
        ),
        sending=SendLimits(
            stall=STALL_LIMIT_SECONDS,
            on_disconnect=count_slow_download,
        ),
        unsent=UnsentBytes(max_bytes=config.max_unsent_size, on_end=count_slow_download),
        components=(Component(name="limit of open files", start=start),),
    )


def fit_open_files(admission: AdmissionControl) -> None:
    """
    Raise the limit of open files to what the connections need, or else lower the limit of
    connections.
    """
    room = max(RESERVED_CONNECTIONS, (raise_open_files() - OTHER_FILES) // FILES_PER_CONNECTION)
    most = admission.limits.max_connections
    if most and room < most:
        admission.limits = evolve(admission.limits, max_connections=room)
        _log.info(
            "Up to {room} connections are accepted, not {most}: the limit of open files is low"
            " (LimitNOFILE=, ulimit -n).",
            room=room,
            most=most,
        )
