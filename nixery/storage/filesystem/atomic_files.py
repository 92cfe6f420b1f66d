"""
Creates files that appear whole or not at all.

A file is written under a temporary name, synchronised to the disk, and then linked or renamed
to its final path.  Everything here blocks, and is safe to use from many threads and
processes.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from errno import ENOENT
from itertools import count
from secrets import token_hex
from stat import S_IMODE
from threading import RLock
from types import TracebackType
from typing import Self

from nixery.errors import StorageError
from nixery.runtime.file_lock import open_locked
from nixery.storage.filesystem.files import FILE_MODE, failures, into_directory

__all__ = [
    "MAX_LINK_BYTES",
    "TempFile",
    "SymlinkRecord",
    "SmallTempFile",
    "small_temp_file",
    "sweep",
    "write_symlink_record",
]

MAX_PUBLISH_ATTEMPTS = 8
"""Maximum attempts to publish a file whose draft or directory is removed concurrently."""

MAX_LINK_BYTES = 1000
"""Maximum length of a symbolic link's target in bytes; XFS allows 1,023."""

_names = count()
_process = token_hex(12)

_unmasked: set[str] = set()
"""
The directories where the newest checked draft was created with the right mode.  The mode of a
blob's draft is checked anyway; small files that follow it are not checked.
"""


