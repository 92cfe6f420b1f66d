"""Make and remove directories of garbage collection roots.  All functions block."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from nixery.nix.errors import NixDiskFull, NixUnusable

__all__ = ["make_directories", "remove_all", "remove_directory"]


def make_directories(*directories: Path) -> None:
    """
    Make directories, with their parents.

    :raises NixDiskFull: the disk is full.
    :raises NixUnusable: one cannot be made.
    """
    for directory in directories:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NixDiskFull(reason=f"{directory} cannot be made: {error.strerror}") from error
            raise NixUnusable(reason=f"{directory} cannot be made: {error.strerror}") from error


def remove_directory(directory: Path) -> None:
    """Remove a directory with all that is in it, if there is one."""
    if directory.exists():
        shutil.rmtree(directory)


def remove_all(directory: Path) -> int:
    """
    Remove all directories in a directory.

    :return: the number of directories that were removed.
    """
    if not directory.exists():
        return 0
    entries = list(directory.iterdir())
    for entry in entries:
        shutil.rmtree(entry)
    return len(entries)
