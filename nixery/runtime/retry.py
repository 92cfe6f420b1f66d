"""
Retries operations that may succeed the next time, within bounds.

:class:`Attempts` makes the decisions, without a clock of its own, so that coroutines use it
(through :func:`retry`) as well as functions on worker threads (:mod:`nixery.storage.gcs.retry`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, TypeVar

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

__all__ = ["THREE_ATTEMPTS", "Attempts", "Backoff", "parse_retry_after", "retry"]

T = TypeVar("T")


@frozen(kw_only=True)
class Backoff:
    """
    The bounds of the attempts at an operation, and the pauses between them.

    :param first: the first pause in seconds.
    :param longest: the longest pause in seconds, also if the other side asks for a longer one.
    :param factor: how many times longer each pause is than the one before.
    :param jitter: the part of a pause, from 0 to 1, that may be left out at random, so that many
        who failed at once do not come back at once.
    :param attempts: the most attempts.
    """

    first: float
    longest: float
    factor: float = 2.0
    jitter: float = 0.0
    attempts: float = inf


THREE_ATTEMPTS = Backoff(first=0.5, longest=2.0, factor=4.0, attempts=3)
"""Bounds for operations that a client waits for."""


class Attempts:
    """
    The attempts at one operation.

    :param now: the time in seconds, of any monotonic clock.
    :param timeout: the seconds, from now, after which no attempt begins.
    """

    def __init__(self, backoff: Backoff, now: float, timeout: float = inf) -> None:
        self._backoff = backoff
        self._deadline = now + timeout
        self._pause = backoff.first
        self._remaining = backoff.attempts - 1

    def time_limit(self, now: float) -> float:
        """
        Return the seconds that an attempt may take.

        Half of the time left, so that an attempt that is never answered leaves time for another;
        all of it for the last attempt.
        """
        left = self._deadline - now
        return left / 2 if self._remaining > 0 else left

    def next_pause(self, now: float, retry_after: float | None = None) -> float | None:
        """
        Return the seconds until the next attempt; ``None`` if there is none.

        :param retry_after: the seconds that the other side asks for, if it does.
        """
        bounds = self._backoff
        # Jitter, not cryptography.
        jittered = self._pause * random.uniform(1 - bounds.jitter, 1)  # noqa: S311
        pause = min(retry_after or jittered, bounds.longest)
        if self._remaining <= 0 or now + pause >= self._deadline:
            return None
        self._remaining -= 1
        self._pause = min(self._pause * bounds.factor, bounds.longest)
        return pause


def parse_retry_after(value: str | None) -> float | None:
    """
    Return the seconds of the header Retry-After; ``None`` if it is missing, a date or too long.

    :param value: the value of the header, if there is one.
    """
    return float(value) if value is not None and re.fullmatch("[0-9]{1,6}", value) else None


async def retry(
    attempt: Callable[[float], Coroutine[Deferred[Any], Any, T]],
    backoff: Backoff,
    *,
    clock: IReactorTime,
    timeout: float = inf,
    is_temporary: Callable[[Exception], bool],
    on_failure: Callable[[Exception, float], None] | None = None,
) -> T:
    """
    Attempt an operation until it succeeds, fails for good, or its bounds are reached.

    :param attempt: is called with the seconds that it may take, and has to heed them itself.
    :param timeout: the seconds that all attempts together may take.
    :param is_temporary: tells whether a failure may be temporary.  If the failure has an attribute
        ``retry_after`` that is not ``None``, those seconds are waited for.
    :param on_failure: is called before each pause, with the failure and the seconds of the pause.
    :raises Exception: the last failure.
    """
    attempts = Attempts(backoff, clock.seconds(), timeout)
    while True:
        try:
            return await attempt(attempts.time_limit(clock.seconds()))
        except CancelledError:
            raise
        except Exception as error:
            if not is_temporary(error):
                raise
            pause = attempts.next_pause(clock.seconds(), getattr(error, "retry_after", None))
            if pause is None:
                raise
            if on_failure is not None:
                on_failure(error, pause)
        await deferLater(clock, pause)
