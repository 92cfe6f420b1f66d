"""Listings of directories into which a live daemon writes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["statuses_below"]


def statuses_below(top: Path) -> Iterator[os.stat_result]:
    """
    Tell the status of each entry below a directory, without following links.

    Temporary files come and go while a daemon runs: an entry that is gone between the
    listing of its directory and the look at it is left out.

    :raises FileNotFoundError: there is no such directory.
    """
    os.lstat(top)
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            with contextlib.suppress(FileNotFoundError):
                yield os.lstat(os.path.join(directory, name))
