"""Tests for :mod:`nixery.runtime.state_lock`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import StorageError
from nixery.runtime.errors import StateDirectoryLocked
from nixery.runtime.state_lock import StateLock


class StateLockTests(SynchronousTestCase):
    """One daemon for one state directory."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()) / "deep" / "state"

    def test_while_one_has_the_directory_no_other_gets_it(self) -> None:
        """While one has the directory, no other gets it; then the next one does."""
        one, two = StateLock(self.directory), StateLock(self.directory)
        one.acquire()
        self.assertRaises(StateDirectoryLocked, two.acquire)
        one.release()
        two.acquire()
        two.release()

    def test_release_without_acquire(self) -> None:
        """Releasing a lock that was not acquired leaves its holder's lock in place."""
        one, two = StateLock(self.directory), StateLock(self.directory)
        one.acquire()
        self.assertRaises(StateDirectoryLocked, two.acquire)
        two.release()
        self.assertRaises(StateDirectoryLocked, two.acquire)
        one.release()

    def test_directory_is_for_its_owner_alone_whatever_the_umask(self) -> None:
        """The directory may hold keys and images that are not for everybody."""
        self.addCleanup(os.umask, os.umask(0))
        lock = StateLock(self.directory)
        lock.acquire()
        self.addCleanup(lock.release)
        self.assertEqual(stat.S_IMODE(self.directory.stat().st_mode), 0o700)

    def test_directory_that_others_can_read_is_warned_of_and_stays_as_it_is(self) -> None:
        """It may have been made by an earlier version, or be shared with others."""
        for mode, warnings in ((0o755, 1), (0o750, 0), (0o700, 0)):
            directory = self.directory / f"{mode:o}"
            directory.mkdir(parents=True)
            directory.chmod(mode)
            lock = StateLock(directory)
            with capturedLogs() as logs:
                lock.acquire()
            lock.release()
            self.assertEqual(mode, stat.S_IMODE(directory.stat().st_mode))
            shown = [formatEvent(event) for event in logs]
            self.assertEqual(warnings, sum("chmod 700" in text for text in shown), shown)

    def test_directory_that_cannot_be_made(self) -> None:
        """A directory that cannot be made is named, with the reason."""
        self.directory.parent.parent.mkdir()
        self.directory.parent.write_text("a file")
        error = self.assertRaises(StorageError, StateLock(self.directory).acquire)
        self.assertIn(str(self.directory), str(error))
        self.assertIn("Not a directory", str(error))
