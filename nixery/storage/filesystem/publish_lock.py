"""
Locks a directory of images: many publishers share the lock, or one remover holds it alone.

A manifest must never name a blob that was removed.  A publisher checks the blobs first and
then stores the manifest; a remover checks the manifests first and then removes blobs;
neither may act between the other's check and its action.  A lock on a file of the directory
separates them, between threads and between processes, and is released when its process ends.

Publishing takes milliseconds and may wait for the lock.  A remover never waits for it:
the waiting thread of the pool might be the one that a publisher needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from nixery.runtime.file_lock import open_locked
from nixery.storage.filesystem.files import FILE_MODE, translate_os_errors

__all__ = ["attempt_collection", "attempt_removal", "publishing"]

OPERATION = "lock the storage"


@contextmanager
def publishing(root: str) -> Iterator[None]:
    """Prevent removals while the context lasts.  Blocks while a removal is in progress."""
    with translate_os_errors(OPERATION):
        descriptor = open_locked(os.path.join(root, "lock"), mode=FILE_MODE, shared=True)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def attempt_removal(root: str) -> Iterator[bool]:
    """Try to prevent publications while the context lasts.  Yields whether that succeeded."""
    with _try_lock(root, "lock") as acquired:
        yield acquired


@contextmanager
def attempt_collection(root: str) -> Iterator[bool]:
    """Try to prevent other garbage collections.  Yields whether that succeeded."""
    with _try_lock(root, "collection.lock") as acquired:
        yield acquired


@contextmanager
def _try_lock(root: str, name: str) -> Iterator[bool]:
    with translate_os_errors(OPERATION):
        try:
            descriptor = open_locked(os.path.join(root, name), mode=FILE_MODE)
        except BlockingIOError:
            descriptor = None
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)
