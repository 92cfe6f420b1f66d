"""
What is asked of a disk before it is said to be ready: on worker threads.
"""

from __future__ import annotations

import os
import tempfile

from nixery.storage.errors import StorageUnavailable

__all__ = ["check_directory"]


def check_directory(path: str, drafts: str) -> None:
    """
    Find out whether files can be written in a directory.

    :param path: the directory, as a message calls it.
    :param drafts: where a file can be made and removed again, on the same file system.
    :raises StorageUnavailable: none can be: the disk is full, read-only or broken.
    """
    try:
        with tempfile.TemporaryFile(dir=drafts, buffering=0) as file:
            file.write(b"x" * 4096)
            # File systems that allocate late find out now that there is no room.
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageUnavailable(
            operation=f"write in {path}", reason=error.strerror or str(error)
        ) from error
