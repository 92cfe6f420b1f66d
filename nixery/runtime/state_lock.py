"""
Locks a state directory, so that only one daemon uses it.

The storage is made for several processes at once, the rest of the state is not: a daemon that
starts drops all garbage collection roots that it finds, and would drop those that the builds of
another daemon need.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from twisted.logger import Logger

from nixery.errors import StorageError
from nixery.runtime.errors import StateDirectoryLocked
from nixery.runtime.file_lock import open_locked

__all__ = ["StateLock"]


class StateLock:
    """
    Holds a state directory for this process.

    The lock ends with the process, even if that is killed, and children do not inherit it. Both
    methods block.
    """

    _log = Logger()

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """
        Make the directory, if it is missing, for its owner alone, and lock it.

        :raises StateDirectoryLocked: another process has it.
        :raises StorageError: it cannot be made or written.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._warn_if_open()
            self._descriptor = open_locked(self._directory / "lock")
        except BlockingIOError as error:
            raise StateDirectoryLocked(directory=str(self._directory)) from error
        except OSError as error:
            raise StorageError(
                operation=f"use the state directory {self._directory}",
                reason=error.strerror or str(error),
            ) from error

    def _warn_if_open(self) -> None:
        # Not changed: it may be a directory that others use as well, as one of the system's.
        if self._directory.stat().st_mode & (stat.S_IROTH | stat.S_IXOTH):
            self._log.warn(
                "Anyone on this machine can read the state directory {path}, with the images of"
                " all users: make it private with chmod 700.",
                path=self._directory,
            )

    def release(self) -> None:
        """Release the lock; harmless if it was never taken."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
