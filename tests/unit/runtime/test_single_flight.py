"""Tests for :mod:`nixery.runtime.single_flight`."""

from __future__ import annotations

import contextlib

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.runtime.single_flight import SingleFlight


class Work:
    """Jobs that end when the test says so."""

    def __init__(self) -> None:
        self.started: list[Deferred[str]] = []

    async def __call__(self) -> str:
        gate: Deferred[str] = Deferred()
        self.started.append(gate)
        return await gate


class SingleFlightTests(SynchronousTestCase):
    """Many waiters, one job."""

    def setUp(self) -> None:
        self.flight: SingleFlight[str, str] = SingleFlight()
        self.work = Work()

    def test_one_job_for_all_who_ask(self) -> None:
        """Callers that ask while the job runs share its result."""
        waiters = [self.flight.run("a", self.work) for _ in range(3)]
        self.assertEqual(len(self.work.started), 1)
        self.assertEqual(len(self.flight), 1)
        self.work.started[0].callback("done")
        self.assertEqual([self.successResultOf(waiter) for waiter in waiters], ["done"] * 3)
        self.assertNotIn("a", self.flight)

    def test_other_keys_run_apart(self) -> None:
        """Jobs of different keys know nothing of each other."""
        first, second = self.flight.run("a", self.work), self.flight.run("b", self.work)
        self.work.started[1].callback("second")
        self.assertNoResult(first)
        self.assertEqual(self.successResultOf(second), "second")
        self.work.started[0].callback("first")
        self.assertEqual(self.successResultOf(first), "first")

    def test_work_that_ends_at_once(self) -> None:
        """A job that never waits hands its result over, and the next one runs anew."""

        async def immediate() -> str:
            return "now"

        self.assertEqual(self.successResultOf(self.flight.run("a", immediate)), "now")
        self.assertEqual(self.successResultOf(self.flight.run("a", immediate)), "now")
        self.assertEqual(len(self.flight), 0)

    def test_failure_reaches_everyone(self) -> None:
        """A failed job fails all of its waiters, and is not remembered."""
        waiters = [self.flight.run("a", self.work) for _ in range(2)]
        self.work.started[0].errback(ValueError("no"))
        for waiter in waiters:
            self.failureResultOf(waiter, ValueError)
        self.flight.run("a", self.work)
        self.assertEqual(len(self.work.started), 2)

    def test_failure_with_nobody_left(self) -> None:
        """A job that fails after everyone left leaves no unhandled error."""
        waiter = self.flight.run("a", self.work)
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        self.work.started[0].errback(ValueError("no"))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_who_leaves_stops_nobody(self) -> None:
        """Cancelling one waiter leaves the job and the other waiters alone."""
        leaves, stays = self.flight.run("a", self.work), self.flight.run("a", self.work)
        leaves.cancel()
        self.failureResultOf(leaves, CancelledError)
        self.assertNoResult(stays)
        joins = self.flight.run("a", self.work)
        self.work.started[0].callback("done")
        self.assertEqual(self.successResultOf(stays), "done")
        self.assertEqual(self.successResultOf(joins), "done")
        self.assertEqual(len(self.work.started), 1)

    def test_asking_again_from_a_callback(self) -> None:
        """A waiter that asks again when it is told starts a new job."""
        again: list[Deferred[str]] = []
        first = self.flight.run("a", self.work)
        first.addCallback(lambda _: again.append(self.flight.run("a", self.work)))
        self.work.started[0].callback("done")
        self.assertEqual(len(self.work.started), 2)
        self.assertNoResult(again[0])

    def test_a_closed_job_is_not_joined(self) -> None:
        """A caller that asks after a job was closed starts another; both end on their own."""
        first = self.flight.run("a", self.work)
        self.flight.close("a")
        self.assertNotIn("a", self.flight)
        second = self.flight.run("a", self.work)
        self.assertEqual((len(self.work.started), len(self.flight)), (2, 2))
        self.work.started[0].callback("first")
        self.assertEqual(self.successResultOf(first), "first")
        self.assertIn("a", self.flight)
        self.work.started[1].callback("second")
        self.assertEqual(self.successResultOf(second), "second")
        self.assertEqual(len(self.flight), 0)

    def test_a_closed_job_is_stopped_too(self) -> None:
        """Stopping reaches the jobs that cannot be joined any more."""
        waiter = self.flight.run("a", self.work)
        self.flight.close("a")
        self.successResultOf(self.flight.stop())
        self.failureResultOf(waiter, CancelledError)

    def test_one_waiter_cancels_another(self) -> None:
        """A waiter that cancels a second one when it is told breaks nothing."""
        first, second = self.flight.run("a", self.work), self.flight.run("a", self.work)
        first.addCallback(lambda _: second.cancel())
        self.work.started[0].callback("done")
        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)

    def test_waiting_for_all_jobs_cancels_nothing(self) -> None:
        """Waiting for the end of all jobs waits, cancels nothing, and can be given up."""
        waiters = [self.flight.run(key, self.work) for key in "ab"]
        settled = [Deferred.fromCoroutine(self.flight.settled()) for _ in range(2)]
        self.work.started[0].errback(ValueError())
        self.failureResultOf(waiters[0], ValueError)
        settled[1].cancel()
        self.failureResultOf(settled[1], CancelledError)
        self.assertNoResult(settled[0])
        self.work.started[1].callback("done")
        self.successResultOf(settled[0])
        self.assertEqual(self.successResultOf(waiters[1]), "done")
        self.successResultOf(Deferred.fromCoroutine(self.flight.settled()))

    def test_stop_cancels_and_waits(self) -> None:
        """Stopping cancels every job and fires when the last has ended."""
        slow: Deferred[None] = Deferred()

        async def winds_down() -> str:
            try:
                await Deferred()
            finally:
                await slow
            return "never"

        waiters = [self.flight.run("a", self.work), self.flight.run("b", winds_down)]
        stopped = self.flight.stop()
        self.failureResultOf(waiters[0], CancelledError)
        self.assertNoResult(stopped)
        slow.callback(None)
        self.successResultOf(stopped)
        self.failureResultOf(waiters[1], CancelledError)
        self.assertEqual(len(self.flight), 0)


