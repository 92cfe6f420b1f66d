"""Tests for :mod:`nixery.nix.prewarm`, against processes that a test plays."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.nix.prewarm import (
    MAX_AGE_SECONDS,
    START_DELAY_SECONDS,
    IdleEvaluator,
    PrewarmedEvaluator,
)
from nixery.process.errors import CommandMissing, CommandOutput, ProcessFailed
from nixery.process.spawner import Command
from tests.support.nix import FakeProcess, FakeSpawner, nix_context

QUESTION = b"import ./it { }\n"


def command(name: str = "one") -> Command:
    return Command(argv=("nix", name, "-"), environment={})


def failed() -> ProcessFailed:
    return ProcessFailed(output=CommandOutput(argv=("nix",), status=1))


class PrewarmedEvaluatorTests(SynchronousTestCase):
    """Tests of the prewarmed process: its start, use, replacement and end."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.children = FakeSpawner()
        self.prewarmed = PrewarmedEvaluator(nix_context(self.children, self.clock))

    def take(self, name: str = "one") -> IdleEvaluator | None:
        return self.prewarmed.take(command(name))

    def taken(self, name: str = "one") -> IdleEvaluator:
        waiting = self.take(name)
        assert waiting is not None
        return waiting

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.prewarmed.stop())

    def ready(self, name: str = "one") -> FakeProcess:
        """Have a process wait."""
        self.prewarmed.prewarm_evaluation(command(name), 0)
        self.clock.advance(0)
        child = self.children.processes[-1]
        self.assertEqual(command(name).argv, child.command.argv)
        return child

    def assert_dismissed(self, child: FakeProcess) -> None:
        """It was given something to evaluate, which needs nothing, and nothing else."""
        self.assertEqual(b"{ found = null; }\n", child.stdin)
        self.assertTrue(child.stdin_closed)
        self.assertFalse(child.stopped)

    def assert_waits(self, child: FakeProcess) -> None:
        self.assertEqual((b"", False, False), (child.stdin, child.stdin_closed, child.stopped))

    # -- when one is started ----------------------------------------------------------

    def test_nothing_is_started_before_something_is_expected(self) -> None:
        """Nothing is started before something is expected."""
        self.clock.advance(MAX_AGE_SECONDS)
        self.assertIsNone(self.take())
        self.assertEqual([], self.children.processes)

    def test_process_is_started_when_the_delay_is_over_and_is_sent_nothing(self) -> None:
        """A process is started when the delay is over, and is sent nothing."""
        self.prewarmed.prewarm_evaluation(command())
        self.clock.advance(START_DELAY_SECONDS / 2)
        self.assertEqual([], self.children.processes)
        self.assertIsNone(self.take())
        self.clock.advance(START_DELAY_SECONDS / 2)
        [child] = self.children.processes
        self.assertEqual(command().argv, child.command.argv)
        self.assert_waits(child)

    def test_delay_starts_anew_with_each_expected_command(self) -> None:
        """The delay starts anew with each expected command, as clients are still active."""
        for name in ("one", "one", "two"):
            self.prewarmed.prewarm_evaluation(command(name))
            self.clock.advance(START_DELAY_SECONDS * 0.75)
        self.assertEqual([], self.children.processes)
        self.clock.advance(START_DELAY_SECONDS * 0.25)
        [child] = self.children.processes
        self.assertEqual(command("two").argv, child.command.argv)

    def test_expecting_same_command_leaves_waiting_process_and_its_age_alone(self) -> None:
        """Expecting the same command leaves the waiting process and its age alone."""
        child = self.ready()
        self.clock.advance(MAX_AGE_SECONDS - START_DELAY_SECONDS)
        self.prewarmed.prewarm_evaluation(command())
        self.clock.advance(START_DELAY_SECONDS / 2)
        self.assertEqual([child], self.children.processes)
        self.assert_waits(child)
        self.clock.advance(START_DELAY_SECONDS / 2)
        self.assert_dismissed(child)

    def test_expecting_another_command_ends_the_waiting_process_at_once(self) -> None:
        """Expecting another command ends the waiting process at once."""
        old = self.ready()
        self.prewarmed.prewarm_evaluation(command("two"))
        self.assert_dismissed(old)
        self.assertIsNone(self.take("one"))
        self.assertIsNone(self.take("two"))
        self.clock.advance(START_DELAY_SECONDS)
        self.assertEqual(2, len(self.children.processes))
        self.taken("two")

    def test_unused_process_is_replaced_again_and_again(self) -> None:
        """An unused process is replaced, again and again."""
        self.ready()
        for count in (1, 2, 3):
            self.assertEqual(count, len(self.children.processes))
            self.clock.advance(MAX_AGE_SECONDS - 1)
            self.assert_waits(self.children.processes[-1])
            self.clock.advance(1)
            self.assert_dismissed(self.children.processes[-2])
        self.assert_waits(self.children.processes[-1])

    def test_one_process_waits_at_a_time(self) -> None:
        """One process waits at a time, for any sequence of expected commands."""
        for name in ("one", "two", "two", "one", "three"):
            self.prewarmed.prewarm_evaluation(command(name))
            for _ in range(3):
                self.clock.advance(START_DELAY_SECONDS)
                waiting = [child for child in self.children.processes if not child.stdin_closed]
                self.assertEqual(1, len(waiting))
        self.assertEqual(4, len(self.children.processes))

    # -- taking the process -----------------------------------------------------------

    def test_process_is_given_once_and_no_other_is_started_until_one_is_expected(self) -> None:
        """A process is given once, and no other is started until one is expected."""
        child = self.ready()
        self.taken()
        self.assertIsNone(self.take())
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assert_waits(child)
        self.prewarmed.prewarm_evaluation(command())
        self.clock.advance(START_DELAY_SECONDS)
        self.assertEqual(2, len(self.children.processes))
        self.assert_waits(child)
        self.taken()

    def test_taken_for_another(self) -> None:
        """It is for the same command only, and waits on where another is asked for."""
        child = self.ready()
        self.assertIsNone(self.take("two"))
        self.assert_waits(child)
        self.taken()

    def test_dead_process_is_replaced(self) -> None:
        """One that has ended is not given, and is replaced when one is expected."""
        self.ready().exit()
        self.assertIsNone(self.take())
        self.prewarmed.prewarm_evaluation(command())
        self.clock.advance(START_DELAY_SECONDS)
        self.assertEqual(2, len(self.children.processes))
        self.taken()

    def test_ended_process_is_replaced_at_its_age_and_sent_nothing(self) -> None:
        """A process that has ended is replaced at its age, too, and is sent nothing."""
        child = self.ready()
        child.result.errback(failed())
        self.clock.advance(MAX_AGE_SECONDS)
        self.assertEqual((b"", False), (child.stdin, child.stdin_closed))
        self.taken()

    def test_without_nix_no_process_waits_and_nothing_fails(self) -> None:
        """Without Nix no process waits, and nothing fails."""
        self.children.missing = True
        self.prewarmed.prewarm_evaluation(command(), 0)
        self.clock.advance(0)
        self.assertIsNone(self.take())
        self.successResultOf(self.stop())

    # -- the end ----------------------------------------------------------------------

    def test_all_processes_end_at_stop(self) -> None:
        """All end: the one that was let go, the one in use and the one that waits."""
        self.ready()
        self.taken()
        self.ready("two")
        self.ready("three")
        for child in self.children.processes:
            child.exit_delay = Deferred()
        stopping = self.stop()
        # None waits for another to end before it is told.
        self.assertEqual([True] * 3, [child.stopped for child in self.children.processes])
        for child in self.children.processes:
            self.assertNoResult(stopping)
            assert child.exit_delay is not None
            child.exit_delay.callback(None)
        self.successResultOf(stopping)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertIsNone(self.take("three"))

    def test_stop_cancels_a_start_that_is_due(self) -> None:
        """Stopping cancels a start that is due, and does not wait for an ended process."""
        self.ready().exit()
        self.prewarmed.prewarm_evaluation(command("two"))
        self.successResultOf(self.stop())
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual(1, len(self.children.processes))


