"""
Basic operations of the storage on files and directories.

Each handles a hazard of the operating system.  Everything here blocks, and is safe to use
from many threads and processes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from nixery.errors import StorageError
from nixery.storage.errors import StorageFull
from nixery.storage.rules import check_small

__all__ = [
    "translate_os_errors",
    "publish_path",
    "make_directories",
    "make_directory",
    "read_file",
    "read_symlink_record",
    "synchronise_directory",
]

DIRECTORY_MODE = 0o750
FILE_MODE = 0o640


@contextmanager
def translate_os_errors(operation: str) -> Iterator[None]:
    """
    Turn errors of the operating system into errors of the storage.

    :param operation: the operation, as a verb phrase.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = f" ({error.filename})" if error.filename is not None else ""
        raise (StorageFull if full else StorageError)(
            operation=operation, reason=f"{error.strerror or error}{where}"
        ) from error


def read_file(path: str, flags: int = 0) -> bytes:
    """
    Read a small file.

    :param flags: further flags to open it with.
    :raises StorageError: it is too large to be held in memory.
    """
    # A file object would call fstat twice more, and read once more at the end.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        size = os.fstat(descriptor).st_size
        check_small(f"read {path}", size)
        data = os.read(descriptor, size)
        while len(data) < size and (chunk := os.read(descriptor, size - len(data))):
            data += chunk
        return data
    finally:
        os.close(descriptor)


def read_symlink_record(path: str) -> bytes:
    """
    Read what :func:`.atomic_files.write_symlink_record` has written.

    It is the target of a symbolic link, or the content of a file, which older versions always
    used.

    :raises FileNotFoundError: ``path`` does not exist.
    :raises StorageError: it is too large to be held in memory.
    """
    while True:
        try:
            return os.fsencode(os.readlink(path))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        try:
            return read_file(path, os.O_NOFOLLOW)
        except OSError as error:
            # A link has replaced the file since.
            if error.errno != errno.ELOOP:
                raise


def publish_path(operation: Callable[[str, str], None], path: str, target: str) -> None:
    """
    Link or rename ``path`` to ``target``, whose directory is created if it is missing.

    :raises FileNotFoundError: ``path`` does not exist.
    """
    try:
        operation(path, target)
    except FileNotFoundError:
        # Rare: the directory is not checked beforehand, to save a call each time.
        make_directory(os.path.dirname(target))
        operation(path, target)


def make_directory(path: str) -> None:
    """Create a directory durably, unless it exists; its parent has to exist."""
    make_directories(os.path.dirname(path), [os.path.basename(path)])


def make_directories(parent: str, names: Iterable[str]) -> None:
    """Create directories inside one directory durably, except for existing ones."""
    created = False
    for name in names:
        path = os.path.join(parent, name)
        try:
            os.mkdir(path, DIRECTORY_MODE)
        except FileExistsError:
            continue
        os.chmod(path, DIRECTORY_MODE)  # restore the bits that the umask removed
        created = True
    if created:
        synchronise_directory(parent)


def synchronise_directory(path: str) -> None:
    """Wait until the names in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
