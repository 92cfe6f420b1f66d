"""
Find names in store paths that a layer cannot have.

Packing refuses such names too (:mod:`nixery.layers.tarball`).  It comes to each layer at another
time, when others are stored, and not at all to a layer that is stored already.

Blocking.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from nixery.layers.errors import MissingPath, ReservedName
from nixery.layers.tarball import STORE, WHITEOUT_PREFIX, name_in_store, printable

__all__ = ["check_names"]


def check_names(paths: Iterable[str], *, store: str = STORE) -> None:
    """
    Check the names of all files in store paths.

    :param store: the directory of this machine that holds the store paths.
    :raises ReservedName: a layer cannot have one of the names.
    :raises MissingPath: a store path cannot be read.
    """
    top = os.fsencode(store)
    for path in sorted(paths):
        source = top + b"/" + name_in_store(path)
        found = _find_reserved_name(source) if not os.path.islink(source) else None
        if found is not None:
            raise ReservedName(path=f"{path}{printable(found[len(source) :])}")


def _find_reserved_name(top: bytes) -> bytes | None:
    """Return the first path below ``top`` with a reserved name, in the order of an archive."""
    if not os.path.isdir(top):
        return None
    pending = [top]
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(directory) as entries:
                found = sorted(
                    (entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries
                )
        except OSError as error:
            raise MissingPath(
                path=printable(directory), reason=error.strerror or str(error)
            ) from error
        for name, _ in found:
            if name.startswith(WHITEOUT_PREFIX):
                return directory + b"/" + name
        pending += [directory + b"/" + name for name, is_directory in found[::-1] if is_directory]
    return None
