"""
Implements the wall clock for the ages of files, which ignores recent steps forward.

The last use of a blob is stored as a time of day, on its file.  If NTP corrects a clock that
was wrong at boot, and sets it forward by a month, everything that was pulled a minute ago
would be a month old, and the grace period would protect nothing.  So a step forward counts
only when the grace period has passed since it was noticed: until then, ages are computed as if
it had not been made.  By then, everything that was used after the step has a new time.
"""

from __future__ import annotations

from collections.abc import Callable

from nixery.runtime.clocks import WallClock, WallTime

__all__ = ["AgeClock"]

MAX_CLOCK_DRIFT_SECONDS = 10.0
"""
Seconds by which the clocks may diverge between two readings without this being a step: the
wall clock may run faster than the monotonic one by 0.05 % while it is corrected.
"""


class AgeClock:
    """
    Implements :class:`nixery.runtime.clocks.WallClock`; one thread uses it at a time.

    :param wall_clock: the clock of the system, which may be set.
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
        self._ignored_seconds = 0.0
        self._ignored_until: float | None = None

    def now(self) -> WallTime:
        """Return the time of day, less the steps forward that do not count yet."""
        now, elapsed = self._wall_clock.now(), self._seconds()
        step = now - elapsed - self._offset
        self._offset += step
        if step > MAX_CLOCK_DRIFT_SECONDS:
            self._ignored_seconds += step
            self._ignored_until = elapsed + self._grace
        elif step < -MAX_CLOCK_DRIFT_SECONDS:
            # A step back may undo an earlier step forward.
            self._ignored_seconds = max(0.0, self._ignored_seconds + step)
        if self._ignored_until is not None and elapsed >= self._ignored_until:
            self._ignored_seconds, self._ignored_until = 0.0, None
        return WallTime(now - self._ignored_seconds)
