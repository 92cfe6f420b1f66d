"""
Locks files, between processes and between threads.

A lock belongs to a descriptor: it ends when that is closed, or its process dies.
Children do not inherit it.
"""

from __future__ import annotations

import fcntl
import os

__all__ = ["open_locked"]

CREATE = os.O_RDWR | os.O_CREAT


def open_locked(
    path: str | os.PathLike[str], flags: int = CREATE, mode: int = 0o644, *, shared: bool = False
) -> int:
    """
    Open a file and lock it.

    :param flags: as :func:`os.open` takes them.
    :param mode: of a file that is created.
    :param shared: whether others may hold a shared lock as well. A shared lock waits for as long as
        an exclusive one is held; a request for an exclusive lock never waits.
    :return: the descriptor.
    :raises BlockingIOError: another descriptor holds a lock.
    :raises OSError: the file cannot be opened or locked.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