class AbandonedJobTests(SynchronousTestCase):
    """Jobs that are cancelled when nobody waits for them any longer."""

    def setUp(self) -> None:
        self.flight: SingleFlight[str, str] = SingleFlight(cancel_abandoned=True)
        self.work = Work()

    def leave(self, waiter: Deferred[str]) -> None:
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)

    def test_job_ends_with_its_last_waiter(self) -> None:
        """A job goes on as long as one waiter is there, and ends with the last."""
        waiters = [self.flight.run("a", self.work) for _ in range(2)]
        self.leave(waiters[0])
        self.assertEqual(len(self.flight), 1)
        self.leave(waiters[1])
        self.assertEqual(len(self.flight), 0)
        [gate] = self.work.started
        self.assertTrue(gate.called)

    def test_next_caller_does_not_get_the_cancellation(self) -> None:
        """A caller that comes while a cancelled job is still ending begins a new one."""
        running: Deferred[str] = Deferred()
        ending: Deferred[str] = Deferred()

        async def slow_to_end() -> str:
            with contextlib.suppress(CancelledError):
                return await running
            return await ending

        self.leave(self.flight.run("a", slow_to_end))
        waiter = self.flight.run("a", self.work)
        ending.callback("")
        self.work.started[0].callback("new")
        self.assertEqual(self.successResultOf(waiter), "new")
        self.assertEqual(len(self.flight), 0)

    def test_job_that_is_kept_goes_on(self) -> None:
        """A job that is to be kept goes on without waiters, and can be joined."""
        waiter = self.flight.run("a", self.work)
        self.flight.keep("a")
        self.leave(waiter)
        joined = self.flight.run("a", self.work)
        self.work.started[0].callback("done")
        self.assertEqual(self.successResultOf(joined), "done")

    def test_waiters_may_leave_while_the_others_are_told(self) -> None:
        """A waiter that makes the last other one leave, when told the result, ends nothing."""
        first, second = [self.flight.run("a", self.work) for _ in range(2)]
        first.addCallback(lambda _: second.cancel())
        self.work.started[0].callback("done")
        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)
