"""Tests for :mod:`nixery.popularity.reference_log`."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import StorageError
from nixery.popularity.errors import LogInUse
from nixery.popularity.reference_log import ReferenceLog

CACHE = "https://cache.example.org"
FOUND = {"a-1": ("b-1", "c-1"), "b-1": (), "c-1": ("b-1",)}


class LogTests(SynchronousTestCase):
    """Tests for :class:`ReferenceLog`."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()) / "popcount"

    def read(self, cache: str = CACHE) -> dict[str, tuple[str, ...]]:
        with ReferenceLog(self.directory, cache) as log:
            return log.read()

    def test_written_entries_are_read_the_next_time(self) -> None:
        """Entries that were written are there the next time, whatever is added."""
        with ReferenceLog(self.directory, CACHE) as log:
            self.assertEqual({}, log.read())
            log.append(FOUND)
        with ReferenceLog(self.directory, CACHE) as log:
            self.assertEqual(FOUND, log.read())
            log.append({"d-1": ("a-1",)})
        self.assertEqual(FOUND | {"d-1": ("a-1",)}, self.read())

    def test_a_cache_each(self) -> None:
        """Each cache has entries of its own."""
        with ReferenceLog(self.directory, CACHE) as log:
            log.read()
            log.append(FOUND)
        self.assertEqual({}, self.read("https://other.example.org"))

    def test_line_that_was_cut_short_anywhere_is_dropped(self) -> None:
        """A line that was cut short, anywhere, is dropped, and what follows is whole."""
        with ReferenceLog(self.directory, CACHE) as log:
            log.read()
            start = log.path.stat().st_size
            log.append(FOUND)
        whole = log.path.read_bytes()
        for length in range(len(whole)):
            log.path.write_bytes(whole[:length])
            with ReferenceLog(self.directory, CACHE) as log:
                known = log.read()
                self.assertEqual(whole[start:length].count(b"\n"), len(known))
                self.assertLessEqual(known.items(), FOUND.items())
                log.append({"z-1": ("a-1",)})
            self.assertEqual(known | {"z-1": ("a-1",)}, self.read())

    def test_one_at_a_time(self) -> None:
        """Two processes do not write into each other's lines."""
        with ReferenceLog(self.directory, CACHE):
            self.assertRaises(LogInUse, ReferenceLog(self.directory, CACHE).__enter__)
        self.assertEqual({}, self.read())

    def test_file_that_is_no_log_of_this_cache_is_left_alone(self) -> None:
        """A file that is no log of this cache is left alone."""
        with ReferenceLog(self.directory, CACHE) as log:
            log.read()
        log.path.write_text("nixery-references 2 https://cache.example.org\nx\n")
        error = self.assertRaises(StorageError, self.read)
        self.assertIn(str(log.path), error.message)
        self.assertIn("x\n", log.path.read_text())

    def test_place_that_cannot_be_written_is_told(self) -> None:
        """A place that cannot be written is told."""
        self.directory.parent.write_text("")
        self.assertRaises(StorageError, self.read)
