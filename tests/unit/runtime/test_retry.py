"""Tests for :mod:`nixery.runtime.retry`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.runtime.retry import THREE_ATTEMPTS, Attempts, Backoff, parse_retry_after, retry


class Flaky(Exception):
    """May pass."""


class Busy(Flaky):
    """May pass, and says when."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


class RetryTests(SynchronousTestCase):
    """Three attempts, within a time."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.given: list[float] = []
        self.outcomes: list[Exception | str | Deferred[str]] = []
        self.failures: list[tuple[str, float]] = []

    async def attempt(self, seconds: float) -> str:
        self.given.append(seconds)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return await outcome if isinstance(outcome, Deferred) else outcome

    def begin(self, *outcomes: Exception | str | Deferred[str]) -> Deferred[str]:
        self.outcomes += outcomes
        return Deferred.fromCoroutine(
            retry(
                self.attempt,
                THREE_ATTEMPTS,
                clock=self.clock,
                timeout=20,
                is_temporary=lambda error: isinstance(error, Flaky),
                on_failure=lambda error, pause: self.failures.append((str(error), pause)),
            )
        )

    def test_attempt_that_succeeds_at_once_is_only_one_and_is_given_half_of_time(self) -> None:
        """An attempt that succeeds at once is the only one, and is given half of the time."""
        self.assertEqual(self.successResultOf(self.begin("yes")), "yes")
        self.assertEqual(self.given, [10])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_there_are_pauses_between_attempts_and_the_third_one_is_the_last(self) -> None:
        """There are pauses between attempts, and the third one is the last."""
        result = self.begin(Flaky("first"), Flaky("second"), Flaky("last"))
        self.assertEqual(len(self.given), 1)
        self.clock.advance(0.5)
        self.assertEqual(len(self.given), 2)
        self.assertNoResult(result)
        self.clock.advance(2)
        self.assertEqual(str(self.failureResultOf(result, Flaky).value), "last")
        self.assertEqual(self.given, [10, 9.75, 17.5])
        self.assertEqual(self.failures, [("first", 0.5), ("second", 2)])

    def test_success_at_last(self) -> None:
        """A later attempt may succeed."""
        result = self.begin(Flaky(), "yes")
        self.clock.advance(0.5)
        self.assertEqual(self.successResultOf(result), "yes")

    def test_permanent_failure_is_not_tried_again(self) -> None:
        """A permanent failure is not tried again."""
        self.failureResultOf(self.begin(ValueError()), ValueError)
        self.assertEqual(len(self.given), 1)

    def test_no_time_left(self) -> None:
        """There is no attempt for which there is no time."""
        slow: Deferred[str] = Deferred()
        result = self.begin(slow)
        self.clock.advance(19.6)
        slow.errback(Flaky())
        self.failureResultOf(result, Flaky)

    def test_pause_that_a_failure_asks_for_is_made_up_to_the_longest(self) -> None:
        """The pause that a failure asks for is made, up to the longest."""
        for asked, pause in ((1.5, 1.5), (17.0, 2.0), (None, 0.5), (0.0, 0.5)):
            busy = Busy(asked)
            result = self.begin(busy, "yes")
            self.assertEqual(self.failures.pop(), (str(busy), pause))
            self.clock.advance(pause)
            self.assertEqual(self.successResultOf(result), "yes")

    def test_cancelling_ends_an_attempt_and_a_pause_and_what_comes_after(self) -> None:
        """Cancelling ends an attempt, and a pause, and what comes after."""
        result = self.begin(Deferred())
        result.cancel()
        self.failureResultOf(result, CancelledError)
        result = self.begin(Flaky(), "never")
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AttemptsTests(SynchronousTestCase):
    """Pauses, and the end of attempts."""

    def test_pauses_grow_up_to_the_longest(self) -> None:
        """Each pause is longer than the one before, up to the longest; without bounds, for ever."""
        attempts = Attempts(Backoff(first=1, longest=60), 0)
        pauses = [attempts.next_pause(0) for _ in range(9)]
        self.assertEqual(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60])

    def test_number_of_attempts_is_bounded(self) -> None:
        """The number of attempts is bounded."""
        attempts = Attempts(Backoff(first=1, longest=1, attempts=3), 0)
        self.assertEqual([attempts.next_pause(0) for _ in range(4)], [1, 1, None, None])

    def test_no_attempt_at_the_deadline(self) -> None:
        """No attempt begins at the deadline or later."""
        attempts = Attempts(Backoff(first=1, longest=9), 100, 10)
        self.assertEqual(attempts.next_pause(108.9), 1)
        self.assertIsNone(attempts.next_pause(108.0))
        self.assertIsNone(attempts.next_pause(102.0, 8.5))

    def test_random_part_of_a_pause_is_left_out_and_no_more_than_that(self) -> None:
        """A random part of a pause is left out, and no more than that."""
        attempts = Attempts(Backoff(first=8, longest=8, jitter=0.25), 0)
        pauses = [attempts.next_pause(0) for _ in range(50)]
        self.assertTrue(all(pause is not None and 6 <= pause <= 8 for pause in pauses), pauses)
        self.assertGreater(len(set(pauses)), 1)

    def test_attempt_may_take_half_of_the_time_left_and_the_last_one_all_of_it(self) -> None:
        """An attempt may take half of the time left, and the last one all of it."""
        attempts = Attempts(Backoff(first=1, longest=1, attempts=2), 0, 10)
        self.assertEqual(attempts.time_limit(2), 4)
        attempts.next_pause(2)
        self.assertEqual(attempts.time_limit(4), 6)


class RetryAfterTests(SynchronousTestCase):
    """Tests of the header Retry-After."""

    def test_only_seconds_in_ascii_digits_below_a_million_are_taken(self) -> None:
        """Only seconds in ASCII digits, below a million, are taken."""
        self.assertEqual([parse_retry_after(each) for each in ("0", "7", "999999")], [0, 7, 999999])
        for value in (None, "", "-1", "1.5", "1000000", "٣", "Wed, 21 Oct 2026 07:28:00 GMT"):
            self.assertIsNone(parse_retry_after(value), value)
