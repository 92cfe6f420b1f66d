"""
Files that appear whole or not at all.

What blobs and records need of the operating system, each with the hazard it
guards against.  Everything here blocks, and is safe to use from many
threads and processes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from secrets import token_hex
from threading import RLock
from types import TracebackType
from typing import Self

from nixery.errors import StorageError, StorageFull
from nixery.storage import check_small

__all__ = [
    "Draft",
    "failures",
    "make_directory",
    "read_file",
    "small_draft",
    "sweep",
    "synchronise_directory",
]

DIRECTORY_MODE = 0o750
FILE_MODE = 0o640


class Draft:
    """
    A file that is being written under a random name and that nobody looks at.

    To publish it, link or rename :attr:`path` to its place inside a ``with``
    block, which ends the draft and removes whatever is left of it.  A draft that
    is dropped without an end is removed when it is collected.

    One thread writes at a time.  Ending it from another thread is safe: it waits
    for a write in progress, and later writes fail.

    :param directory: on the file system of the place it will be published at.
    :raises StorageError: the file cannot be made.
    """

    def __init__(self, directory: str) -> None:
        # Re-entrant, because whoever publishes a draft ends it too.  It guards
        # the descriptor: once closed, its number may be that of any other file.
        self._lock = RLock()
        self._descriptor, self.path = _create_locked(directory)
        self._end = weakref.finalize(self, _remove, self._descriptor, self.path)
        self._unwanted = False
        self.size = 0

    def write(self, data: bytes, /) -> int:
        """
        Append ``data``.

        :return: its length: all of it is taken.
        :raises StorageFull: there is no room left.
        :raises StorageError: the system failed, or the draft has ended.
        """
        with self._lock, failures("write a file"):
            self._check()
            rest = memoryview(data)
            while rest:
                # May take a part only, at a signal or the last free block.
                written = os.write(self._descriptor, rest)
                self.size += written
                rest = rest[written:]
        return len(data)

    def synchronise(self) -> None:
        """Wait until what was written is on the disk."""
        with self._lock:
            self._check()
            os.fsync(self._descriptor)

    def discard(self) -> None:
        """End the draft; harmless after an end.  Never raises."""
        with self._lock:
            self._end()

    def discard_soon(self) -> None:
        """
        End the draft without waiting for another thread that is at it.

        If there is one, its next step fails, and the draft ends when that thread
        lets go of it.
        """
        self._unwanted = True
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def __enter__(self) -> Self:
        self._lock.acquire()
        try:
            self._check()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()
        self._lock.release()

    def _check(self) -> None:
        if self._unwanted or not self._end.alive:
            raise StorageError(operation="write a file", reason="it was ended before")


@contextmanager
def failures(operation: str) -> Iterator[None]:
    """
    Turn errors of the operating system into those of the storage.

    :param operation: what is being done, as a verb phrase.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = f" ({error.filename})" if error.filename is not None else ""
        raise (StorageFull if full else StorageError)(
            operation=operation, reason=f"{error.strerror or error}{where}"
        ) from error


def small_draft(directory: str, data: bytes) -> Draft:
    """A draft of ``data``, on the disk and ready to be published."""
    draft = Draft(directory)
    try:
        draft.write(data)
        draft.synchronise()
    except BaseException:
        draft.discard()
        raise
    return draft


def read_file(path: str) -> bytes:
    """:raises StorageError: it is too large to be held in memory."""
    with open(path, "rb", buffering=0) as file:
        check_small(f"read {path}", os.fstat(file.fileno()).st_size)
        return file.read()


def make_directory(path: str) -> None:
    """Make a directory durably, unless it is there; its parent has to be."""
    try:
        os.mkdir(path, DIRECTORY_MODE)
    except FileExistsError:
        return
    os.chmod(path, DIRECTORY_MODE)  # what the umask took
    synchronise_directory(os.path.dirname(path))


def synchronise_directory(path: str) -> None:
    """Wait until the names in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(directory: str) -> int:
    """
    Remove the drafts whose processes have died.

    :return: how many.
    """
    swept = 0
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        with suppress(OSError):  # ended meanwhile, locked, or no draft at all
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
                swept += 1
            finally:
                os.close(descriptor)
    return swept


def _create_locked(directory: str) -> tuple[int, str]:
    with failures("create a file"):
        while True:
            path = os.path.join(directory, token_hex(16))
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(path, flags, FILE_MODE)
            try:
                os.fchmod(descriptor, FILE_MODE)  # what the umask took
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:
                    return descriptor, path
            except BlockingIOError:
                pass
            except BaseException:
                _remove(descriptor, path)
                raise
            # The sweep of another process came between creation and lock and
            # took the file for a dead one's; it happens at its start only.
            os.close(descriptor)


def _remove(descriptor: int, path: str) -> None:
    # A published draft has no such path any more, or a second name for it.  The
    # lock ends with the descriptor, so that no sweep meets the file in between.
    with suppress(OSError):
        os.unlink(path)
    with suppress(OSError):
        os.close(descriptor)
