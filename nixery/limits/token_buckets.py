"""
Token buckets, which limit a burst and a rate per second in the long run.

Each client has a bucket that holds ``burst`` tokens and is filled at ``rate`` a second.
A bucket is stored as one number, the time at which it will be full again: a full bucket
need not be stored at all, and taking a token is a dictionary lookup and an addition.
This is equivalent to the generic cell rate algorithm (ITU-T I.371).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

__all__ = ["TokenBuckets"]

MAX_TRACKED_CLIENTS = 65536
"""Maximum number of clients whose buckets are stored."""


class TokenBuckets:
    """
    A bucket for each client.

    :param rate: tokens that come back in a second.
    :param burst: the most that a bucket holds.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param max_tracked: maximum number of buckets that are stored, which are those that are not
        full; beyond it, the least recently used one is taken to be full.
    """

    def __init__(
        self,
        *,
        rate: float,
        burst: float,
        seconds: Callable[[], float],
        max_tracked: int = MAX_TRACKED_CLIENTS,
    ) -> None:
        self._seconds = seconds
        self._seconds_per_token = 1.0 / rate
        self._burst_seconds = (burst - 1) / rate
        self._max_tracked = max_tracked
        # The time at which each will be full; the most recently used one is last.
        self._full_at: dict[Hashable, float] = {}

    def take(self, key: Hashable) -> float:
        """
        Take a token.

        :return: 0, or the seconds until there will be one: then none was taken.
        """
        now = self._seconds()
        full_at = self._full_at.pop(key, now)
        full_at = max(full_at, now)
        wait = full_at - now - self._burst_seconds
        if wait <= 0.0:
            wait = 0.0
            full_at += self._seconds_per_token
        self._full_at[key] = full_at
        if len(self._full_at) > self._max_tracked:
            del self._full_at[next(iter(self._full_at))]
        return wait

    def seconds_until_token(self, key: Hashable) -> float:
        """Return the seconds until there will be a token; 0: there is one."""
        full_at = self._full_at.get(key)
        return 0.0 if full_at is None else max(0.0, full_at - self._seconds() - self._burst_seconds)

    def put_back(self, key: Hashable) -> None:
        """Put back a token that was taken and not used."""
        if key in self._full_at:
            self._full_at[key] -= self._seconds_per_token

    def __len__(self) -> int:
        """Return the number of stored buckets."""
        return len(self._full_at)
