"""Tests for :mod:`nixery.nix.package_indexes`, on a real file system."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import StorageError
from nixery.nix.package_index import IndexEntry, PackageIndex
from nixery.nix.package_indexes import MAX_AGE_SECONDS, MAX_FILES, PackageIndexes
from nixery.nix.suggestions import NameIndexes
from nixery.sources.source import Revision
from nixery.testing.fakes import InlineWorkers

SYSTEM = "x86_64-linux"


def revision(commit: str = "c", *, pinned: bool = True, version: str | None = None) -> Revision:
    return Revision(
        identity={"kind": "git", "url": "https://example.org", "commit": commit},
        pinned=pinned,
        label=commit,
        version=version,
    )


def index(name: str = "hello") -> PackageIndex:
    return PackageIndex(
        names=(name, "lib"),
        entries=(IndexEntry(attribute=name, pname=name, version="1", description="", served=True),),
    )


class PackageIndexesTests(SynchronousTestCase):
    """Tests of what is kept, for how long, and of damage."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()) / "indexes"

    def indexes(self, **identity: str) -> PackageIndexes:
        """The indexes as a daemon has them that has just been started."""
        return PackageIndexes(self.directory, InlineWorkers(), identity)

    def get(
        self, where: PackageIndexes, what: Revision | None = None, system: str = SYSTEM
    ) -> PackageIndex | None:
        return self.successResultOf(Deferred.fromCoroutine(where.get(what or revision(), system)))

    def add(
        self, where: PackageIndexes, what: Revision | None = None, added: PackageIndex | None = None
    ) -> None:
        self.successResultOf(
            Deferred.fromCoroutine(where.add(what or revision(), SYSTEM, added or index()))
        )

    def recalled(self, where: PackageIndexes, what: Revision | None = None) -> bool:
        """Return true if the names of a revision are known after they were to be recalled."""
        names = NameIndexes()
        self.successResultOf(
            Deferred.fromCoroutine(where.recall_names(names, what or revision(), SYSTEM))
        )
        return names.top_level(what or revision(), SYSTEM) is not None

    def files(self) -> list[Path]:
        return sorted(self.directory.iterdir())

    def test_index_is_there_after_a_restart(self) -> None:
        """An index is there after a restart, and so are its names."""
        self.add(self.indexes())
        self.assertEqual(index(), self.get(self.indexes()))
        self.assertTrue(self.recalled(self.indexes()))

    def test_nothing_is_there_at_first(self) -> None:
        """Without a file there is no index, and no directory is made."""
        self.assertIsNone(self.get(self.indexes()))
        self.assertFalse(self.recalled(self.indexes()))
        self.assertFalse(self.directory.exists())

    def test_index_is_of_one_revision_system_and_configuration(self) -> None:
        """An index is not used for another revision, another system or other settings."""
        self.add(self.indexes())
        self.assertIsNone(self.get(self.indexes(), revision("d")))
        self.assertIsNone(self.get(self.indexes(), system="aarch64-linux"))
        self.assertIsNone(self.get(self.indexes(config="{}")))

    def test_recalled_names_are_those_of_the_set(self) -> None:
        """Of recalled names, only those are missing that the set does not have."""
        self.add(self.indexes())
        names = NameIndexes()
        self.successResultOf(
            Deferred.fromCoroutine(self.indexes().recall_names(names, revision(), SYSTEM))
        )
        level = names.top_level(revision(), SYSTEM)
        assert level is not None
        self.assertTrue(level.may_have(["Hello"]))
        self.assertTrue(level.may_have(["lib", "x"]))
        self.assertFalse(level.may_have(["helo"]))

    def test_index_of_a_set_that_may_change_is_in_memory_only(self) -> None:
        """The index of a set that may change is no file, and tells nothing to be missing."""
        moving = revision(pinned=False)
        indexes = self.indexes()
        self.add(indexes, moving)
        self.assertEqual(index(), self.get(indexes, moving))
        self.assertFalse(self.recalled(indexes, moving))
        self.assertIsNone(self.get(self.indexes(), moving))
        self.assertFalse(self.directory.exists())

    def test_versions_of_a_set_are_told_apart(self) -> None:
        """An index serves for a later version, of which it does not tell what is missing."""
        indexes = self.indexes()
        first, second = (revision(pinned=False, version=version) for version in "12")
        self.add(indexes, first)
        self.assertTrue(self.recalled(indexes, first))
        self.assertEqual(index(), self.get(indexes, second))
        self.assertFalse(self.recalled(indexes, second))
        self.assertFalse(self.directory.exists())

    def test_newer_index_replaces_an_older_one(self) -> None:
        """A newer index replaces an older one, also for a set that may change."""
        for what in (revision(), revision(pinned=False)):
            indexes = self.indexes()
            self.add(indexes, what)
            self.add(indexes, what, index("other"))
            self.assertEqual(index("other"), self.get(indexes, what))

    def test_damaged_file_is_removed(self) -> None:
        """A damaged file is told and removed, and the index can be made again."""
        for data in (b"", b"x" * 100):
            self.add(self.indexes())
            [file] = self.files()
            file.write_bytes(data)
            self.assertIsNone(self.get(self.indexes()))
            self.assertEqual([], self.files())
            self.add(self.indexes())
            self.assertEqual(index(), self.get(self.indexes()))

    def test_file_of_another_revision_is_not_used(self) -> None:
        """A file that was put in the place of another one is not used."""
        self.add(self.indexes())
        [file] = self.files()
        self.add(self.indexes(), revision("d"))
        [other] = {*self.files()} - {file}
        other.replace(file)
        self.assertIsNone(self.get(self.indexes()))

    def test_files_that_were_used_last_are_kept(self) -> None:
        """There are never more than so many files, and those that were used last are kept."""
        for number in range(MAX_FILES + 3):
            self.add(self.indexes(), revision(str(number)))
            for file in self.files():
                # Each of them is a second older then; a file system may tell no less apart.
                os.utime(file, ns=(0, file.stat().st_mtime_ns - 10**9))
            self.get(self.indexes(), revision("0"))
        self.assertEqual(MAX_FILES, len(self.files()))
        kept = [
            number
            for number in range(MAX_FILES + 3)
            if self.get(self.indexes(), revision(str(number))) is not None
        ]
        self.assertEqual([0, *range(4, MAX_FILES + 3)], kept)

    def test_file_that_was_not_used_for_long_is_removed(self) -> None:
        """A file that was not used for long is removed when another one is written."""
        self.add(self.indexes(), revision("old"))
        [file] = self.files()
        os.utime(file, (0, file.stat().st_mtime - MAX_AGE_SECONDS - 10))
        self.add(self.indexes(), revision("new"))
        self.assertFalse(file.exists())
        self.assertIsNotNone(self.get(self.indexes(), revision("new")))

    def test_file_is_whole_at_any_time(self) -> None:
        """While a file is written again and again, it is read whole each time."""
        self.add(self.indexes())
        ended = False

        def write() -> None:
            while not ended:
                self.add(self.indexes())

        writers = [Thread(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(200):
                self.assertEqual(index(), self.get(self.indexes()))
        finally:
            ended = True
            for writer in writers:
                writer.join()
        [_] = self.files()

    def test_directory_that_cannot_be_used(self) -> None:
        """An index that cannot be written is an error, and one that cannot be read is none."""
        self.directory.parent.mkdir(parents=True)
        self.directory.write_text("a file")
        self.failureResultOf(
            Deferred.fromCoroutine(self.indexes().add(revision(), SYSTEM, index())), StorageError
        )
        self.assertIsNone(self.get(self.indexes()))
