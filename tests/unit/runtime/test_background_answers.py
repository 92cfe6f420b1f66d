"""Tests for :mod:`nixery.runtime.background_answers`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import ShuttingDown
from nixery.runtime.background_answers import LATE_TTL_SECONDS, BackgroundAnswers
from nixery.runtime.deferreds import TimedOut


class BackgroundAnswersTests(SynchronousTestCase):
    """Questions whose answers come when the test says so."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.answers = BackgroundAnswers[str, str](clock=self.clock)
        self.gates: list[Deferred[str]] = []
        self.ended: list[str] = []

    def ask(self, client: str, key: str) -> Deferred[str]:
        async def work() -> str:
            gate: Deferred[str] = Deferred()
            self.gates.append(gate)
            try:
                return await gate
            except CancelledError:
                self.ended.append(key)
                raise

        return Deferred.fromCoroutine(self.answers.get(client, key, work, seconds=4.0))

    def test_answer_in_time_is_shared_and_not_kept(self) -> None:
        """Clients that ask at the same time share an answer; a later one asks anew."""
        first, second = self.ask("a", "q"), self.ask("b", "q")
        self.gates[0].callback("yes")
        self.assertEqual(["yes"] * 2, [self.successResultOf(each) for each in (first, second)])
        self.assertNoResult(self.ask("a", "q"))
        self.assertEqual(2, len(self.gates))

    def test_late_answer_is_there_for_the_next_try(self) -> None:
        """An answer that comes too late is the one of the next try, for a while."""
        first = self.ask("a", "q")
        self.clock.advance(4)
        self.failureResultOf(first, TimedOut)
        second = self.ask("a", "q")
        self.clock.advance(1)
        self.gates[0].callback("yes")
        self.assertEqual("yes", self.successResultOf(second))
        self.assertEqual("yes", self.successResultOf(self.ask("b", "q")))
        self.assertEqual(1, len(self.gates))
        self.clock.advance(LATE_TTL_SECONDS)
        self.assertNoResult(self.ask("b", "q"))

    def test_late_failure_is_the_answer_of_the_next_try(self) -> None:
        """A failure that comes too late is told to the next try; an unexpected one is not kept."""
        for error, kept in ((ShuttingDown(), True), (RuntimeError(), False)):
            self.gates.clear()
            first = self.ask("a", str(kept))
            self.clock.advance(4)
            self.failureResultOf(first, TimedOut)
            self.gates[0].errback(error)
            second = self.ask("a", str(kept))
            if kept:
                self.failureResultOf(second, ShuttingDown)
            else:
                self.assertNoResult(second)

    def test_work_ends_with_the_client_that_waits(self) -> None:
        """Work for a client that leaves in time ends, unless another one waits for it."""
        first, second = self.ask("a", "q"), self.ask("b", "q")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual([], self.ended)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(["q"], self.ended)

    def test_one_late_question_of_each_client_goes_on(self) -> None:
        """A client's next late question ends the work for its former one."""
        for client, key in (("a", "1"), ("b", "2"), ("a", "3")):
            late = self.ask(client, key)
            self.clock.advance(4)
            self.failureResultOf(late, TimedOut)
        self.assertEqual(["1"], self.ended)
        # The same question again is not a next one.
        again = self.ask("a", "3")
        self.clock.advance(4)
        self.failureResultOf(again, TimedOut)
        self.assertEqual(["1"], self.ended)
        self.gates[2].callback("yes")
        self.assertEqual("yes", self.successResultOf(self.ask("c", "3")))

    def test_stop_ends_all_work(self) -> None:
        """All work ends with the daemon, even if a client waits for it."""
        late = self.ask("a", "1")
        self.clock.advance(4)
        self.failureResultOf(late, TimedOut)
        waiting = self.ask("b", "2")
        self.successResultOf(self.answers.stop())
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(["1", "2"], sorted(self.ended))
