"""
What was seen a moment ago, so that it need not be looked for again.
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
    A bounded memory, for all threads; what was seen longest ago is forgotten first.

    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param limit: how many things are kept.
    """

    def __init__(self, seconds: Callable[[], float], limit: int = 50_000) -> None:
        self._seconds = seconds
        self._limit = limit
        self._lock = Lock()
        self._things: dict[Digest, tuple[float, T]] = {}

    def add(self, digest: Digest, thing: T) -> None:
        """It is there, now."""
        with self._lock:
            self._things.pop(digest, None)
            self._things[digest] = self._seconds(), thing
            if len(self._things) > self._limit:
                del self._things[next(iter(self._things))]

    def get(self, digest: Digest, within: float) -> T | None:
        """What was seen no more than ``within`` seconds ago."""
        with self._lock:
            seen = self._things.get(digest)
        if seen is None or self._seconds() - seen[0] > within:
            return None
        return seen[1]

    def forget(self, digest: Digest) -> None:
        """It is not there any more."""
        with self._lock:
            self._things.pop(digest, None)
