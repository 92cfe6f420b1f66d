"""
Token buckets, which limit a burst and a rate per second in the long run.

Each client has a bucket that holds ``burst`` tokens and is filled at ``rate`` a second.
A bucket is stored as one number, the time at which it will be full again: a full bucket
need not be stored at all, and taking a token is a dictionary lookup and an addition.
This is equivalent to the generic cell rate algorithm (ITU-T I.371).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

__all__ = ["Buckets"]

MAX_TRACKED_CLIENTS = 65536
"""Maximum number of clients whose buckets are stored."""


class Buckets:
    """
    A bucket for each client.

    :param rate: tokens that come back in a second.
    :param burst: the most that a bucket holds.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param kept: maximum number of buckets that are stored, which are those that are not
        full; beyond it, the least recently used one is taken to be full.
    """

    def __init__(
        self,
        *,
        rate: float,
        burst: float,
        seconds: Callable[[], float],
        kept: int = MAX_TRACKED_CLIENTS,
    ) -> None:
        self._seconds = seconds
        self._each = 1.0 / rate
        self._depth = (burst - 1) / rate
        self._kept = kept
        # The time at which each will be full; the most recently used one is last.
        self._full: dict[Hashable, float] = {}

    def take(self, client: Hashable) -> float:
        """
        Take a token.

        :return: 0, or the seconds until there will be one: then none was taken.
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
        """Return the seconds until there will be a token; 0: there is one."""
        full = self._full.get(client)
        return 0.0 if full is None else max(0.0, full - self._seconds() - self._depth)

    def give_back(self, client: Hashable) -> None:
        """Put back a token that was taken and not used."""
        if client in self._full:
            self._full[client] -= self._each

    def __len__(self) -> int:
        """Return the number of stored buckets."""
        return len(self._full)
