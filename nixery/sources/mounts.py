"""
Watch the mount table, and tell file systems whose changes are all seen by this machine.

A mount changes what is at a path without any event for the directories there.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

__all__ = ["Mount", "MountTable", "file_system", "read_mounts"]

MOUNTS = Path("/proc/self/mountinfo")

_LOCAL = {
    0xEF53: "ext4",
    0x58465342: "XFS",
    0x9123683E: "Btrfs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0xF2F52010: "F2FS",
    0xCA451A4E: "bcachefs",
    0x3153464A: "JFS",
    0x52654973: "ReiserFS",
    0x73717368: "SquashFS",
    0xE0F5E1E2: "EROFS",
}
"""
File systems whose files change by system calls of this machine alone, which all make events.

ZFS is not one: a roll-back changes the files of a mounted data set without an event.
"""

_OTHERS = {
    0x6969: "NFS",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB",
    0x65735546: "FUSE",
    0x01021997: "9p",
    0x794C7630: "overlayfs",
    0x2FC12FC1: "ZFS",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x0187: "autofs",
}

_libc = ctypes.CDLL(None, use_errno=True)


@frozen
class Mount:
    """
    A line of the mount table.

    :param identity: the numbers of the mount, its parent and its device, and its root in there.
    :param point: the path of this machine that it is mounted at.
    """

    identity: bytes
    point: bytes


class MountTable:
    """
    Tells that mounts have changed.

    :raises OSError: there is no mount table.
    """

    def __init__(self) -> None:
        self._file = MOUNTS.open("rb", buffering=0)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)

    def changed(self) -> bool:
        """Return true if anything was mounted or unmounted since the last call."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        self._file.close()


def read_mounts() -> Sequence[Mount]:
    """
    Return all mounts, in their order.

    :raises OSError: there is no mount table.
    """
    mounts = []
    for line in MOUNTS.read_bytes().splitlines():
        identity, parent, device, root, point, *_ = line.split(b" ")
        mounts.append(Mount(b" ".join((identity, parent, device, root)), _unescape(point)))
    return mounts


def file_system(path: bytes) -> tuple[str, bool]:
    """
    Return the name of the file system that a file is in, and whether all changes make events.

    :raises OSError: the file does not exist.
    """
    buffer = ctypes.create_string_buffer(512)
    if _libc.statfs(path, buffer) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path)
    # The type is the first field: a word, on s390x half of one.
    size = 4 if os.uname().machine == "s390x" else ctypes.sizeof(ctypes.c_long)
    number = int.from_bytes(buffer.raw[:size], sys.byteorder) & 0xFFFFFFFF
    if number in _LOCAL:
        return _LOCAL[number], True
    return _OTHERS.get(number, f"of the type {number:#x}"), False


def _unescape(text: bytes) -> bytes:
    """Undo the escapes of blanks, newlines and backslashes."""
    for letter in b" \t\n#":
        text = text.replace(b"\\%03o" % letter, bytes((letter,)))
    return text.replace(rb"\134", b"\\")
