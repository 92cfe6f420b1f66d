"""
Helpers that run coroutines together, limit their time, and wait until they have ended.

Cancelling a Deferred ends the wait, not what is waited for: a function on a worker thread goes on.
The owner of what such a function uses (an open file) must wait until the function has ended before
taking that away; these helpers do the waiting.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

__all__ = ["TimedOut", "when_finished", "gather", "shield", "with_timeout"]

T = TypeVar("T")


class TimedOut(Exception):
    """A time limit has passed."""


async def with_timeout(
    seconds: float, clock: IReactorTime, work: Coroutine[Deferred[Any], Any, T]
) -> T:
    """
    Wait for a coroutine for a limited time.

    :param seconds: the time limit, from now.
    :return: its result.
    :raises TimedOut: the time was over, the coroutine was cancelled, and the cancellation ended it.
        If the coroutine still returns or fails in another way, that is the outcome.
    """
    task = Deferred.fromCoroutine(work)
    if task.called:
        # Most coroutines have a result at once: then no timer is made.
        return await task
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    timer = clock.callLater(seconds, expire)
    try:
        return await task
    except CancelledError:
        if expired:
            raise TimedOut from None
        raise
    finally:
        if timer.active():
            timer.cancel()


async def gather(work: Iterable[Coroutine[Deferred[Any], Any, T]]) -> list[T]:
    """
    Run coroutines side by side and wait until the last of them has ended.

    :return: their results, in order.
    :raises Exception: the first failure, in order, after all have ended: what
        they share may then be taken away.
    """
    outcomes = await DeferredList(
        [Deferred.fromCoroutine(each) for each in work], consumeErrors=True
    )
    results: list[T] = []
    for succeeded, result in outcomes:
        if not succeeded:
            assert isinstance(result, Failure)
            result.raiseException()
        results.append(result)
    return results


def shield(task: Deferred[T]) -> Deferred[T]:
    """
    A Deferred with the outcome of ``task``; cancelling it leaves ``task`` alone.

    ``task`` must not be used otherwise, but through :func:`when_finished` beforehand.
    """
    waiter: Deferred[T] = Deferred()

    def tell(outcome: T | Failure) -> None:
        if not waiter.called:
            waiter.callback(outcome)

    task.addBoth(tell)
    return waiter


def when_finished(task: Deferred[T]) -> Deferred[None]:
    """A Deferred that fires when ``task`` has ended, either way, and never fails."""
    ended: Deferred[None] = Deferred()

    def tell(outcome: T | Failure) -> T | Failure:
        ended.callback(None)
        return outcome

    task.addBoth(tell)
    return ended
