"""
The wall clock: the time of day, which may be set.

There are two clocks. Durations (timeouts, limits, times to live, intervals) are measured by a
monotonic clock, the reactor's (:mod:`nixery.runtime.reactor_time`): it never goes back and does not
jump, and its values mean nothing outside of this process. The wall clock gives the time that
people, files, certificates, tokens and other machines use, and jumps both ways: NTP and
administrators set it.

The two have different types, so that neither is taken for the other: a monotonic clock is
an :class:`~twisted.internet.interfaces.IReactorTime` called ``clock``, or a callable called
``seconds``; the wall clock is a :class:`WallClock` called ``wall_clock``.  Subtracting two
readings of the wall clock gives the age of a file or the rest of a certificate's life, and
never the time that something in this process took.
"""

from __future__ import annotations

import time
from typing import NewType, Protocol

__all__ = ["SystemWallClock", "WallClock", "WallTime"]

WallTime = NewType("WallTime", float)
"""A time of day, in seconds since 1970 (UTC)."""


class WallClock(Protocol):
    """A clock that tells the time of day."""

    def now(self) -> WallTime:
        """Return the time of day; may be less than it was a moment ago."""


class SystemWallClock:
    """The wall clock of this machine."""

    def now(self) -> WallTime:
        """As :meth:`WallClock.now` says."""
        return WallTime(time.time())  # noqa: TID251  # the one place that reads it
