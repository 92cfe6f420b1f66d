"""Tests for :mod:`nixery.runtime.file_lock`."""

from __future__ import annotations

import contextlib
import os

from twisted.trial.unittest import SynchronousTestCase

from nixery.runtime.file_lock import open_locked


class OpenLockedTests(SynchronousTestCase):
    """Locks of one file, by descriptors of one process."""

    def setUp(self) -> None:
        self.path = self.mktemp()

    def lock(self, *, shared: bool = False) -> int:
        descriptor = open_locked(self.path, shared=shared)
        self.addCleanup(self._close, descriptor)
        return descriptor

    def _close(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):  # the test has closed it
            os.close(descriptor)

    @staticmethod
    def _open() -> set[int]:
        return {int(name) for name in os.listdir("/proc/self/fd")}

    def test_exclusive_lock_keeps_others_out_until_its_descriptor_is_closed(self) -> None:
        """An exclusive lock keeps others out until its descriptor is closed."""
        descriptor = self.lock()
        self.assertRaises(BlockingIOError, self.lock)
        os.close(descriptor)
        self.lock()

    def test_shared_locks_go_together_and_keep_an_exclusive_one_out(self) -> None:
        """Shared locks go together, and keep an exclusive one out."""
        first, second = self.lock(shared=True), self.lock(shared=True)
        self.assertRaises(BlockingIOError, self.lock)
        os.close(first)
        self.assertRaises(BlockingIOError, self.lock)
        os.close(second)
        self.lock()

    def test_lock_that_cannot_be_had_leaves_no_descriptor_open(self) -> None:
        """A lock that cannot be had leaves no descriptor open."""
        self.lock()
        before = self._open()
        self.assertRaises(BlockingIOError, self.lock)
        self.assertEqual(before, self._open())

    def test_children_do_not_inherit_the_lock(self) -> None:
        """Children do not inherit the lock."""
        self.assertFalse(os.get_inheritable(self.lock()))
        other = open_locked(self.mktemp(), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self.assertFalse(os.get_inheritable(other))
        os.close(other)
