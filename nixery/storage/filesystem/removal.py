"""
Makes blobs absent that a garbage collection or a repair removes.

A blob is moved to the directory of temporary files while the lock is held, and deleted after that:
see :mod:`nixery.storage.filesystem.garbage_collector`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from secrets import token_hex

from nixery.image.names import Digest
from nixery.runtime.clocks import WallTime
from nixery.storage.filesystem.blobs import DESCRIPTION
from nixery.storage.filesystem.scan import BlobFile, Inventory

__all__ = [
    "delete_files",
    "is_unchanged",
    "move_aside",
    "move_to_temp",
    "move_unchanged_to_temp",
]


def move_aside(inventory: Inventory, digest: Digest, directory: str) -> list[str]:
    """
    Make a blob absent, and move its files to ``directory``.  The caller holds the lock.

    :return: the new paths of its files.
    """
    path, name = inventory.path(digest), os.path.join(directory, token_hex(16))
    moved = []
    # The description goes first: without it there is no blob.
    for suffix in (DESCRIPTION, ""):
        with suppress(FileNotFoundError):
            os.rename(path + suffix, name + suffix)
            moved.append(name + suffix)
    return moved


def is_unchanged(inventory: Inventory, digest: Digest) -> bool:
    """Tell whether a blob's file is unchanged since it was listed; a missing one counts as so."""
    scanned = inventory.files.get(digest)
    try:
        status = os.stat(inventory.path(digest))
    except FileNotFoundError:
        return True
    if scanned is None or scanned.fresh:
        return False
    return BlobFile.of(status, WallTime(0.0)).signature == scanned.signature


def move_to_temp(inventory: Inventory, digests: Sequence[Digest]) -> list[str]:
    """Make blobs absent.  The caller holds the lock.  :return: the paths to be deleted."""
    temp_directory = os.path.join(inventory.root, "tmp")
    return [path for digest in digests for path in move_aside(inventory, digest, temp_directory)]


def move_unchanged_to_temp(
    inventory: Inventory, digests: Sequence[Digest]
) -> tuple[list[Digest], list[str]]:
    """Make the blobs absent that were not used since the listing.  The caller holds the lock."""
    unused = [digest for digest in digests if is_unchanged(inventory, digest)]
    return unused, move_to_temp(inventory, unused)


def delete_files(paths: Sequence[str]) -> None:
    # Not while the lock is held: deleting large files takes long.
    for path in paths:
        with suppress(FileNotFoundError):  # swept by a process that has just started
            os.unlink(path)
