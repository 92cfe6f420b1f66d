"""Tests for :mod:`nixery.runtime.retry`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.runtime.retry import retry


class Flaky(Exception):
    """May pass."""


class PersistTests(SynchronousTestCase):
    """Three attempts, within a time."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.given: list[float] = []
        self.outcomes: list[Exception | str | Deferred[str]] = []

    async def attempt(self, seconds: float) -> str:
        self.given.append(seconds)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return await outcome if isinstance(outcome, Deferred) else outcome

    def persist(self, *outcomes: Exception | str | Deferred[str]) -> Deferred[str]:
        self.outcomes += outcomes
        return Deferred.fromCoroutine(
            retry(
                self.attempt,
                clock=self.clock,
                seconds=20,
                again=lambda error: isinstance(error, Flaky),
            )
        )

    def test_success(self) -> None:
        """An attempt that succeeds at once is the only one, and is given half of the time."""
        self.assertEqual(self.successResultOf(self.persist("yes")), "yes")
        self.assertEqual(self.given, [10])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_three_attempts(self) -> None:
        """There are pauses between attempts, and the third one is the last."""
        result = self.persist(Flaky(), Flaky(), Flaky("last"))
        self.assertEqual(len(self.given), 1)
        self.clock.advance(0.5)
        self.assertEqual(len(self.given), 2)
        self.assertNoResult(result)
        self.clock.advance(2)
        self.assertEqual(str(self.failureResultOf(result, Flaky).value), "last")
        self.assertEqual(self.given, [10, 9.75, 17.5])

    def test_success_at_last(self) -> None:
        """A later attempt may succeed."""
        result = self.persist(Flaky(), "yes")
        self.clock.advance(0.5)
        self.assertEqual(self.successResultOf(result), "yes")

    def test_hopeless(self) -> None:
        """A permanent failure is not tried again."""
        self.failureResultOf(self.persist(ValueError()), ValueError)
        self.assertEqual(len(self.given), 1)

    def test_no_time_left(self) -> None:
        """There is no attempt for which there is no time."""
        slow: Deferred[str] = Deferred()
        result = self.persist(slow)
        self.clock.advance(19.6)
        slow.errback(Flaky())
        self.failureResultOf(result, Flaky)

    def test_cancelling(self) -> None:
        """Cancelling ends an attempt, and a pause, and what comes after."""
        result = self.persist(Deferred())
        result.cancel()
        self.failureResultOf(result, CancelledError)
        result = self.persist(Flaky(), "never")
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
