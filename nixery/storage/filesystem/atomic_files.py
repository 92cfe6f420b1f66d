"""
Files that appear whole or not at all.

A file is written where nobody looks, brought to the disk, and then linked or renamed
to its place.  Everything here blocks, and is safe to use from many threads and
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
    "LONGEST_LINK",
    "TempFile",
    "SymlinkRecord",
    "SmallTempFile",
    "small_temp_file",
    "sweep",
    "write_symlink_record",
]

ATTEMPTS = 8
"""How often a file is published whose draft or directory somebody else removes at once."""

LONGEST_LINK = 1000
"""The longest target of a symbolic link, in bytes; XFS takes 1,023."""

_names = count()
_process = token_hex(12)

_unmasked: set[str] = set()
"""
The directories where the newest draft got its mode as it was made.  Each draft of a blob
is looked at anyway, and the small files that follow it are spared the look.
"""


class TempFile:
    """
    A file that is being written under a name of its own and that nobody looks at.

    To publish it, :meth:`rename` it to its place inside a ``with`` block, which
    ends the draft and removes whatever is left of it.  A draft that is dropped
    without an end is removed when it is collected.

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

    def rename(self, target: str) -> None:
        """Publish it over whatever is there, which ends it."""
        with self._lock:
            self._check()
            into_directory(os.rename, self.path, target)
            # Nothing is left to be removed, only the descriptor to be closed.
            self._end.detach()
            with suppress(OSError):
                os.close(self._descriptor)

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


class SmallTempFile:
    """
    A small file that is written at once and published in a moment, by one thread.

    It bears no lock: a process that starts just now may sweep it away, which shows
    when it is published, and it is written again then.

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
        Publish it if nothing is there.

        :raises FileExistsError: something is.
        """
        self._publish(os.link, target)

    def rename(self, target: str) -> None:
        """Publish it over whatever is there."""
        self._publish(os.rename, target)
        self._moved = True

    def discard(self) -> None:
        """End the draft.  Never raises."""
        if not self._moved:
            with suppress(OSError):
                os.unlink(self.path)
        # Once only: afterwards its number may be that of any other file.
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
        for _ in range(ATTEMPTS):
            try:
                return into_directory(step, self.path, target)
            except FileNotFoundError:
                # Swept.  Its descriptor leads to a file without a name.
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
    A short text that is published as the target of a symbolic link, which leads nowhere.

    As :class:`SmallTempFile` otherwise, and cheaper: one call makes the link, whole and only
    where there is nothing, and one reads it; a file takes five and three.  There are two
    of them to each layer, and what they cost is felt.  It is on the disk when its
    directory is.
    """

    def __init__(self, directory: str, text: str) -> None:
        self._directory = directory
        self._text = text

    def synchronise(self) -> None:
        """Nothing is written yet."""

    def link(self, target: str) -> None:
        """
        Publish it if nothing is there.

        :raises FileExistsError: something is.
        """
        into_directory(os.symlink, self._text, target)

    def rename(self, target: str) -> None:
        """Publish it over whatever is there."""
        for _ in range(ATTEMPTS):
            path = _new_path(self._directory)
            os.symlink(self._text, path)
            try:
                return into_directory(os.rename, path, target)
            except BaseException as error:
                with suppress(OSError):
                    os.unlink(path)
                if not isinstance(error, FileNotFoundError):
                    raise
                # It was swept.
        raise FileNotFoundError(ENOENT, "it is removed each time", target)


def write_symlink_record(
    ends: ExitStack, directory: str, data: bytes
) -> SymlinkRecord | SmallTempFile:
    """
    The cheapest draft of ``data``; :func:`nixery.storage.filesystem.files.read_note` reads either.

    :param ends: where it ends.
    :param directory: where drafts are made.
    """
    if 0 < len(data) <= LONGEST_LINK and data.isascii() and b"\0" not in data:
        return SymlinkRecord(directory, data.decode("ascii"))
    return ends.enter_context(SmallTempFile(directory, data))


def small_temp_file(directory: str, data: bytes) -> SmallTempFile:
    """A draft of ``data``, on the disk and ready to be published."""
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

    :return: how many.
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
    # Of this process alone, whether it was forked or lives in another namespace of
    # process numbers; and no random bytes are asked of the system each time.
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
            # The sweep of another process came between creation and lock and
            # took the file for a dead one's; it happens at its start only.
            os.close(descriptor)


def _correct_mode(descriptor: int, directory: str) -> os.stat_result:
    """Give a new file back what the umask took, which it seldom does."""
    found = os.fstat(descriptor)
    if S_IMODE(found.st_mode) == FILE_MODE:
        _unmasked.add(directory)
    else:
        _unmasked.discard(directory)
        os.fchmod(descriptor, FILE_MODE)
    return found


def _remove(descriptor: int, path: str) -> None:
    # A published draft has no such path any more, or a second name for it.  The
    # lock ends with the descriptor, so that no sweep meets the file in between.
    with suppress(OSError):
        os.unlink(path)
    with suppress(OSError):
        os.close(descriptor)
