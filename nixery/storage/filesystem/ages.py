"""
The wall clock that ages of files are counted by.

The last use of a blob is a time of day, in its file.  A clock that is set forward by a month,
as NTP does where it was wrong at boot, would make everything a month old that was pulled a
minute ago, and the time of grace would protect nothing.  So a step forward counts only
when the time of grace has passed since it was noticed: until then, ages are counted as if
it had not been made.  What is used after it has a new time by then.
"""

from __future__ import annotations

from collections.abc import Callable

from nixery.runtime.clocks import WallClock, WallTime

__all__ = ["Ages"]

TOLERATED = 10.0
"""
Seconds between two looks by which the clocks may part without a step: the wall clock may run
faster than the monotonic one by half a thousandth while it is corrected.
"""


class Ages:
    """
    Implements :class:`nixery.runtime.clocks.WallClock`; one thread uses it at a time.

    :param wall_clock: the one that may be set.
    :param seconds: the monotonic time, on any thread.
    :param grace: seconds until a step forward counts.
    """

    def __init__(
        self, wall_clock: WallClock, seconds: Callable[[], float], *, grace: float
    ) -> None:
        self._wall_clock = wall_clock
        self._seconds = seconds
        self._grace = grace
        self._offset = wall_clock.now() - seconds()
        self._ahead = 0.0
        self._until: float | None = None

    def now(self) -> WallTime:
        """The time of day, less the steps forward that do not count yet."""
        now, passed = self._wall_clock.now(), self._seconds()
        step = now - passed - self._offset
        self._offset += step
        if step > TOLERATED:
            self._ahead += step
            self._until = passed + self._grace
        elif step < -TOLERATED:
            # It may take an earlier one back.
            self._ahead = max(0.0, self._ahead + step)
        if self._until is not None and passed >= self._until:
            self._ahead, self._until = 0.0, None
        return WallTime(now - self._ahead)
