"""Makes the limits that the configuration asks for."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Any

from attrs import define, evolve, field
from twisted.logger import Logger

from nixery.builds.package_lookup import PackageLookup
from nixery.config.config import Config
from nixery.http.registry.api import RegistryLimits
from nixery.http.registry.blob_sender import SendLimits
from nixery.image.errors import PackageProblem, ProblemKind
from nixery.image.names import PackageRequest
from nixery.image.packages import LookupResult
from nixery.limits.admission import RESERVED_CONNECTIONS, AdmissionControl, AdmissionLimits
from nixery.limits.build_quota import BuildQuota
from nixery.limits.errors import PackagesDenied
from nixery.limits.package_rules import PackageRules
from nixery.sources.source import PackageSet

__all__ = ["LimitParts", "FilteredLookup", "raise_open_files"]

FILES_PER_CONNECTION = 3
"""Files that a connection may need: its socket, the duplicate that it sends by, and a blob."""

OTHER_FILES = 256
"""Files that are kept for builds and for the daemon itself."""

WANTED_FILES = 65536
"""As many as connections need by default, and a reserve."""


@define(kw_only=True, eq=False)
class LimitParts:
    """The limits of one daemon for its clients."""

    config: Config
    reactor: Any  # the global reactor, which has no type
    admission: AdmissionControl = field(init=False)
    build_quota: BuildQuota = field(init=False)
    rules: PackageRules = field(init=False)
    registry: RegistryLimits = field(init=False)

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        config = self.config
        self.admission = admission = AdmissionControl(
            limits=AdmissionLimits(
                requests_per_second=config.requests_per_client,
                burst=config.requests_per_client_burst,
                max_connections=config.max_connections,
                connections_per_client=config.connections_per_client,
                request_read_timeout=config.request_read_timeout,
                idle_timeout=config.idle_timeout,
                proxies=config.trusted_proxies,
            ),
            seconds=self.reactor.seconds,
        )
        self.build_quota = BuildQuota(
            max_concurrent=config.builds_per_client,
            max_per_hour=config.builds_per_client_per_hour,
            seconds=self.reactor.seconds,
            on_refusal=admission.count_refusal,
        )
        self.rules = PackageRules(
            allowed=config.allow_packages,
            denied=config.deny_packages,
            max_packages=config.max_packages,
        )
        self.registry = RegistryLimits(
            rules=self.rules,
            sending=SendLimits(
                stall=config.send_timeout,
                rate=config.min_response_rate,
                on_disconnect=lambda: admission.count_refusal("slow_download"),
            ),
        )

    def package_lookup(self, package_lookup: PackageLookup) -> PackageLookup:
        """Return the package lookup of the pages, without packages that are not served."""
        return FilteredLookup(package_lookup=package_lookup, rules=self.rules)

    async def make_room(self) -> None:
        """
        Raise the limit of open files to what the connections need, or else lower the limit of
        connections.
        """
        room = max(RESERVED_CONNECTIONS, (raise_open_files() - OTHER_FILES) // FILES_PER_CONNECTION)
        most = self.admission.limits.max_connections
        if most and room < most:
            self.admission.limits = evolve(self.admission.limits, max_connections=room)
            self._log.warn(
                "There is room for {room} connections and not for {most} (max_connections):"
                " the process may open too few files (LimitNOFILE=, ulimit -n).",
                room=room,
                most=most,
            )


@define(kw_only=True, eq=False)
class FilteredLookup:
    """
    Looks up served packages, and reports all others as not served.

    :param package_lookup: does the lookups.
    """

    package_lookup: PackageLookup
    rules: PackageRules

    async def look_up(
        self, package_set: PackageSet, system: str, requirements: Sequence[PackageRequest]
    ) -> Sequence[LookupResult]:
        """As :meth:`nixery.builds.package_lookup.PackageLookup.look_up` says."""
        denied = {item for item in requirements if self.rules.denies(item)}
        wanted = [item for item in requirements if item not in denied]
        found = iter(
            await self.package_lookup.look_up(package_set, system, wanted) if wanted else ()
        )
        return [
            LookupResult(
                request=item,
                result=PackageProblem(
                    name=item.name,
                    kind=ProblemKind.REFUSED,
                    message=PackagesDenied(packages=(item.name,)).message,
                ),
            )
            if item in denied
            else next(found)
            for item in requirements
        ]


def raise_open_files() -> int:
    """
    Raise the limit of open files as far as the system permits, up to what the daemon may need; some
    systems begin with a thousand, for the sake of old programs.

    :return: the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return WANTED_FILES if soft == resource.RLIM_INFINITY else soft
