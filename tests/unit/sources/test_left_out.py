"""
Tests for ``nixery.sources.left_out``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from nixery.sources.left_out import LeftOutFinder, remove_files, write_paths
from nixery.sources.source import SourceTree
from nixery.testing.fakes import InlineWorkers
from tests.unit.sources.test_lfs import TEXT

TREE = SourceTree(kind="git", url="https://h/p", commit="a" * 40)


class LeftOutFinderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.mkdir()
        self.finder = LeftOutFinder(InlineWorkers())
        self.events: list[LogEvent] = []
        observer: Any = self.events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def pointers(self, tree: SourceTree = TREE) -> Sequence[str]:
        return self.successResultOf(Deferred.fromCoroutine(self.finder.pointers(tree, self.path)))

    def warnings(self) -> list[tuple[str, str]]:
        return [(each["url"], each["setting"]) for each in self.events if "setting" in each]

    def test_each_is_warned_of_once_for_a_repository(self) -> None:
        """Each part of a repository is warned of once, however many commits have it."""
        (self.path / ".gitmodules").touch()
        for name in ("b", "a"):
            (self.path / name).write_bytes(TEXT)
        for commit in "ab":
            self.assertEqual(self.pointers(evolve(TREE, commit=commit * 40)), ["a", "b"])
        self.assertEqual(self.warnings(), [(TREE.url, "submodules"), (TREE.url, "lfs")])
        self.assertIn("2 of its files", self.events[1]["what"])
        self.pointers(evolve(TREE, url="https://h/q"))
        self.assertEqual(len(self.warnings()), 4)

    def test_nothing_is_left_out_that_is_asked_for(self) -> None:
        """Submodules and content that were fetched are not warned of."""
        (self.path / ".gitmodules").touch()
        (self.path / "a").write_bytes(TEXT)
        self.assertEqual(self.pointers(evolve(TREE, submodules=True, lfs=True)), ())
        self.assertEqual(self.warnings(), [])
        self.assertEqual(self.pointers(evolve(TREE, submodules=True)), ["a"])
        self.assertEqual(self.warnings(), [(TREE.url, "lfs")])

    def test_repository_with_neither_and_an_archive(self) -> None:
        """Nothing is said of what has nothing, nor of an archive of nixpkgs."""
        self.assertEqual(self.pointers(), [])
        (self.path / "a").write_bytes(TEXT)
        (self.path / ".gitmodules").touch()
        self.assertEqual(self.pointers(evolve(TREE, kind="archive")), ())
        self.assertEqual(self.warnings(), [])

    def test_files_are_listed_and_removed(self) -> None:
        """A list of files has one a line, whatever bytes their names are."""
        file = self.path / "new" / "list"
        write_paths(file, ["a b", "\udcff"])
        self.assertEqual(file.read_bytes(), b"a b\n\xff\n")
        remove_files(self.path, ["new/list"])
        self.assertFalse(file.exists())
