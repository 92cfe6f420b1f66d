"""
Token buckets: so many at once, and so many a second in the long run.

Each client has a bucket that holds ``burst`` tokens and is filled at ``rate`` a second.
What is kept of it is one number, the time at which it will be full again: what is full
need not be kept at all, and taking a token is a look into a dictionary and an addition.
This is the generic cell rate algorithm (ITU-T I.371), told from the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

__all__ = ["Buckets"]

KEPT = 65536
"""How many clients are kept that have taken something lately."""


class Buckets:
    """
    A bucket for each client.

    :param rate: tokens that come back in a second.
    :param burst: the most that a bucket holds.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param kept: how many buckets are kept that are not full; then the one that was used
        least lately is taken for full.
    """

    def __init__(
        self, *, rate: float, burst: float, seconds: Callable[[], float], kept: int = KEPT
    ) -> None:
        self._seconds = seconds
        self._each = 1.0 / rate
        self._depth = (burst - 1) / rate
        self._kept = kept
        # When each will be full; the one that was used last stands last.
        self._full: dict[Hashable, float] = {}

    def take(self, client: Hashable) -> float:
        """
        Take a token.

        :return: 0, or in how many seconds there will be one: then none was taken.
        """
        now = self._seconds()
        full = self._full.pop(client, now)
        full = max(full, now)
        wait = full - now - self._depth
        if wait <= 0.0:
            wait = 0.0
            full += self._each
        self._full[client] = full
        if len(self._full) > self._kept:
            del self._full[next(iter(self._full))]
        return wait

    def wait(self, client: Hashable) -> float:
        """In how many seconds there will be a token; 0: there is one."""
        full = self._full.get(client)
        return 0.0 if full is None else max(0.0, full - self._seconds() - self._depth)

    def give_back(self, client: Hashable) -> None:
        """Put a token back that was taken and not used."""
        if client in self._full:
            self._full[client] -= self._each

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._full)
