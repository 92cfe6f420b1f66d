"""Tests for :mod:`nixery.storage.filesystem.record_index`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.storage.filesystem import backend
from nixery.storage.filesystem.backend import FilesystemStorage
from nixery.storage.filesystem.records import Records
from nixery.testing.fakes import InlineWorkers

KEYS = st.tuples(
    st.sampled_from(["a", "ab", "%2F", "..", "", "x" * 300]),
    st.sampled_from(["latest", "v1/x", "", ".", "t" * 300]),
).map("/".join)


class RecordIndexTests(SynchronousTestCase):
    """Tests of the listing of records with a common first part."""

    def setUp(self) -> None:
        # There is no power failure in these tests, and fsync is slow.
        self.patch(os, "fsync", lambda _: None)
        self.root = Path(self.mktemp())
        self.storage = FilesystemStorage(self.root, InlineWorkers())
        self.now(self.storage.start())
        self.records = Records(str(self.root / "records"), str(self.root / "tmp"))

    def now(self, coroutine: object) -> object:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))  # type: ignore[arg-type]

    def listed_directories(self, prefix: str) -> tuple[list[str], set[str]]:
        """List records; return their keys, and the names of the directories that were read."""
        read: set[str] = set()
        listdir = os.listdir

        def recorded(path: str) -> list[str]:
            read.add(os.path.relpath(path, self.root / "records"))
            return listdir(path)

        self.patch(os, "listdir", recorded)
        keys = self.records.keys("served", prefix)
        self.patch(os, "listdir", listdir)
        return keys, read

    def test_records_of_other_images_are_not_read(self) -> None:
        """To list the tags of an image reads a directory of its own only."""
        self.now(self.storage.complete_indexes())
        for number in range(20):
            self.records.set("served", f"image{number}/latest", b"x")
        self.records.set("served", "image7/v1", b"x")
        self.assertEqual(
            (["image7/latest", "image7/v1"], {"served.index/image7.json"}),
            self.listed_directories("image7/"),
        )
        self.assertEqual(([], {"served.index/image.json"}), self.listed_directories("image/"))

    def test_storage_of_a_version_without_an_index_gets_one(self) -> None:
        """Records are found before, while and after it is made; another start has nothing to do."""
        for number in range(backend.INDEXED_AT_ONCE // 100):
            self.records.set("served", f"old{number}/latest", b"x")
        shutil.rmtree(self.root / "records" / "served.index")
        self.assertEqual((["old1/latest"], {"served"}), self.listed_directories("old1/"))
        self.records.set("served", "old1/new", b"x")
        self.patch(backend, "INDEXED_AT_ONCE", 2)
        self.now(self.storage.complete_indexes())
        keys, read = self.listed_directories("old1/")
        self.assertEqual((["old1/latest", "old1/new"], {"served.index/old1.json"}), (keys, read))
        self.assertIsNone(self.records.missing_in_index("served"))

    def test_record_that_is_made_anew_while_it_is_deleted_stays_in_the_index(self) -> None:
        """Whichever of two processes comes first."""
        self.now(self.storage.complete_indexes())
        other = Records(str(self.root / "records"), str(self.root / "tmp"))
        self.records.set("served", "a/latest", b"1")
        unlink = os.unlink

        def racing(path: str) -> None:
            unlink(path)
            if path.endswith("latest.json") and "index" not in path:
                self.patch(os, "unlink", unlink)
                other.set("served", "a/latest", b"2")

        self.patch(os, "unlink", racing)
        self.records.delete("served", "a/latest")
        self.assertEqual(["a/latest"], self.records.keys("served", "a/"))

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(["set", "add", "delete"]), KEYS), max_size=20))
    def test_index_says_what_the_records_say(self, steps: list[tuple[str, str]]) -> None:
        """Any keys, set, added and deleted in any order."""
        shutil.rmtree(self.root / "records")
        self.now(self.storage.start())
        self.now(self.storage.complete_indexes())
        stored: set[str] = set()
        for action, key in steps:
            if action == "delete":
                self.records.delete("served", key)
                stored.discard(key)
            else:
                getattr(self.records, action)("served", key, b"x")
                stored.add(key)
        for first in {key.partition("/")[0] for _, key in steps}:
            expected = sorted(key for key in stored if key.partition("/")[0] == first)
            self.assertEqual(expected, self.records.keys("served", f"{first}/"))
        self.assertEqual(sorted(stored), self.records.keys("served", ""))
