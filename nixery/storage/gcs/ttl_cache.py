"""
Caches objects that were seen recently, so that they need not be requested again.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from nixery.image.names import Digest

__all__ = ["TTLCache"]

T = TypeVar("T")


class TTLCache(Generic[T]):
    """
    A thread-safe cache of limited size, which drops the entry that was seen longest ago.

    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param max_entries: maximum number of entries.
    """

    def __init__(self, seconds: Callable[[], float], max_entries: int = 50_000) -> None:
        self._seconds = seconds
        self._max_entries = max_entries
        self._lock = Lock()
        self._entries: dict[Digest, tuple[float, T]] = {}

    def add(self, digest: Digest, value: T) -> None:
        """Add an object that was seen just now."""
        with self._lock:
            self._entries.pop(digest, None)
            self._entries[digest] = self._seconds(), value
            if len(self._entries) > self._max_entries:
                del self._entries[next(iter(self._entries))]

    def get(self, digest: Digest, max_age: float) -> T | None:
        """Return the object if it was seen at most ``max_age`` seconds ago."""
        with self._lock:
            entry = self._entries.get(digest)
        if entry is None or self._seconds() - entry[0] > max_age:
            return None
        return entry[1]

    def remove(self, digest: Digest) -> None:
        """Remove an object that does not exist any more."""
        with self._lock:
            self._entries.pop(digest, None)
