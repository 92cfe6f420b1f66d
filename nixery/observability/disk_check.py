"""Checks whether a disk can be written, on worker threads."""

from __future__ import annotations

import os
import tempfile

from nixery.storage.errors import StorageUnavailable

__all__ = ["check_directory"]


def check_directory(path: str, temp_directory: str) -> None:
    """
    Check that files can be written in a directory.

    :param path: the directory, as messages name it.
    :param temp_directory: a directory on the same file system, in which a file can be created
        and removed.
    :raises StorageUnavailable: none can be: the disk is full, read-only or broken.
    """
    try:
        with tempfile.TemporaryFile(dir=temp_directory, buffering=0) as file:
            file.write(b"x" * 4096)
            # File systems that allocate late report only now that there is no space.
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageUnavailable(
            operation=f"write in {path}", reason=error.strerror or str(error)
        ) from error