class TempFile:
    """
    A file that is being written under a temporary name (a draft).

    To publish it, :meth:`rename` it to its final path inside a ``with`` block, which
    ends the draft and removes whatever is left of it.  A draft that is dropped
    without an end is removed when the object is garbage-collected.

    One thread writes at a time.  Ending it from another thread is safe: it waits
    for a write in progress, and later writes fail.

    :param directory: a directory on the file system of the final path.
    :raises StorageError: the file cannot be created.
    """

    def __init__(self, directory: str) -> None:
        # Re-entrant, because publishing a draft ends it too.  It guards the
        # descriptor: once closed, its number may belong to any other file.
        self._lock = RLock()
        self._descriptor, self.path = _create_locked(directory)
        self._end = weakref.finalize(self, _remove, self._descriptor, self.path)
        self._unwanted = False
        self.size = 0

    def write(self, data: bytes, /) -> int:
        """
        Append ``data``.

        :return: its length: all of it is written.
        :raises StorageFull: there is no free space left.
        :raises StorageError: the system failed, or the draft has ended.
        """
        with self._lock, failures("write a file"):
            self._check()
            rest = memoryview(data)
            while rest:
                # May write a part only, after a signal or at the last free block.
                written = os.write(self._descriptor, rest)
                self.size += written
                rest = rest[written:]
        return len(data)

    def synchronise(self) -> None:
        """Wait until the written data are on the disk."""
        with self._lock:
            self._check()
            os.fsync(self._descriptor)

    def rename(self, target: str) -> None:
        """Publish it, replacing an existing file; this ends the draft."""
        with self._lock:
            self._check()
            into_directory(os.rename, self.path, target)
            # No file is left to be removed, only the descriptor to be closed.
            self._end.detach()
            with suppress(OSError):
                os.close(self._descriptor)

    def discard(self) -> None:
        """End the draft; harmless after an end.  Never raises."""
        with self._lock:
            self._end()

    def discard_soon(self) -> None:
        """
        End the draft without waiting for another thread that uses it.

        If there is one, its next step fails, and the draft ends when that thread
        releases the lock.
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


class SmallTempFile:
    """
    A small file that is written at once and published soon after, by one thread.

    It has no lock: a process that starts at this moment may sweep it.  Publishing
    notices that, and writes it again.

    It ends with its ``with`` block, as a :class:`TempFile` does.

    :raises OSError: it cannot be written.
    """

    def __init__(self, directory: str, data: bytes) -> None:
        self._directory = directory
        self._data = data
        self._descriptor: int | None = None
        self._write()

    def synchronise(self) -> None:
        """Wait until it is on the disk."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def link(self, target: str) -> None:
        """
        Publish it if the target does not exist.

        :raises FileExistsError: the target exists.
        """
        self._publish(os.link, target)

    def rename(self, target: str) -> None:
        """Publish it, replacing an existing target."""
        self._publish(os.rename, target)
        self._moved = True

    def discard(self) -> None:
        """End the draft.  Never raises."""
        if not self._moved:
            with suppress(OSError):
                os.unlink(self.path)
        # Close once only: afterwards its number may belong to any other file.
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    def _publish(self, step: Callable[[str, str], None], target: str) -> None:
        for _ in range(MAX_PUBLISH_ATTEMPTS):
            try:
                return into_directory(step, self.path, target)
            except FileNotFoundError:
                # Another process swept it; the descriptor refers to a file without a name.
                self.discard()
                self._write()
                self.synchronise()
        return into_directory(step, self.path, target)

    def _write(self) -> None:
        descriptor, self.path = _create(self._directory)
        self._descriptor, self._moved = descriptor, False
        try:
            if self._directory not in _unmasked:
                _correct_mode(descriptor, self._directory)
            rest = memoryview(self._data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except BaseException:
            self.discard()
            raise


class SymlinkRecord:
    """
    A short text that is published as the target of a symbolic link, which is never followed.

    Otherwise it is like :class:`SmallTempFile`, but cheaper: one call creates the link,
    atomically and only if nothing exists there, and one call reads it; a file takes five and
    three.  It is on the disk when its directory is, where a file has to be synchronised as well.
    Each layer has two of them, so the cost is noticeable: on ext4, publishing a link took 0.08 ms
    of processor time and 1 ms in all, a file 0.27 and 3.6, at the least; for other machines, run
    ``python -m tests.benchmarks.records``.
    """

    def __init__(self, directory: str, text: str) -> None:
        self._directory = directory
        self._text = text

    def synchronise(self) -> None:
        """Do nothing: nothing is written yet."""

    def link(self, target: str) -> None:
        """
        Publish it if the target does not exist.

        :raises FileExistsError: the target exists.
        """
        into_directory(os.symlink, self._text, target)

    def rename(self, target: str) -> None:
        """Publish it, replacing an existing target."""
        for _ in range(MAX_PUBLISH_ATTEMPTS):
            path = _new_path(self._directory)
            os.symlink(self._text, path)
            try:
                return into_directory(os.rename, path, target)
            except BaseException as error:
                with suppress(OSError):
                    os.unlink(path)
                if not isinstance(error, FileNotFoundError):
                    raise
                # Another process swept the link.
        raise FileNotFoundError(ENOENT, "it is removed each time", target)


def write_symlink_record(
    ends: ExitStack, directory: str, data: bytes
) -> SymlinkRecord | SmallTempFile:
    """
    Make the cheapest draft of ``data``: a link if possible, otherwise a file.

    :func:`nixery.storage.filesystem.files.read_note` reads either.

    :param ends: the stack whose exit ends the draft.
    :param directory: the directory of drafts.
    """
    if 0 < len(data) <= MAX_LINK_BYTES and data.isascii() and b"\0" not in data:
        return SymlinkRecord(directory, data.decode("ascii"))
    return ends.enter_context(SmallTempFile(directory, data))


def small_temp_file(directory: str, data: bytes) -> SmallTempFile:
    """Make a draft of ``data`` that is on the disk and ready to be published."""
    draft = SmallTempFile(directory, data)
    try:
        draft.synchronise()
    except BaseException:
        draft.discard()
        raise
    return draft


def sweep(directory: str) -> int:
    """
    Remove the drafts whose processes have died.

    :return: the number of removed drafts.
    """
    swept = 0
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        with suppress(OSError):  # ended meanwhile, locked, or no draft at all
            if os.path.islink(path):
                os.unlink(path)
                swept += 1
                continue
            descriptor = open_locked(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                os.unlink(path)
                swept += 1
            finally:
                os.close(descriptor)
    return swept


def _create(directory: str) -> tuple[int, str]:
    while True:
        path = _new_path(directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with suppress(FileExistsError):
            return os.open(path, flags, FILE_MODE), path


def _new_path(directory: str) -> str:
    # Unique to this process, also after a fork or in another PID namespace; and without
    # a system call for random bytes each time.
    return os.path.join(directory, f"{_process}-{os.getpid()}-{next(_names)}")


def _create_locked(directory: str) -> tuple[int, str]:
    with failures("create a file"):
        while True:
            path = _new_path(directory)
            try:
                descriptor = open_locked(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE)
            except (FileExistsError, BlockingIOError):
                continue
            try:
                if _correct_mode(descriptor, directory).st_nlink:
                    return descriptor, path
            except BaseException:
                _remove(descriptor, path)
                raise
            # Another process swept the file between creation and lock, as if its owner
            # were dead; this happens only when that process starts.
            os.close(descriptor)


def _correct_mode(descriptor: int, directory: str) -> os.stat_result:
    """Restore the mode bits that the umask removed from a new file, which is rare."""
    found = os.fstat(descriptor)
    if S_IMODE(found.st_mode) == FILE_MODE:
        _unmasked.add(directory)
    else:
        _unmasked.discard(directory)
        os.fchmod(descriptor, FILE_MODE)
    return found


def _remove(descriptor: int, path: str) -> None:
    # A published draft has no such path any more, or has a second name.  The lock is
    # released with the descriptor, so that no sweep finds the file unlocked in between.
    with suppress(OSError):
        os.unlink(path)
    with suppress(OSError):
        os.close(descriptor)
