"""Retries operations that may succeed the next time, within bounds."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

__all__ = ["retry"]

T = TypeVar("T")

PAUSES = (0.5, 2.0)
"""Seconds between one attempt and the next."""


async def retry(
    attempt: Callable[[float], Coroutine[Deferred[Any], Any, T]],
    *,
    clock: IReactorTime,
    seconds: float,
    again: Callable[[Exception], bool],
) -> T:
    """
    Try an operation up to three times, and no longer than ``seconds`` in all.

    :param attempt: is called with the seconds that it may take: half of the time left, so that an
        attempt that is never answered leaves time for another.
    :param again: tells whether a failure may be temporary.
    :raises Exception: the last failure.
    """
    deadline = clock.seconds() + seconds
    for pause in PAUSES:
        left = deadline - clock.seconds()
        try:
            return await attempt(left / 2)
        except CancelledError:
            raise
        except Exception as error:
            if clock.seconds() + pause >= deadline or not again(error):
                raise
        await deferLater(clock, pause)
    return await attempt(deadline - clock.seconds())
