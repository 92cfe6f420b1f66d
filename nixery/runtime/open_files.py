"""The limit of files that this process may have open."""

from __future__ import annotations

import resource

__all__ = ["WANTED_FILES", "raise_open_files"]

WANTED_FILES = 65536
"""As many as connections need by default, and a reserve."""


def raise_open_files() -> int:
    """
    Raise the limit of open files as far as the system permits, up to what the daemon may need; some
    systems begin with a thousand, for the sake of old programs.

    :return: the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return WANTED_FILES if soft == resource.RLIM_INFINITY else soft
