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
    :param limit: maximum number of entries.
    """

    def __init__(self, seconds: Callable[[], float], limit: int = 50_000) -> None:
        self._seconds = seconds
        self._limit = limit
        self._lock = Lock()
        self._things: dict[Digest, tuple[float, T]] = {}

    def add(self, digest: Digest, thing: T) -> None:
        """Add an object that was seen just now."""
        with self._lock:
            self._things.pop(digest, None)
            self._things[digest] = self._seconds(), thing
            if len(self._things) > self._limit:
                del self._things[next(iter(self._things))]

    def get(self, digest: Digest, within: float) -> T | None:
        """Return the object if it was seen at most ``within`` seconds ago."""
        with self._lock:
            seen = self._things.get(digest)
        if seen is None or self._seconds() - seen[0] > within:
            return None
        return seen[1]

    def forget(self, digest: Digest) -> None:
        """Remove an object that does not exist any more."""
        with self._lock:
            self._things.pop(digest, None)
