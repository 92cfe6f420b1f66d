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
from nixery.storage.filesystem.files import FILE_MODE, publish_path, translate_os_errors

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
"""Maximum attempts to publish a file whose temporary file or directory is removed concurrently."""

MAX_LINK_BYTES = 1000
"""Maximum length of a symbolic link's target in bytes; XFS allows 1,023."""

_file_numbers = count()
_process_token = token_hex(12)

_directories_without_umask: set[str] = set()
"""
The directories where the newest checked temporary file was created with the right mode.  The mode
of a blob's temporary file is checked anyway; small files that follow it are not checked.
"""


class TempFile:
    """
    A file that is being written under a temporary name.

    To publish it, :meth:`rename` it to its final path inside a ``with`` block, which
    ends the temporary file and removes whatever is left of it.  A temporary file that is dropped
    without an end is removed when the object is garbage-collected.

    One thread writes at a time.  Ending it from another thread is safe: it waits
    for a write in progress, and later writes fail.

    :param directory: a directory on the file system of the final path.
    :raises StorageError: the file cannot be created.
    """

    def __init__(self, directory: str) -> None:
        # Re-entrant, because publishing a temporary file closes it too.  It guards the
        # descriptor: once closed, its number may belong to any other file.
        self._lock = RLock()
        self._descriptor, self.path = _create_locked(directory)
        self._finalizer = weakref.finalize(self, _remove, self._descriptor, self.path)
        self._discarded = False
        self.size = 0

    def write(self, data: bytes, /) -> int:
        """
        Append ``data``.

        :return: its length: all of it is written.
        :raises StorageFull: there is no free space left.
        :raises StorageError: the system failed, or the temporary file has ended.
        """
        with self._lock, translate_os_errors("write a file"):
            self._check()
            remaining = memoryview(data)
            while remaining:
                # May write a part only, after a signal or at the last free block.
                written = os.write(self._descriptor, remaining)
                self.size += written
                remaining = remaining[written:]
        return len(data)

    def synchronise(self) -> None:
        """Wait until the written data are on the disk."""
        with self._lock:
            self._check()
            os.fsync(self._descriptor)

    def rename(self, target: str) -> None:
        """Publish it, replacing an existing file; this ends the temporary file."""
        with self._lock:
            self._check()
            publish_path(os.rename, self.path, target)
            # No file is left to be removed, only the descriptor to be closed.
            self._finalizer.detach()
            with suppress(OSError):
                os.close(self._descriptor)

    def discard(self) -> None:
        """End the temporary file; harmless after an end.  Never raises."""
        with self._lock:
            self._finalizer()

    def discard_nowait(self) -> None:
        """
        End the temporary file without waiting for another thread that uses it.

        If there is one, its next step fails, and the temporary file ends when that thread
        releases the lock.
        """
        self._discarded = True
        if self._lock.acquire(blocking=False):
            try:
                self._finalizer()
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
        exception_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finalizer()
        self._lock.release()

    def _check(self) -> None:
        if self._discarded or not self._finalizer.alive:
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
        self._renamed = True

    def discard(self) -> None:
        """End the temporary file.  Never raises."""
        if not self._renamed:
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
        exception_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    def _publish(self, operation: Callable[[str, str], None], target: str) -> None:
        for _ in range(MAX_PUBLISH_ATTEMPTS):
            try:
                return publish_path(operation, self.path, target)
            except FileNotFoundError:
                # Another process swept it; the descriptor refers to a file without a name.
                self.discard()
                self._write()
                self.synchronise()
        return publish_path(operation, self.path, target)

    def _write(self) -> None:
        descriptor, self.path = _create(self._directory)
        self._descriptor, self._renamed = descriptor, False
        try:
            if self._directory not in _directories_without_umask:
                _correct_mode(descriptor, self._directory)
            remaining = memoryview(self._data)
            while remaining:
                remaining = remaining[os.write(descriptor, remaining) :]
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
        publish_path(os.symlink, self._text, target)

    def rename(self, target: str) -> None:
        """Publish it, replacing an existing target."""
        for _ in range(MAX_PUBLISH_ATTEMPTS):
            path = _new_path(self._directory)
            os.symlink(self._text, path)
            try:
                return publish_path(os.rename, path, target)
            except BaseException as error:
                with suppress(OSError):
                    os.unlink(path)
                if not isinstance(error, FileNotFoundError):
                    raise
                # Another process swept the link.
        raise FileNotFoundError(ENOENT, "it is removed each time", target)


def write_symlink_record(
    exit_stack: ExitStack, directory: str, data: bytes
) -> SymlinkRecord | SmallTempFile:
    """
    Make the cheapest temporary file of ``data``: a link if possible, otherwise a file.

    :func:`nixery.storage.filesystem.files.read_note` reads either.

    :param exit_stack: the stack whose exit ends the temporary file.
    :param directory: the directory of temporary files.
    """
    if 0 < len(data) <= MAX_LINK_BYTES and data.isascii() and b"\0" not in data:
        return SymlinkRecord(directory, data.decode("ascii"))
    return exit_stack.enter_context(SmallTempFile(directory, data))


def small_temp_file(directory: str, data: bytes) -> SmallTempFile:
    """Make a temporary file of ``data`` that is on the disk and ready to be published."""
    temp_file = SmallTempFile(directory, data)
    try:
        temp_file.synchronise()
    except BaseException:
        temp_file.discard()
        raise
    return temp_file


def sweep(directory: str) -> int:
    """
    Remove the temporary files whose processes have died.

    :return: the number of removed temporary files.
    """
    swept = 0
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        with suppress(OSError):  # ended meanwhile, locked, or no temporary file at all
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
    return os.path.join(directory, f"{_process_token}-{os.getpid()}-{next(_file_numbers)}")


def _create_locked(directory: str) -> tuple[int, str]:
    with translate_os_errors("create a file"):
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
    status = os.fstat(descriptor)
    if S_IMODE(status.st_mode) == FILE_MODE:
        _directories_without_umask.add(directory)
    else:
        _directories_without_umask.discard(directory)
        os.fchmod(descriptor, FILE_MODE)
    return status


def _remove(descriptor: int, path: str) -> None:
    # A published temporary file has no such path any more, or has a second name.  The lock is
    # released with the descriptor, so that no sweep finds the file unlocked in between.
    with suppress(OSError):
        os.unlink(path)
    with suppress(OSError):
        os.close(descriptor)
