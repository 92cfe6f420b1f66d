"""
Limits failed logins.

Clients are not kept waiting, which would cost a connection for each guess: a client that has
failed too often is rejected at once with a time to retry after; until then its passwords are
not checked.  The time doubles with each failure.  Failures are counted per user and address,
so that an attacker at another address cannot lock a user out.  They are also counted per
address alone: otherwise every made-up user name would allow one more free guess, and cost one
more check of a quarter of a second.

Many users may share an address (NAT, a proxy that is not trusted), and one of them who guesses
must not keep the others out: a user who has logged in from an address lately is throttled by
its own failures there only.
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

REMEMBER_LOGIN_SECONDS = 7 * 86400.0
"""Seconds after a login for which the user's own failures at that address count alone."""

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
    _logged_in: TTLCache[tuple[str, str], bool] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._failures = TTLCache(MAX_TRACKED_KEYS, FORGET_AFTER_SECONDS, timer=self.seconds)
        self._logged_in = TTLCache(MAX_TRACKED_KEYS, REMEMBER_LOGIN_SECONDS, timer=self.seconds)

    def has_logged_in(self, address: str, user: str) -> bool:
        """Tell whether a user has logged in from an address lately."""
        return _user_key(address, user) in self._logged_in

    def seconds_until_allowed(self, address: str, user: str) -> float:
        """Return the seconds until a user may try again; 0: now."""
        now = self.seconds()
        keys = [key for key, _ in _keys(address, user)]
        if self.has_logged_in(address, user):
            keys = [_user_key(address, user)]
        found = [self._failures.get(key) for key in keys]
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
        key = _user_key(address, user)
        self._failures.pop(key, None)
        self._logged_in[key] = True


def _keys(address: str, user: str) -> tuple[tuple[tuple[str, str], int], ...]:
    return (_user_key(address, user), FREE_FAILURES_PER_USER), (
        (client_key_of(address), ""),
        FREE_FAILURES_PER_ADDRESS,
    )


def _user_key(address: str, user: str) -> tuple[str, str]:
    # No user's name is empty.
    return client_key_of(address), user[:255] or "-"
