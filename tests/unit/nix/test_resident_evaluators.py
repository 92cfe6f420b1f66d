"""Tests for :mod:`nixery.nix.resident_evaluators`, against repls that a test plays."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.names import DEFAULT_PACKAGES, PackageRequest
from nixery.nix import resident_evaluators, suspects
from nixery.nix.repl import parse_string
from nixery.nix.repl_starter import MAX_SPARE_AGE_SECONDS, START_DELAY_SECONDS
from nixery.nix.resident_evaluator import MAX_WAIT_SECONDS
from nixery.nix.resident_evaluators import (
    IDLE_SECONDS,
    MAX_AGE_SECONDS,
    MAX_FAILED_STARTS,
    RETRY_SECONDS,
    Reply,
    ResidentEvaluators,
)
from nixery.nix.resolve_arguments import Lookup
from nixery.process.errors import CommandMissing, CommandOutput, ProcessFailed
from nixery.sources.source import PackageSet, Revision
from tests.support.nix import literals, nix_context
from tests.support.repl import FakeRepl, FakeReplSpawner, asked_names

SYSTEM = "x86_64-linux"

TIMEOUT = 100.0


def package_set(
    name: str = "a", *, pinned: bool = True, path: str = "", version: str | None = None
) -> PackageSet:
    revision = Revision(
        identity={"kind": "test", "name": name}, pinned=pinned, label=name, version=version
    )
    return PackageSet(revision=revision, path=Path(path or f"/{name}"))


def requests(names: str) -> list[PackageRequest]:
    return [PackageRequest(name=name) for name in names]


def killed() -> ProcessFailed:
    return ProcessFailed(output=CommandOutput(argv=("nix",), signal=9))


class EvaluatorsCase(SynchronousTestCase):
    """Evaluators whose processes a test plays."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.spawner = FakeReplSpawner()
        self.evaluators = self.make()
        self.events = self.enterContext(capturedLogs())

    def make(self, **changes: Any) -> ResidentEvaluators:
        context = nix_context(self.spawner, self.clock)
        self.settings = evolve(context.settings, eval_timeout=TIMEOUT, evaluators=2, **changes)
        evaluators = ResidentEvaluators(evolve(context, settings=self.settings))
        evaluators.enable()
        return evaluators

    def lookup(self, name: str = "a", system: str = SYSTEM, **options: Any) -> Lookup:
        return Lookup(
            settings=self.settings,
            resolve=Path("/share/resolve.nix"),
            package_set=package_set(name, **options),
            system=system,
        )

    @property
    def repls(self) -> list[FakeRepl]:
        return self.spawner.repls

    def ask(self, names: str = "x", lookup: Lookup | None = None) -> Deferred[Reply]:
        """Ask for packages whose names are single letters."""
        return Deferred.fromCoroutine(
            self.evaluators.answer(lookup or self.lookup(), requests(names))
        )

    def answered(self, names: str = "x", lookup: Lookup | None = None, *, by: int = -1) -> None:
        """Ask, and have a process answer; it has to be one that is known by its number."""
        asked = self.ask(names, lookup)
        repl = self.repls[by]
        self.assertEqual(asked_names(repl.asked[-1]), tuple(names))
        repl.answer(json.dumps(names))
        reply = self.successResultOf(asked)
        assert reply.printed is not None
        self.assertEqual(json.loads(parse_string(reply.printed)), names)

    def lose(self, names: str = "x", lookup: Lookup | None = None) -> Reply:
        """Ask, and have the process end instead of an answer."""
        asked = self.ask(names, lookup)
        self.repls[-1].exit(killed())
        reply = self.successResultOf(asked)
        self.assertIsNone(reply.printed)
        return reply

    def assert_unanswered(self, names: str = "x", lookup: Lookup | None = None) -> None:
        """A question is asked of no process."""
        count = sum(len(repl.asked) for repl in self.repls)
        self.assertEqual(self.successResultOf(self.ask(names, lookup)), Reply())
        self.assertEqual(sum(len(repl.asked) for repl in self.repls), count)

    def running(self) -> list[int]:
        return [number for number, repl in enumerate(self.repls) if not repl.ended]

    def warnings(self) -> list[Mapping[str, Any]]:
        return [each for each in self.events if each["log_level"] is LogLevel.warn]

    def stop(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.evaluators.stop()))
        self.assertEqual(self.running(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class QuestionTests(EvaluatorsCase):
    """Tests of questions about package sets that do not change."""

    def test_one_process_reads_the_set_once_and_answers_all_questions(self) -> None:
        """One process is told the package set once, and answers all questions about it."""
        for names in ("x", "yz", "x"):
            self.answered(names)
        [repl] = self.repls
        [line] = repl.bound
        around, strings = literals(line)
        self.assertTrue(around.startswith("lookup = import"))
        self.assertEqual(strings[0], "/share/lookup.nix")
        self.assertIn("/share/package_set.nix", strings)
        self.assertIn("/a", strings)
        self.assertIsNone(repl.command.timeout)
        self.assertEqual(repl.command.environment["XDG_DATA_HOME"], "/home/.local/share")

    def test_each_package_set_and_system_has_a_process(self) -> None:
        """Each package set and each system has a process of its own."""
        self.answered("x")
        self.answered("x", self.lookup(system="aarch64-linux"))
        self.assertEqual(len(self.repls), 2)
        self.assertIn("aarch64-linux", literals(self.repls[1].bound[0])[1])
        self.answered("y", by=0)

    def test_error_leaves_the_process_to_later_questions(self) -> None:
        """A question without an answer leaves the process to later ones."""
        asked = self.ask("x")
        self.repls[0].answer(None)
        reply = self.successResultOf(asked)
        self.assertIsNone(reply.printed)
        self.evaluators.judge(reply, requests("x"), ["x"])
        self.answered("y", by=0)

    def test_process_that_prints_errors_where_there_are_none_is_replaced(self) -> None:
        """A process that prints errors of packages that evaluate is not asked again."""
        asked = self.ask("x")
        self.repls[0].answer(None)
        self.evaluators.judge(self.successResultOf(asked), requests("x"), [])
        self.assertEqual(self.running(), [])
        self.answered("x", by=1)

    def test_process_whose_answer_is_not_understood_is_replaced(self) -> None:
        """A process whose answer is not understood is not asked again."""
        asked = self.ask("x")
        self.repls[0].answer('"surprise"')
        self.evaluators.reject(self.successResultOf(asked))
        self.assertEqual(self.running(), [])
        self.answered("x", by=1)

    def test_questions_are_asked_in_turn(self) -> None:
        """A question waits for the one before it, and its process is asked one at a time."""
        first, second = self.ask("x"), self.ask("y")
        self.clock.advance(MAX_WAIT_SECONDS / 2)
        self.assertEqual(len(self.repls[0].asked), 1)
        self.repls[0].answer("1")
        self.successResultOf(first)
        self.assertNoResult(second)
        self.repls[0].answer("2")
        self.assertIsNotNone(self.successResultOf(second).printed)
        self.assertEqual(len(self.repls), 1)

    def test_question_does_not_wait_for_long(self) -> None:
        """A question behind a long one is left to the ordinary way, and blamed for nothing."""
        first, second = self.ask("x"), self.ask("y")
        self.clock.advance(MAX_WAIT_SECONDS)
        self.assertEqual(self.successResultOf(second), Reply())
        self.repls[0].answer("1")
        self.successResultOf(first)
        self.answered("y", by=0)

    def test_question_behind_one_that_takes_long_does_not_wait_at_all(self) -> None:
        """One slow question costs those of others no second each."""
        first = self.ask("x")
        self.clock.advance(MAX_WAIT_SECONDS)
        for name in "yz":
            self.assertEqual(self.successResultOf(self.ask(name)), Reply())
        self.repls[0].answer("1")
        self.successResultOf(first)
        self.clock.advance(MAX_WAIT_SECONDS)
        self.answered("y", by=0)

    def test_cancelled_question_goes_on_and_the_next_one_is_asked(self) -> None:
        """A cancelled question does not end the process, which answers the next one behind it."""
        first = self.ask("x")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.running(), [0])
        second = self.ask("y")
        self.repls[0].answer("1")
        self.repls[0].answer("2")
        printed = self.successResultOf(second).printed
        assert printed is not None
        self.assertEqual(parse_string(printed), b"2")

    def test_cancelled_question_that_waits_is_never_asked(self) -> None:
        """A question that is cancelled before its turn is never asked."""
        first, second = self.ask("x"), self.ask("y")
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.repls[0].answer("1")
        self.successResultOf(first)
        self.assertEqual(len(self.repls[0].asked), 1)

    def test_nothing_is_kept_unless_it_was_enabled(self) -> None:
        """Nothing is started unless that was enabled, or if there may be no evaluators."""
        self.evaluators = ResidentEvaluators(nix_context(self.spawner, self.clock))
        self.evaluators.prepare(self.lookup())
        self.assert_unanswered()
        self.evaluators = self.make()
        self.evaluators._context = evolve(
            self.evaluators._context, settings=evolve(self.settings, evaluators=0)
        )
        self.evaluators.enable()
        self.assert_unanswered()
        self.assertEqual(self.repls, [])

    def test_process_is_prepared_for_what_is_expected(self) -> None:
        """A process for an expected package set has evaluated what every image has."""
        self.evaluators.prepare(self.lookup())
        self.assertEqual(asked_names(self.repls[0].asked[0]), DEFAULT_PACKAGES)
        self.repls[0].answer("1")
        self.answered("x", by=0)

    def test_stop_ends_all_processes(self) -> None:
        """The stop ends processes that wait and that are asked, and nothing is started later."""
        self.answered("x")
        asked = self.ask("x", self.lookup("b"))
        self.stop()
        self.assertIsNone(self.successResultOf(asked).printed)
        self.assert_unanswered()
        self.evaluators.prepare(self.lookup())
        self.assertEqual(len(self.repls), 2)
        self.assertEqual(self.warnings(), [])


class LossTests(EvaluatorsCase):
    """Tests of processes that end or hang."""

    def test_process_that_ends_costs_its_question_only(self) -> None:
        """A process that ends costs its question an answer, and the next one has a new one."""
        self.answered("x")
        self.assertTrue(self.lose("y").lost)
        self.answered("x", by=1)

    def test_question_behind_the_one_that_ended_it_is_not_blamed(self) -> None:
        """A question that waited for the one that ended the process is not blamed."""
        first, second = self.ask("x"), self.ask("y")
        self.repls[0].exit(killed())
        self.assertTrue(self.successResultOf(first).lost)
        self.assertEqual(self.successResultOf(second), Reply())

    def test_process_that_has_ended_while_it_waited_is_not_asked(self) -> None:
        """A process that has ended while it waited is not asked, and blames no question."""
        for number in range(3):
            self.answered("x", by=number)
            self.repls[number].exit(killed())

    def test_process_that_hangs_is_killed(self) -> None:
        """A process without an answer is killed before the time of the evaluation has passed."""
        asked = self.ask("x")
        self.clock.advance(TIMEOUT / 2 - 0.1)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        self.assertTrue(self.successResultOf(asked).lost)
        self.assertTrue(self.repls[0].killed)
        self.answered("y", by=1)

    def test_question_that_has_ended_two_processes_is_not_asked_again(self) -> None:
        """A question that has ended two processes is not asked of a third one, for some time."""
        self.lose("xy")
        self.lose("yx")
        self.assert_unanswered("xy")
        self.assertEqual(len(self.repls), 2)
        # Other questions, and the same about another revision, are.
        self.answered("x")
        self.answered("xyz")
        self.answered("xy", self.lookup("b"))
        self.clock.advance(suspects.TTL_SECONDS)
        self.answered("xy")

    def test_package_that_is_known_to_fail_is_not_asked_for_in_other_questions(self) -> None:
        """A package that fails in the ordinary way too is not asked for again, beside others."""
        for names in ("vx", "wx"):
            self.evaluators.judge(self.lose(names), requests(names), ["x"])
        self.assert_unanswered("x")
        self.assert_unanswered("yxz")
        self.answered("vwyz")

    def test_package_that_fails_alone_is_counted_once(self) -> None:
        """A package that was asked for alone is asked of a second process, too."""
        self.evaluators.judge(self.lose("x"), requests("x"), ["x"])
        self.evaluators.judge(self.lose("x"), requests("x"), ["x"])
        self.assertEqual(len(self.repls), 2)
        self.assert_unanswered("x")

    def test_cancelled_question_is_blamed_too(self) -> None:
        """A client that gives up first does not hide the question that has ended a process."""
        for number in (0, 1):
            asked = self.ask("x")
            asked.cancel()
            self.failureResultOf(asked, CancelledError)
            self.repls[number].exit(killed())
        self.assert_unanswered("x")

    def test_repl_that_is_not_understood_is_given_up_with_one_warning(self) -> None:
        """A repl that behaves otherwise is given up after some tries, with one warning."""
        self.spawner.understands = False
        for _ in range(MAX_FAILED_STARTS):
            self.assertTrue(self.successResultOf(self.ask("x")).lost)
        for _ in range(2):
            self.assert_unanswered("x")
        self.assertEqual(len(self.repls), MAX_FAILED_STARTS)
        self.assertEqual(self.running(), [])
        [warning] = self.warnings()
        self.assertIn("nix repl", warning["log_format"])

    def give_up(self) -> None:
        self.spawner.understands = False
        for _ in range(MAX_FAILED_STARTS):
            self.successResultOf(self.ask("x"))

    def test_repl_is_tried_again_later(self) -> None:
        """A fault that has passed, as while the Nix daemon was restarted, is over for all."""
        self.give_up()
        self.spawner.understands = True
        self.clock.advance(RETRY_SECONDS - 1)
        self.assert_unanswered("x")
        self.clock.advance(1)
        # No client waits for the one that is tried.
        self.assert_unanswered("x")
        self.assertEqual(asked_names(self.repls[-1].asked[-1]), DEFAULT_PACKAGES)
        self.repls[-1].answer("1")
        self.assertEqual(self.running(), [])
        self.answered("x")
        self.assertEqual(len(self.warnings()), 1)
        self.stop()

    def test_repl_that_stays_as_it_is_is_tried_again_without_a_warning(self) -> None:
        """A repl that behaves otherwise for good costs no client anything more."""
        self.give_up()
        for number in range(3):
            self.clock.advance(RETRY_SECONDS)
            self.assertEqual(len(self.repls), MAX_FAILED_STARTS + 1 + number)
            self.assert_unanswered("x")
        self.assertEqual(len(self.warnings()), 1)
        self.stop()

    def test_missing_program_is_given_up_too(self) -> None:
        """Evaluators are given up too if there is no such program."""
        self.spawner.failure = CommandMissing(command="nix")
        for _ in range(MAX_FAILED_STARTS + 1):
            self.assertIsNone(self.successResultOf(self.ask("x")).printed)
        self.assertIn("nix was not found", self.warnings()[0]["reason"])

    def test_process_that_works_makes_up_for_one_that_did_not_start(self) -> None:
        """Processes that do not start now and then are no reason to give up."""
        for _ in range(MAX_FAILED_STARTS + 1):
            self.spawner.understands = False
            self.successResultOf(self.ask("x"))
            self.spawner.understands = True
            self.answered("x")
            self.lose("y")
            self.clock.advance(suspects.TTL_SECONDS)
        self.assertEqual(self.warnings(), [])


class BoundTests(EvaluatorsCase):
    """Tests of how many processes are kept, and for how long."""

    def test_process_that_was_used_least_recently_makes_room(self) -> None:
        """The process that was used least recently makes room for a new one."""
        self.answered("x", self.lookup("a"))
        self.answered("x", self.lookup("b"))
        self.answered("x", self.lookup("a"), by=0)
        self.answered("x", self.lookup("c"))
        self.assertEqual(self.running(), [0, 2])
        self.answered("x", self.lookup("a"), by=0)

    def test_process_that_makes_room_answers_first(self) -> None:
        """A process that makes room while it is asked answers first."""
        asked = self.ask("x", self.lookup("a"))
        self.answered("x", self.lookup("b"))
        self.answered("x", self.lookup("c"))
        self.assertEqual(self.running(), [0, 1, 2])
        self.repls[0].answer("1")
        self.assertIsNotNone(self.successResultOf(asked).printed)
        self.assertEqual(self.running(), [1, 2])

    def test_process_that_is_not_asked_for_a_while_ends(self) -> None:
        """A process that is not asked for a while ends."""
        self.answered("x")
        self.clock.advance(IDLE_SECONDS - 1)
        self.answered("x", by=0)
        self.clock.advance(IDLE_SECONDS - 1)
        self.assertEqual(self.running(), [0])
        self.clock.advance(1)
        self.assertEqual(self.running(), [])
        self.answered("x", by=1)

    def assert_replaced(self, old: int) -> None:
        """A process answers until another one has evaluated what every image has."""
        self.clock.advance(START_DELAY_SECONDS)
        new = len(self.repls) - 1
        self.assertNotEqual(new, old)
        self.assertEqual(asked_names(self.repls[new].asked[0]), DEFAULT_PACKAGES)
        self.answered("x", by=old)
        self.clock.advance(START_DELAY_SECONDS)
        self.repls[new].answer("1")
        self.assertEqual(self.running(), [new])
        self.answered("x", by=new)
        self.clock.advance(START_DELAY_SECONDS)
        self.assertEqual(len(self.repls), new + 1)

    def test_process_is_replaced_after_so_many_answers(self) -> None:
        """A process that has given so many answers is replaced by one that is prepared."""
        self.patch(resident_evaluators, "MAX_ANSWERS", 3)
        for _ in range(3):
            self.answered("x", by=0)
        self.assert_replaced(0)

    def test_process_is_replaced_at_an_age(self) -> None:
        """An old process is replaced by one that is prepared."""
        for _ in range(int(MAX_AGE_SECONDS / (IDLE_SECONDS - 1))):
            self.answered("x")
            self.clock.advance(IDLE_SECONDS - 1)
        self.answered("x", by=0)
        self.clock.advance(5)
        self.answered("x", by=0)
        self.assert_replaced(0)

    def test_process_that_uses_much_memory_is_replaced(self) -> None:
        """A process that uses a large share of the memory that it may use is replaced."""
        self.spawner.pid = os.getpid()
        self.evaluators = self.make(max_eval_memory=2**40)
        self.answered("x")
        self.clock.advance(START_DELAY_SECONDS)
        self.assertEqual(len(self.repls), 1)
        self.stop()
        self.evaluators = self.make(max_eval_memory=2**20)
        self.answered("x")
        self.spawner.pid = None
        self.assert_replaced(1)

    def test_without_a_successor_the_next_question_has_a_new_process(self) -> None:
        """If a successor ends at once, the old process ends too, and a question starts anew."""
        self.patch(resident_evaluators, "MAX_ANSWERS", 1)
        self.answered("x")
        self.clock.advance(START_DELAY_SECONDS)
        self.repls[1].exit(killed())
        self.assertEqual(self.running(), [])
        self.answered("x", by=2)

    def test_successor_that_is_not_needed_any_more_ends(self) -> None:
        """A successor ends if its package set has made room meanwhile."""
        self.patch(resident_evaluators, "MAX_ANSWERS", 1)
        self.answered("x", self.lookup("a"))
        self.clock.advance(START_DELAY_SECONDS)
        self.patch(resident_evaluators, "MAX_ANSWERS", 100)
        self.answered("x", self.lookup("b"))
        self.answered("x", self.lookup("c"))
        self.repls[1].answer("1")
        self.assertEqual(self.running(), [2, 3])


class ChangingSetTests(EvaluatorsCase):
    """Tests of package sets that may change at any time."""

    def setUp(self) -> None:
        super().setUp()
        self.changing = self.lookup("a", pinned=False)

    def test_each_question_has_a_process(self) -> None:
        """Each question has a process of its own, which ends with the answer."""
        for number in range(3):
            self.answered("x", self.changing)
            self.assertEqual(self.running(), [])
            self.assertEqual(len(self.repls), number + 1)
            self.clock.advance(START_DELAY_SECONDS / 2)

    def test_process_for_the_next_question_waits(self) -> None:
        """A process for the next question is started some time later, and is told nothing."""
        self.answered("x", self.changing)
        self.clock.advance(START_DELAY_SECONDS)
        self.assertEqual(self.running(), [1])
        self.assertEqual((self.repls[1].bound, self.repls[1].asked), ([], []))
        self.answered("y", evolve(self.changing, system="aarch64-linux"), by=1)
        self.assertIn("aarch64-linux", literals(self.repls[1].bound[0])[1])
        self.assertEqual(len(self.repls), 2)

    def test_one_process_waits_for_the_package_set_that_was_used_last(self) -> None:
        """One process waits, for the package set that was used last."""
        other = self.lookup("b", pinned=False)
        self.answered("x", self.changing)
        self.clock.advance(START_DELAY_SECONDS)
        self.answered("x", other)
        self.assertEqual(self.running(), [])
        self.clock.advance(START_DELAY_SECONDS)
        self.assertEqual(self.running(), [3])
        self.answered("x", other, by=3)

    def test_delay_starts_anew_with_each_question(self) -> None:
        """The delay starts anew with each question, as clients are still active."""
        for _ in range(3):
            self.answered("x", self.changing)
            self.clock.advance(START_DELAY_SECONDS * 0.75)
        self.assertEqual(len(self.repls), 3)
        self.clock.advance(START_DELAY_SECONDS * 0.25)
        self.assertEqual(len(self.repls), 4)

    def test_process_that_waits_is_replaced_again_and_again(self) -> None:
        """A process that is not needed is replaced, again and again."""
        self.evaluators.prepare(self.changing)
        self.clock.advance(0)
        for number in range(3):
            self.assertEqual(self.running(), [number])
            self.clock.advance(MAX_SPARE_AGE_SECONDS)
        self.answered("x", self.changing, by=3)

    def test_process_that_has_ended_while_it_waited_is_not_used(self) -> None:
        """A process that has ended while it waited is not used."""
        self.evaluators.prepare(self.changing)
        self.clock.advance(0)
        self.repls[0].exit(killed())
        self.answered("x", self.changing, by=1)

    def test_expecting_the_same_leaves_the_process_and_its_age_alone(self) -> None:
        """Expecting the same set leaves the process that waits alone, and its age."""
        self.evaluators.prepare(self.changing)
        self.clock.advance(0)
        self.clock.advance(MAX_SPARE_AGE_SECONDS / 2)
        self.evaluators.prepare(self.changing)
        self.clock.advance(MAX_SPARE_AGE_SECONDS / 2)
        self.assertEqual(self.running(), [1])

    def test_cancelled_question_ends_its_process(self) -> None:
        """A question that is cancelled ends its process, and another one waits later."""
        asked = self.ask("x", self.changing)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertTrue(self.repls[0].killed)
        self.clock.advance(START_DELAY_SECONDS)
        self.assertEqual(self.running(), [1])

    def test_stop_ends_the_process_that_waits(self) -> None:
        """The stop ends the process that waits, and those that were to be started."""
        self.evaluators.prepare(self.changing)
        self.clock.advance(0)
        self.stop()
        self.evaluators = self.make()
        self.answered("x", self.changing)
        self.stop()

    def test_cancelled_question_is_asked_again(self) -> None:
        """A question that was cancelled is not blamed for the end of its process."""
        for _ in range(3):
            asked = self.ask("x", self.changing)
            asked.cancel()
            self.failureResultOf(asked, CancelledError)
        self.answered("x", self.changing)

    def test_version_that_was_observed_is_kept(self) -> None:
        """As long as no change is seen, one process answers all questions; a spare one waits."""
        first = self.lookup(pinned=False, version="1")
        self.answered("x", first)
        self.answered("y", first)
        self.clock.advance(START_DELAY_SECONDS)
        self.assertEqual(self.running(), [0, 1])
        self.assertEqual(self.repls[1].bound, [])
        self.answered("x", first, by=0)

    def test_process_of_a_set_makes_room_for_that_of_its_next_version(self) -> None:
        """The process of what a path held before makes room for that of what it holds now."""
        first = self.lookup(pinned=False, version="1")
        self.answered("x", first)
        self.answered("x", evolve(first, system="aarch64-linux"))
        self.clock.advance(START_DELAY_SECONDS)
        self.answered("x", self.lookup(pinned=False, version="2"), by=2)
        self.assertEqual(self.running(), [1, 2])
