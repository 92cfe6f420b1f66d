"""Looks packages up for the pages, without those that are not served."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define

from nixery.builds.package_lookup import PackageLookup
from nixery.image.errors import PackageProblem, ProblemKind
from nixery.image.names import PackageRequest
from nixery.image.packages import LookupResult
from nixery.limits.errors import PackagesDenied
from nixery.limits.package_rules import PackageRules
from nixery.sources.source import PackageSet

__all__ = ["FilteredLookup"]


@define(kw_only=True, eq=False)
class FilteredLookup:
    """
    Looks up served packages, and reports all others as not served.

    :param package_lookup: does the lookups.
    :param rules: decide which packages are served.
    """

    package_lookup: PackageLookup
    rules: PackageRules

    async def look_up(
        self, package_set: PackageSet, system: str, requests: Sequence[PackageRequest]
    ) -> Sequence[LookupResult]:
        """As :meth:`nixery.builds.package_lookup.PackageLookup.look_up` says."""
        denied = {item for item in requests if self.rules.denies(item)}
        wanted = [item for item in requests if item not in denied]
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
            for item in requests
        ]
