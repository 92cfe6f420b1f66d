"""
When a blob was used last.

A collection has to know what was pulled lately, a restart must not forget it, and a
pull must not pay for it.  So the time of last use is the modification time of a
blob's file: blobs never change, and nothing else needs that field.  Whoever looks a
blob up has its old time in hand, and sets a new one only where it is more than
:data:`RESOLUTION` old: one cheap change of an inode every ten minutes for a blob
however often it is pulled.  It is not synchronised, and a power failure loses the
last half minute of it, which :data:`RESOLUTION` covers.

The daemon looks for all blobs of an image before it answers with its manifest, every
few seconds at most (``blob_recheck``), so that a pull by tag is noted without another
step; a blob that is fetched by its digest is noted by itself.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from nixery.runtime.clocks import SystemWallClock

__all__ = ["RESOLUTION", "note_use"]

_clock = SystemWallClock()

RESOLUTION = 600.0
"""How much older than the last use a blob's time may be, in seconds."""


def note_use(target: int | str, seen: os.stat_result) -> None:
    """
    A blob is being used.

    :param target: its file, as a path or an open descriptor.
    :param seen: what was found there just now.
    :raises FileNotFoundError: it has been removed since.
    """
    # A clock that was wrong once leaves times in the future: those are put right too.
    if abs(_clock.now() - seen.st_mtime) > RESOLUTION:
        # A disk that is mounted read-only, or files of somebody else, can be served from
        # all the same, and nothing is collected there.
        with suppress(PermissionError):
            try:
                os.utime(target)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
