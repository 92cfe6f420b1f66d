"""Look up the packages of an index for each of its platforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from nixery.image.names import ImageName, PackageRequest, Tag
from nixery.image.packages import LookupResult
from nixery.nix.errors import EvaluationFailed
from nixery.sources.source import Revision

__all__ = ["LATEST", "PlatformSearch", "SearchResult", "search_platforms"]

LATEST = Tag("latest")


class SearchResult(Protocol):
    """The results for some package names, in a revision of the package set."""

    @property
    def revision(self) -> Revision:
        """The revision."""

    @property
    def results(self) -> Sequence[LookupResult]:
        """The results, in the order of the names."""


class PlatformSearch(Protocol):
    """Looks up packages."""

    async def search(
        self, client: str, system: str, requests: Sequence[PackageRequest], tag: Tag = LATEST
    ) -> SearchResult:
        """Look up package names; :raises NixeryError: they cannot be looked up."""


async def search_platforms(
    search: PlatformSearch,
    client: str,
    name: ImageName,
    requests: Sequence[PackageRequest],
    own: Sequence[LookupResult],
    tag: Tag = LATEST,
) -> Mapping[str, Sequence[LookupResult]]:
    """
    Return the results for the systems of an index; nothing for other images.

    :param client: identifies the client.
    :param requests: the packages to look up.
    :param own: the results for the system of the name.
    """
    platforms: dict[str, Sequence[LookupResult]] = {}
    for system in name.platforms:
        if system == name.system:
            platforms[system] = own
            continue
        # A package set that does not evaluate for a system has nothing to say of it.
        with suppress(EvaluationFailed):
            platforms[system] = (await search.search(client, system, requests, tag)).results
    return platforms
