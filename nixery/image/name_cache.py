"""
Caches what is computed from the names of images, bounded by the memory that the names take.

A name may have more than a hundred packages, and anybody can think of new ones: a cache that counts
its entries would hold a hundred megabytes of them.

The patterns of the configuration use it, and the build of the documentation, which reads the
configuration's declarations, has no cachetools.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

from nixery.image.names import ImageName

__all__ = ["NameCache", "memory_size"]

MAX_CACHED_BYTES = 4 * 2**20
"""Memory of the names in one cache, in bytes; enough for some thousand usual names."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def memory_size(name: ImageName) -> int:
    """Return the approximate memory that a name takes, in bytes."""
    return 500 + len(name.repository) + 250 * len(name.package_requests)


class NameCache(Generic[K, V]):
    """
    A cache of values that belong to names; safe to use from several threads.

    :param max_bytes: the memory that the names may take, in bytes.
    """

    def __init__(self, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self._lock = Lock()
        self._max_bytes = max_bytes
        self._size = 0
        # The least recently used one comes first.
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return a cached value."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def add(self, key: K, value: V, size: int) -> None:
        """
        Cache a value.

        :param size: the memory of the names in key and value, see :func:`memory_size`.
        """
        with self._lock:
            _, old_size = self._entries.pop(key, (None, 0))
            self._entries[key] = value, size
            self._size += size - old_size
            while self._size > self._max_bytes:
                _, (_, removed_size) = self._entries.popitem(last=False)
                self._size -= removed_size

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)
