"""Tests for :mod:`nixery.runtime.deferreds`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.runtime.deferreds import (
    TimedOut,
    gather,
    shield,
    when_finished,
    with_timeout,
)


async def outcome(deferred: Deferred[str]) -> str:
    """A coroutine with the outcome of a Deferred."""
    return await deferred


class GatherTests(SynchronousTestCase):
    """Several things at once, to the end."""

    def setUp(self) -> None:
        self.parts: list[Deferred[str]] = [Deferred() for _ in range(3)]
        self.all = Deferred.fromCoroutine(gather(outcome(part) for part in self.parts))

    def test_results_in_order(self) -> None:
        """Results come in the order of the work, whichever ends first."""
        for index in (2, 0, 1):
            self.assertNoResult(self.all)
            self.parts[index].callback(str(index))
        self.assertEqual(self.successResultOf(self.all), ["0", "1", "2"])

    def test_failure_waits_for_the_others(self) -> None:
        """A failure is told after the rest has ended, not before."""
        self.parts[1].errback(ValueError("one"))
        self.parts[2].errback(KeyError("two"))
        self.assertNoResult(self.all)
        self.parts[0].callback("0")
        self.failureResultOf(self.all, ValueError)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_two_things_of_two_types_keep_their_places(self) -> None:
        """Two things of two types keep their places."""

        async def number() -> int:
            return 1

        part: Deferred[str] = Deferred()
        pair = Deferred.fromCoroutine(gather([outcome(part), number()]))
        self.assertNoResult(pair)
        part.callback("0")
        self.assertEqual(self.successResultOf(pair), ["0", 1])

    def test_cancellation_reaches_all(self) -> None:
        """Cancelling the whole cancels each part and reports it."""
        self.all.cancel()
        self.failureResultOf(self.all, CancelledError)
        for part in self.parts:
            self.assertTrue(part.called)

    def test_no_work_is_done_at_once(self) -> None:
        """No work is done at once."""
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(gather([]))), [])


class WithinTests(SynchronousTestCase):
    """Waiting for a limited time."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.cancelled: list[Deferred[str]] = []
        self.task: Deferred[str] = Deferred(self.cancelled.append)
        self.waiting = Deferred.fromCoroutine(with_timeout(5, self.clock, outcome(self.task)))

    def test_work_that_ends_in_time_leaves_no_timer(self) -> None:
        """Work that ends in time ends as it would without a limit, and no timer is left."""
        self.clock.advance(4)
        self.task.callback("done")
        self.assertEqual(self.successResultOf(self.waiting), "done")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failures_pass_those_that_look_like_an_expiry_too(self) -> None:
        """Failures pass, those that look like an expiry too."""
        self.task.errback(TimeoutError())
        self.failureResultOf(self.waiting, TimeoutError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_work_that_exceeds_its_time_is_cancelled(self) -> None:
        """Work that exceeds its time is cancelled."""
        self.clock.advance(5)
        self.assertEqual(self.cancelled, [self.task])
        self.failureResultOf(self.waiting, TimedOut)

    def test_cancelling_the_wait_cancels_the_work_and_is_no_expiry(self) -> None:
        """Cancelling the wait cancels the work, and is no expiry."""
        self.waiting.cancel()
        self.assertEqual(self.cancelled, [self.task])
        self.failureResultOf(self.waiting, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_result_in_the_end(self) -> None:
        """Work that is cancelled and has a result nevertheless has a result."""

        async def stubborn() -> str:
            try:
                await Deferred()
            except CancelledError:
                return "done"
            return "never"

        waiting = Deferred.fromCoroutine(with_timeout(5, self.clock, stubborn()))
        self.clock.advance(5)
        self.assertEqual(self.successResultOf(waiting), "done")

    def tearDown(self) -> None:
        self.waiting.addErrback(lambda _: None)


class ShieldedTests(SynchronousTestCase):
    """Waiting without owning."""

    def test_results_and_failures_arrive(self) -> None:
        """Results and failures arrive."""
        good: Deferred[str] = Deferred()
        bad: Deferred[str] = Deferred()
        waiters = shield(good), shield(bad)
        good.callback("good")
        bad.errback(ValueError())
        self.assertEqual(self.successResultOf(waiters[0]), "good")
        self.failureResultOf(waiters[1], ValueError)

    def test_cancelling_the_wait(self) -> None:
        """A cancelled wait leaves the task running; its end can still be awaited."""
        cancelled: list[object] = []
        task: Deferred[str] = Deferred(cancelled.append)
        ended = when_finished(task)
        waiter = shield(task)
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        self.assertEqual(cancelled, [])
        self.assertNoResult(ended)
        task.errback(ValueError("nobody listens"))
        self.assertIsNone(self.successResultOf(ended))
        self.assertEqual(self.flushLoggedErrors(), [])
