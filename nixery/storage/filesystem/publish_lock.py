"""
Who may change what a directory of images names: many that publish, or one that removes.

A manifest must never name a blob that is gone.  Whoever publishes one looks for its
blobs first, and whoever removes blobs looks for manifests first; between looking and
doing, the other must not do.  A lock on a file of the directory keeps them apart,
between threads and between processes, and ends with the process that holds it.

Publishing takes milliseconds and may wait for the lock.  Removing never waits in line:
a thread of a pool that waits might be the one that a publisher needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from nixery.runtime.file_lock import open_locked
from nixery.storage.filesystem.files import FILE_MODE, failures

__all__ = ["attempt_collection", "attempt_removal", "publishing"]

OPERATION = "lock the storage"


@contextmanager
def publishing(root: str) -> Iterator[None]:
    """While this is held, nothing is removed.  Blocks for as long as somebody does."""
    with failures(OPERATION):
        descriptor = open_locked(os.path.join(root, "lock"), mode=FILE_MODE, shared=True)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def attempt_removal(root: str) -> Iterator[bool]:
    """While this is held, nothing is published.  Yields whether it could be had."""
    with _attempt(root, "lock") as held:
        yield held


@contextmanager
def attempt_collection(root: str) -> Iterator[bool]:
    """Whether this is the only collection that is going on."""
    with _attempt(root, "collection.lock") as held:
        yield held


@contextmanager
def _attempt(root: str, name: str) -> Iterator[bool]:
    with failures(OPERATION):
        try:
            descriptor = open_locked(os.path.join(root, name), mode=FILE_MODE)
        except BlockingIOError:
            descriptor = None
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)
