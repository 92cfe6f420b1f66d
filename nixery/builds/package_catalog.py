"""
Search the packages of the revision that is served, by name and description.

The lists of packages are made by :class:`nixery.nix.indexer.PackageIndexer`; a search evaluates
nothing.  Searches run one at a time, fairly between clients: they compete for the interpreter, and
the first one reads the list for all that come with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attrs import define, field, frozen
from cachetools import LRUCache

from nixery.image.errors import InvalidName
from nixery.image.names import Tag, parse_image_name
from nixery.limits.fair_queue import FairQueue
from nixery.limits.package_rules import PackageRules
from nixery.nix.package_finder import Findings, PackageFinder
from nixery.nix.package_index import IndexEntry, PackageIndex
from nixery.nix.suggestions import spell
from nixery.runtime.workers import Workers
from nixery.sources.interface import Sources
from nixery.sources.source import Revision

__all__ = ["CatalogResult", "PackageCatalog"]

LATEST = Tag("latest")

MAX_FINDERS = 2
"""The indexes that are kept in a form for searches; that of nixpkgs has some 20 MB."""

MAX_WAITING = 64
"""The most searches that wait for their turn."""


class Indexes(Protocol):
    """Keeps indexes of package sets."""

    async def get(self, revision: Revision, system: str) -> PackageIndex | None:
        """Return the index of a revision, or ``None`` if there is none yet."""


@frozen(kw_only=True)
class CatalogResult:
    """
    The result of a search.

    :param revision: the revision that was searched.
    :param findings: ``None`` if its packages have not been listed yet.
    :param next_revision: the revision that is served, if its packages have not been listed yet and
        an earlier revision was searched; else ``None``.
    """

    revision: Revision
    findings: Findings | None
    next_revision: Revision | None = None


@define(kw_only=True, eq=False)
class PackageCatalog:
    """
    Searches the packages of the tag ``latest``.

    Until the packages of a new revision are listed, those of the revision before are searched.

    :param sources: resolves the tag.
    :param indexes: the lists of packages.
    :param workers: a pool of threads; not the one that packs layers.
    :param system: the Nix system whose packages are searched.
    :param rules: packages that are not served are not found.
    """

    sources: Sources
    indexes: Indexes
    workers: Workers
    system: str
    rules: PackageRules = field(factory=PackageRules)

    # By the identity of the index, which is kept as long as the entry.
    _finders: LRUCache[int, tuple[PackageIndex, PackageFinder]] = field(
        factory=lambda: LRUCache(MAX_FINDERS), init=False
    )

    _last_searched: tuple[Revision, PackageIndex] | None = field(default=None, init=False)

    # All compete for the interpreter: more threads would not be faster.
    _queue: FairQueue[str] = field(
        factory=lambda: FairQueue(max_running=1, max_waiting=MAX_WAITING, retry_after=5.0),
        init=False,
    )

    async def search(
        self,
        client: str,
        query: str,
        *,
        limit: int,
        offset: int = 0,
        may_see: Callable[[str], bool] = lambda _name: True,
    ) -> CatalogResult:
        """
        Search packages.

        :param client: identifies the client.
        :param query: words.
        :param limit: the most packages that are returned.
        :param offset: how many of the best are left out.
        :param may_see: tells whether the client may see the image of this name.
        :raises QueueFull: too many searches wait already.
        :raises NixeryError: the tag cannot be resolved.
        """
        revision = await self.sources.resolve(LATEST)

        def accept(entry: IndexEntry) -> bool:
            component = spell(entry.attribute.split("."))
            try:
                name = parse_image_name(component, system="")
            except InvalidName:
                return False
            return self.rules.allows(name) and may_see(component)

        async def find() -> CatalogResult:
            index = await self.indexes.get(revision, self.system)
            if index is not None:
                self._last_searched = revision, index
            if self._last_searched is None:
                return CatalogResult(revision=revision, findings=None)
            searched, listed = self._last_searched
            finder = await self._finder(listed)
            findings = await self.workers.run(
                lambda: finder.find(query, limit=limit, offset=offset, accept=accept)
            )
            return CatalogResult(
                revision=searched,
                findings=findings,
                next_revision=None if index is not None else revision,
            )

        return await self._queue.run(client, find)

    async def _finder(self, index: PackageIndex) -> PackageFinder:
        known = self._finders.get(id(index))
        if known is not None and known[0] is index:
            return known[1]
        finder = await self.workers.run(PackageFinder, index)
        self._finders[id(index)] = index, finder
        return finder
