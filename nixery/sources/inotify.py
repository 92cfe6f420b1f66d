"""
Read file system events from the kernel: inotify(7).

:mod:`twisted.internet.inotify` does not serve where a lost event is a wrong answer: it ignores the
event that says that others were lost, stops altogether when a watched directory is deleted, and
raises errors that do not tell a missing file from a limit of the system.

An event is queued before the system call that caused it returns, so a reader of the queue has
all changes that ended before.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import termios
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "IN_ATTRIB",
    "IN_CLOSE_WRITE",
    "IN_CREATE",
    "IN_DELETE",
    "IN_DELETE_SELF",
    "IN_DONT_FOLLOW",
    "IN_IGNORED",
    "IN_MASK_ADD",
    "IN_MODIFY",
    "IN_MOVED_FROM",
    "IN_MOVED_TO",
    "IN_MOVE_SELF",
    "IN_ONLYDIR",
    "IN_Q_OVERFLOW",
    "IN_UNMOUNT",
    "Event",
    "Inotify",
]

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x1000000
IN_DONT_FOLLOW = 0x2000000
IN_MASK_ADD = 0x20000000

_HEADER = struct.Struct("=iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """
    An event of the kernel.

    :param watch: the number of the watch, -1 for a lost event.
    :param mask: what has happened.
    :param cookie: connects the two events of a rename.
    :param name: the entry of the watched directory; empty if it happened to what is watched.
    """

    watch: int
    mask: int
    cookie: int
    name: bytes


class Inotify:
    """
    A queue of events.

    :raises OSError: there are too many, or the system has none.
    """

    def __init__(self) -> None:
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        """Return the file descriptor, which is readable while there are events."""
        return self._fd

    def add(self, path: bytes, mask: int) -> int:
        """
        Watch a file or a directory, without what is below it; may be called on any thread.

        :return: the number of the watch, which belongs to the inode: another path of the same file
            has the same.
        :raises OSError: it cannot be watched.
        """
        return _checked(_libc.inotify_add_watch(self._fd, path, mask), path)

    def read(self) -> Sequence[Event]:
        """Return the events that are queued now, without waiting for others."""
        size = bytearray(4)
        fcntl.ioctl(self._fd, termios.FIONREAD, size)
        (available,) = struct.unpack("=i", size)
        if not available:
            return ()
        data = os.read(self._fd, available)
        events = []
        at = 0
        while at < len(data):
            watch, mask, cookie, length = _HEADER.unpack_from(data, at)
            at += _HEADER.size
            events.append(Event(watch, mask, cookie, data[at : at + length].rstrip(b"\0")))
            at += length
        return events

    def close(self) -> None:
        """Remove all watches; takes a while if there are many."""
        os.close(self._fd)


def _checked(result: int, path: bytes | None = None) -> int:
    """
    Return the result of a system call.

    :raises OSError: it failed.
    """
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path)
    return result
