"""Tests for :mod:`tests.listing`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from stat import S_ISLNK

from twisted.trial.unittest import SynchronousTestCase

from tests.listing import statuses_below


class StatusesBelowTests(SynchronousTestCase):
    """The statuses of what is below a directory."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.top = Path(directory.name)

    def test_entries_at_all_depths_are_told_and_links_are_not_followed(self) -> None:
        """Entries at all depths are told; links are not followed."""
        (self.top / "a" / "b").mkdir(parents=True)
        (self.top / "a" / "b" / "file").touch()
        (self.top / "link").symlink_to("nowhere")
        statuses = list(statuses_below(self.top))
        self.assertEqual(4, len(statuses))
        self.assertEqual(1, sum(S_ISLNK(status.st_mode) for status in statuses))

    def test_file_that_goes_meanwhile_is_left_out(self) -> None:
        """A file that goes between the listing and the look at it is left out."""
        for name in ("one", "two"):
            (self.top / name).touch()
        statuses = statuses_below(self.top)
        first = next(statuses)
        for name in ("one", "two"):
            if (self.top / name).lstat().st_ino != first.st_ino:
                (self.top / name).unlink()
        self.assertEqual([], list(statuses))

    def test_directory_that_is_not_there_is_an_error(self) -> None:
        """A directory that is not there is an error, not an empty one."""
        self.assertRaises(FileNotFoundError, lambda: list(statuses_below(self.top / "none")))
        self.assertTrue(os.path.isdir(self.top))
