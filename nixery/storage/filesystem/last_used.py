"""
Records the time of a blob's last use.

A garbage collection needs to know what was pulled recently, a restart must not lose this,
and it must cost a pull next to nothing.  So the time of last use is the modification time of
a blob's file: blobs never change, and nothing else needs that field.  A lookup of a blob
reads its old time anyway, and sets a new one only if it is more than
:data:`RESOLUTION_SECONDS` old: one cheap change of an inode every ten minutes for a blob,
however often it is pulled.  It is not synchronised, and a power failure loses the
last half minute of changes, which :data:`RESOLUTION_SECONDS` covers.

The daemon looks up all blobs of an image before it answers with its manifest, every
few seconds at most (``RECHECK_INTERVAL_SECONDS`` of :mod:`nixery.builds.image_cache`), so that a
pull by tag is recorded without another step; a fetch of a blob by its digest is recorded by itself.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from nixery.runtime.clocks import SystemWallClock

__all__ = ["RESOLUTION_SECONDS", "record_use"]

_clock = SystemWallClock()

RESOLUTION_SECONDS = 600.0
"""Maximum seconds by which a blob's recorded time may be older than its last use."""


def record_use(target: int | str, status: os.stat_result) -> None:
    """
    Record that a blob is being used.

    :param target: its file, as a path or an open descriptor.
    :param status: the result of ``stat`` on it just now.
    :raises FileNotFoundError: it has been removed since.
    """
    # A clock that was wrong leaves times in the future: those are corrected too.
    if abs(_clock.now() - status.st_mtime) > RESOLUTION_SECONDS:
        # Files on a read-only mount, or of another user, can still be served, and nothing is
        # collected there.
        with suppress(PermissionError):
            try:
                os.utime(target)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