class WaitingTests(SynchronousTestCase):
    """A process that is asked."""

    def setUp(self) -> None:
        self.children = FakeSpawner()
        self.ends = 0
        self.waiting = IdleEvaluator(self.children, command())

    def start(self) -> FakeProcess:
        self.waiting.start(self.end)
        return self.children.processes[-1]

    def end(self) -> None:
        self.ends += 1

    def ask(self) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self.waiting.evaluate(QUESTION))

    def test_process_is_sent_the_question_and_its_end(self) -> None:
        """The process is sent the question and its end; the answer is all that it prints."""
        child = self.start()
        asking = self.ask()
        self.assertEqual((QUESTION, True), (child.stdin, child.stdin_closed))
        child.print(b'{"ans', b"", b'wers"', b": []}\n")
        self.assertNoResult(asking)
        self.assertFalse(self.waiting.has_exited)
        child.exit()
        self.assertEqual(b'{"answers": []}\n', self.successResultOf(asking))
        self.assertTrue(self.waiting.has_exited)
        self.assertEqual(1, self.ends)

    def test_process_that_fails_reports_its_error_whatever_it_has_printed(self) -> None:
        """A process that fails reports its error, whatever it has printed."""
        child = self.start()
        asking = self.ask()
        child.print(b"{}")
        error = failed()
        child.result.errback(error)
        self.assertIs(error, self.failureResultOf(asking, ProcessFailed).value)
        self.assertEqual(1, self.ends)

    def test_process_that_has_ended_is_sent_nothing(self) -> None:
        """A process that has ended already is sent nothing, and its end is reported."""
        child = self.start()
        child.result.errback(failed())
        self.failureResultOf(self.ask(), ProcessFailed)
        self.assertEqual((b"", False), (child.stdin, child.stdin_closed))

    def test_process_that_cannot_be_started_is_reported(self) -> None:
        """So is one that could not be started."""
        self.children.missing = True
        self.waiting.start(self.end)
        self.assertEqual((True, 1), (self.waiting.has_exited, self.ends))
        self.failureResultOf(self.ask(), CommandMissing)

    def test_cancelled_question_ends_when_the_process_has_ended_and_not_before(self) -> None:
        """A cancelled question ends when the process has ended, and not before."""
        child = self.start()
        child.exit_delay = Deferred()
        asking = self.ask()
        asking.cancel()
        self.assertTrue(child.stopped)
        self.assertNoResult(asking)
        child.print(b"too late")
        child.exit_delay.callback(None)
        self.failureResultOf(asking, CancelledError)
        self.assertEqual(1, self.ends)

    def test_question_fails_when_its_process_is_stopped(self) -> None:
        """A question to a process that is stopped from elsewhere fails with UnexpectedOutput."""
        child = self.start()
        asking = self.ask()
        child.print(b"{}")
        self.waiting.kill()
        self.assertTrue(child.stopped)
        self.failureResultOf(asking, UnexpectedOutput)

    def test_question_fails_when_its_process_is_broken(self) -> None:
        """So does a question to a process that ended with an unforeseen error."""
        child = self.start()
        asking = self.ask()
        child.result.errback(ZeroDivisionError())
        self.failureResultOf(asking, UnexpectedOutput)

    def test_process_that_was_not_started_is_sent_nothing(self) -> None:
        """A process that was not started is sent nothing, and there is no end to wait for."""
        self.waiting.send(QUESTION)
        self.waiting.close_stdin()
        self.waiting.kill()
        self.successResultOf(Deferred.fromCoroutine(self.waiting.wait_until_exited()))
        self.assertFalse(self.waiting.has_exited)

    def test_process_that_has_ended_is_sent_nothing_any_more_and_ends_once(self) -> None:
        """A process that has ended is sent nothing any more, and ends once."""
        child = self.start()
        waits = [Deferred.fromCoroutine(self.waiting.wait_until_exited()) for _ in range(2)]
        child.exit()
        self.waiting.send(QUESTION)
        self.waiting.close_stdin()
        self.waiting.kill()
        self.assertEqual(
            (b"", False, False), (child.stdin, child.stdin_closed, child.stopped), "it has ended"
        )
        for wait in (*waits, Deferred.fromCoroutine(self.waiting.wait_until_exited())):
            self.successResultOf(wait)
        self.assertEqual(1, self.ends)
