"""Tests of the search path of evaluations."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from nixery.sources.search_path import PinnedArchive, SearchPath, search_path_of
from nixery.sources.source import path_revision

STORE = Path("/nix/store/00000000000000000000000000000000-source")
ARCHIVE = PinnedArchive(url="https://h/a#b.tar.gz", sha256="0" * 64)
PINNED = SearchPath(entries={"a": ARCHIVE, "b": STORE / "b"}, extra_paths=(STORE / "c",))
SET = path_revision(STORE)


class SearchPathTests(SynchronousTestCase):
    """Tests of :class:`nixery.sources.search_path.SearchPath`."""

    def test_nothing_changes_no_revision(self) -> None:
        """A search path without entries leaves the identity of a revision as it is."""
        self.assertEqual(SearchPath().extend(SET), SET)
        self.assertEqual(search_path_of(SET), SearchPath())

    def test_each_part_belongs_to_the_identity(self) -> None:
        """A revision knows its search path, and each part makes it another one."""
        identities = []
        for search_path in (
            SearchPath(),
            PINNED,
            evolve(PINNED, extra_paths=(STORE / "d",)),
            evolve(PINNED, entries={"a": evolve(ARCHIVE, url="https://h/b"), "b": STORE / "b"}),
            evolve(PINNED, entries={"a": evolve(ARCHIVE, sha256="1" * 64), "b": STORE / "b"}),
            evolve(PINNED, entries={"a": STORE / "b", "b": ARCHIVE}),
        ):
            revision = search_path.extend(SET)
            self.assertEqual(search_path_of(revision), search_path)
            self.assertTrue(revision.pinned)
            identities.append(dict(revision.identity))
        for identity in identities:
            self.assertEqual(identities.count(identity), 1)

    def test_path_outside_the_store_may_change(self) -> None:
        """A revision is not pinned if a path is not in the store."""
        for search_path in (
            evolve(PINNED, extra_paths=(Path("/srv/a"),)),
            evolve(PINNED, entries={"b": Path("/srv/a")}),
        ):
            revision = search_path.extend(SET, version="1")
            self.assertFalse(revision.pinned)
            self.assertEqual(revision.version, "1")
        unpinned = path_revision(Path("/srv/set"), version="1")
        self.assertFalse(PINNED.extend(unpinned, version="1").pinned)
        self.assertIsNone(PINNED.extend(SET, version="1").version)

    def test_names_and_paths(self) -> None:
        """Archives are where they were fetched to, and further paths get names."""
        self.assertEqual(
            PINNED.on_disk([Path("/fetched")]),
            (("a", Path("/fetched")), ("b", STORE / "b"), ("nixery-extra-0", STORE / "c")),
        )

    def test_paths_are_replaced_in_their_places(self) -> None:
        """Paths are replaced in their places, and archives stay."""
        replaced = PINNED.with_paths([Path("/b"), Path("/c")])
        self.assertEqual(replaced.entries, {"a": ARCHIVE, "b": Path("/b")})
        self.assertEqual(replaced.extra_paths, (Path("/c"),))

    def test_archive_is_a_tree_of_its_own(self) -> None:
        """An archive is kept under a name that depends on its URL and its hash."""
        names = {
            archive.tree.name
            for archive in (
                ARCHIVE,
                evolve(ARCHIVE, url="https://h/b"),
                evolve(ARCHIVE, sha256="1" * 64),
            )
        }
        self.assertEqual(len(names), 3)
