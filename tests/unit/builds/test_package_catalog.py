"""Tests for :mod:`nixery.builds.package_catalog`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.package_catalog import (
    MAX_WAITING,
    CatalogResult,
    PackageCatalog,
)
from nixery.image.patterns import parse_patterns
from nixery.limits.errors import QueueFull
from nixery.limits.package_rules import PackageRules
from nixery.nix.package_index import PackageIndex
from nixery.sources.source import Revision
from nixery.testing.fakes import FakeSources, InlineWorkers
from tests.unit.nix.test_package_finder import entry

SYSTEM = "x86_64-linux"


class FakeIndexes:
    """Has one index, or none."""

    index: PackageIndex | None = None

    async def get(self, _revision: Revision, _system: str) -> PackageIndex | None:
        return self.index


class PackageCatalogTests(SynchronousTestCase):
    """Searches of the packages that are served."""

    def setUp(self) -> None:
        self.indexes = FakeIndexes()
        self.catalog = PackageCatalog(
            sources=FakeSources.at_path(Path("/set")),
            indexes=self.indexes,
            workers=InlineWorkers(),
            system=SYSTEM,
            rules=PackageRules(denied=parse_patterns(["secret"])),
        )

    def search(self, query: str, hidden: str = "") -> CatalogResult:
        return self.successResultOf(
            Deferred.fromCoroutine(
                self.catalog.search("client", query, limit=10, may_see=lambda name: name != hidden)
            )
        )

    def test_packages_that_are_not_listed_yet_are_said_so(self) -> None:
        """There are no findings before the packages have been listed."""
        self.assertIsNone(self.search("git").findings)

    def test_packages_that_are_denied_or_not_for_the_client_are_not_found(self) -> None:
        """Packages that are not served, or not for the client, are not found."""
        self.indexes.index = PackageIndex(
            names=(), entries=(entry("gitSecret"), entry("git"), entry("secret"), entry("gitui"))
        )
        findings = self.search("git", hidden="gitui").findings
        assert findings is not None
        self.assertEqual(["git", "gitSecret"], [each.attribute for each in findings.entries])
        findings = self.search("secret").findings
        assert findings is not None
        self.assertEqual(["gitSecret"], [each.attribute for each in findings.entries])

    def test_index_that_was_made_again_is_searched(self) -> None:
        """An index that was made again is searched in place of the old one."""
        for name in ("one", "two"):
            self.indexes.index = PackageIndex(names=(), entries=(entry(name),))
            findings = self.search(name).findings
            assert findings is not None
            self.assertEqual(1, findings.total)

    def test_earlier_revision_is_searched_until_the_next_one_is_listed(self) -> None:
        """Until a new revision is listed, the one before is searched, and both are told."""
        self.indexes.index = PackageIndex(names=(), entries=(entry("old"),))
        found = self.search("old")
        self.assertEqual(("/set", None), (found.revision.label, found.next_revision))
        self.catalog.sources = FakeSources.at_path(Path("/new"))
        self.indexes.index = None
        for _ in range(2):
            found = self.search("old")
            assert found.findings is not None and found.next_revision is not None
            self.assertEqual(
                ("/set", "/new", 1),
                (found.revision.label, found.next_revision.label, found.findings.total),
            )
        self.indexes.index = PackageIndex(names=(), entries=(entry("new"),))
        found = self.search("new")
        self.assertEqual(("/new", None), (found.revision.label, found.next_revision))

    def test_searches_take_turns_fairly_between_clients(self) -> None:
        """Searches run one at a time, the second of a client after the first of another."""
        reading: Deferred[PackageIndex | None] = Deferred()
        index = PackageIndex(names=(), entries=(entry("git"),))
        reads: list[str] = []

        class SlowIndexes:
            async def get(self, _revision: Revision, system: str) -> PackageIndex | None:
                reads.append(system)
                return await reading if len(reads) == 1 else index

        self.catalog.indexes = SlowIndexes()
        searched: list[str] = []

        def note(client: str, _name: str) -> bool:
            searched.append(client)
            return True

        for client in ("a", "a", "b"):
            Deferred.fromCoroutine(
                self.catalog.search(client, "git", limit=1, may_see=partial(note, client))
            )
        self.assertEqual(1, len(reads))
        reading.callback(index)
        self.assertEqual(["a", "b", "a"], searched)

    def test_too_many_searches_at_once_are_refused(self) -> None:
        """Of more searches of one client than may wait, the last one is refused."""
        waiting: Deferred[PackageIndex | None] = Deferred()

        class BusyIndexes:
            async def get(self, _revision: Revision, _system: str) -> PackageIndex | None:
                return await waiting

        self.catalog.indexes = BusyIndexes()
        searches = [
            Deferred.fromCoroutine(self.catalog.search("a", "git", limit=1))
            for _ in range(MAX_WAITING + 2)
        ]
        self.failureResultOf(searches.pop(), QueueFull)
        waiting.callback(None)
        for search in searches:
            self.assertIsNone(self.successResultOf(search).findings)
