"""
How often somebody may fail to log in.

Nobody is kept waiting, which would cost a connection for each guess: who has failed too
often is sent away at once, and told when to come back; until then nothing is checked.  The
time doubles with each failure.  What counts is who tries from where: a stranger elsewhere
cannot lock a user out.  And what comes from one address counts as a whole as well, or every
name that is made up would be a guess for free, and a check of a quarter of a second.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from cachetools import TTLCache

from nixery.limits.addresses import origin_of

__all__ = ["Throttle"]

FREE = 3
"""How many failures of a user, from one address, cost nothing: fingers slip."""

FREE_OF_ADDRESS = 20
"""The same for all users of an address: many may be behind one."""

LONGEST = 300.0
"""The longest time that anybody is sent away for, in seconds."""

FORGOTTEN = 900.0
"""Seconds after which failures are forgotten, if there are no more."""

REMEMBERED = 16384
"""How many users and addresses are remembered."""


@define(eq=False)
class _Failures:
    count: int = 0
    until: float = float("-inf")


@define(eq=False)
class Throttle:
    """
    Counts failures.

    :param seconds: the monotonic time, as the reactor's ``seconds``.
    """

    seconds: Callable[[], float]
    _failures: TTLCache[tuple[str, str], _Failures] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._failures = TTLCache(REMEMBERED, FORGOTTEN, timer=self.seconds)

    def wait(self, address: str, user: str) -> float:
        """For how many seconds a user is sent away; 0: may try."""
        now = self.seconds()
        found = [self._failures.get(key) for key, _ in _keys(address, user)]
        return max(0.0, *(each.until - now for each in found if each is not None), 0.0)

    def failed(self, address: str, user: str) -> float:
        """Somebody has failed; :return: for how many seconds that user is sent away now."""
        now = self.seconds()
        for key, free in _keys(address, user):
            failures = self._failures.pop(key, None) or _Failures()
            failures.count += 1
            over = failures.count - free
            if over > 0:
                # Bounded before it is a power: there may be many failures.
                failures.until = now + min(LONGEST, 2.0 ** min(over - 1, 30))
            self._failures[key] = failures
        return self.wait(address, user)

    def succeeded(self, address: str, user: str) -> None:
        """Somebody has logged in."""
        self._failures.pop((origin_of(address), user), None)


def _keys(address: str, user: str) -> tuple[tuple[tuple[str, str], int], ...]:
    origin = origin_of(address)
    # No user's name is empty.
    return ((origin, user[:255] or "-"), FREE), ((origin, ""), FREE_OF_ADDRESS)
