"""
Limits failed logins.

Clients are not kept waiting, which would cost a connection for each guess: a client that has
failed too often is rejected at once with a time to retry after; until then its passwords are
not checked.  The time doubles with each failure.  Failures are counted per user and address,
so that an attacker at another address cannot lock a user out.  They are also counted per
address alone: otherwise every made-up user name would allow one more free guess, and cost one
more check of a quarter of a second.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from cachetools import TTLCache

from nixery.limits.addresses import client_key_of

__all__ = ["LoginThrottle"]

FREE_FAILURES_PER_USER = 3
"""Failures of a user, from one address, without a delay: typing errors are common."""

FREE_FAILURES_PER_ADDRESS = 20
"""The same for all users of an address, because many users may share one."""

MAX_DELAY_SECONDS = 300.0
"""Maximum delay in seconds."""

FORGET_AFTER_SECONDS = 900.0
"""Seconds after the last failure until failures are forgotten."""

MAX_TRACKED_KEYS = 16384
"""Maximum number of users and addresses whose failures are counted."""


@define(eq=False)
class _Failures:
    count: int = 0
    blocked_until: float = float("-inf")


@define(eq=False)
class LoginThrottle:
    """
    Counts failed logins per user and address, and per address.

    :param seconds: the monotonic time, as the reactor's ``seconds``.
    """

    seconds: Callable[[], float]
    _failures: TTLCache[tuple[str, str], _Failures] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._failures = TTLCache(MAX_TRACKED_KEYS, FORGET_AFTER_SECONDS, timer=self.seconds)

    def seconds_until_allowed(self, address: str, user: str) -> float:
        """Return the seconds until a user may try again; 0: now."""
        now = self.seconds()
        found = [self._failures.get(key) for key, _ in _keys(address, user)]
        return max(0.0, *(each.blocked_until - now for each in found if each is not None), 0.0)

    def record_failure(self, address: str, user: str) -> float:
        """Record a failed login; :return: seconds until that user may try again."""
        now = self.seconds()
        for key, free in _keys(address, user):
            failures = self._failures.pop(key, None) or _Failures()
            failures.count += 1
            excess = failures.count - free
            if excess > 0:
                # Limit the exponent before computing the power: there may be many failures.
                failures.blocked_until = now + min(MAX_DELAY_SECONDS, 2.0 ** min(excess - 1, 30))
            self._failures[key] = failures
        return self.seconds_until_allowed(address, user)

    def record_success(self, address: str, user: str) -> None:
        """Record a successful login."""
        self._failures.pop((client_key_of(address), user), None)


def _keys(address: str, user: str) -> tuple[tuple[tuple[str, str], int], ...]:
    client = client_key_of(address)
    # No user's name is empty.
    return ((client, user[:255] or "-"), FREE_FAILURES_PER_USER), (
        (client, ""),
        FREE_FAILURES_PER_ADDRESS,
    )
