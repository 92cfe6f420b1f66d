"""Tests of evaluations, and of those that are repeated."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.candidates import find_candidates
from nixery.image.errors import PackagesRefused
from nixery.image.names import PackageRequest
from nixery.image.packages import Evaluation
from nixery.nix.arguments import NixSettings
from nixery.nix.context import NixContext
from nixery.nix.errors import EvaluationFailed, EvaluationTimedOut, NixMisconfigured, NixUnusable
from nixery.nix.evaluator import MAX_EXPLAINED_NAMES, Evaluator
from nixery.nix.prewarm import START_DELAY_SECONDS
from nixery.process.errors import (
    CommandMissing,
    CommandOutput,
    OutputTooLarge,
    ProcessFailed,
    ProcessTimedOut,
)
from nixery.process.spawner import Command, ProcessResult
from nixery.sources.source import PackageSet, path_revision
from nixery.testing.fakes import InlineWorkers
from tests.support.nix import literals

PACKAGE_SET = PackageSet(revision=path_revision(Path("/pkgs")), path=Path("/pkgs"))
OTHER_SET = PackageSet(revision=path_revision(Path("/other")), path=Path("/other"))

# What a question gives to the expression that it imports.
ARGUMENT = re.compile(r"(\w+) = ")


def command_output(stderr: str = "", signal: int | None = None) -> CommandOutput:
    status = 1 if signal is None else None
    return CommandOutput(argv=("nix-instantiate",), status=status, signal=signal, stderr=stderr)


@define(eq=False)
class Ahead:
    """A process that was started ahead of its question."""

    command: Command
    heard: bytes = b""
    question: Deferred[str] = field(factory=Deferred)
    ended: bool = False
    stopped: bool = False

    def write(self, data: bytes, /) -> None:
        self.heard += data

    def closeStdin(self) -> None:  # noqa: N802  # Twisted's name
        self.question.callback(self.heard.decode())

    @property
    def dismissed(self) -> bool:
        return self.question.called and self.heard == b"{ found = null; }\n"


@define(eq=False)
class FakeEvaluations:
    """
    A :class:`nixery.process.spawner.Spawner` that evaluates a set of packages of which some
    throw, some end the evaluation, and all others exist.

    :ivar level: the names that exist; empty: all.
    :ivar asked: the names of each question, and whether it was guarded.
    :ivar fetching: the names whose evaluation fetches.
    :ivar fetches: what each question might fetch.
    :ivar ahead: the processes that were started ahead of their questions.
    :ivar broken: whether Nix cannot store a file either.
    :ivar passes: whether ``set_failure`` has passed once it has stored a file.
    :ivar probes: how often it was asked to store a file.
    :ivar ahead_failure: how those end that are asked.
    """

    clock: Clock
    throwing: dict[str, str] = field(factory=dict)
    fatal: dict[str, ProcessFailed] = field(factory=dict)
    set_failure: Exception | None = None
    broken: bool = False
    passes: bool = False
    probes: int = 0
    seconds: float = 0.0
    together: int = 1000
    level: frozenset[str] = frozenset()
    asked: list[tuple[tuple[str, ...], bool]] = field(factory=list)
    waiting: list[Deferred[None]] | None = None
    fetching: frozenset[str] = frozenset()
    fetches: list[str] = field(factory=list)

    ahead: list[Ahead] = field(factory=list)
    ahead_failure: ProcessFailed | None = None

    async def run(self, command: Command) -> ProcessResult:
        if command.stdio_handler is not None:
            return await self.run_ahead(command)
        if "--expr" in command.argv:
            self.probes += 1
            if self.passes:
                self.set_failure = None
            if self.broken:
                raise ProcessFailed(output=command_output("error: surprise"))
            return ProcessResult(stdout=b"", stderr="")
        names, guarded = self.note(dict(zip(command.argv, command.argv[1:], strict=False)))
        if self.waiting is not None:
            self.waiting.append(Deferred())
            await self.waiting[-1]
        assert command.timeout is not None
        if self.seconds > command.timeout:
            self.clock.advance(command.timeout)
            raise ProcessTimedOut(output=command_output(), seconds=command.timeout)
        self.clock.advance(self.seconds)
        return ProcessResult(stdout=self.answer(names, guarded=guarded), stderr="")

    async def run_ahead(self, command: Command) -> ProcessResult:
        assert command.stdio_handler is not None
        process = Ahead(command)
        self.ahead.append(process)
        command.stdio_handler.started(process)
        try:
            question = await process.question
            if process.dismissed:
                return ProcessResult(stdout=b"null", stderr="")
            around, (_, *values) = literals(question)
            names, _ = self.note(dict(zip(ARGUMENT.findall(around), values, strict=True)))
            if self.seconds:
                await deferLater(self.clock, self.seconds)
            if self.ahead_failure is not None:
                raise self.ahead_failure
            command.stdio_handler.data_received(self.answer(names, guarded=True))
        except CancelledError:
            process.stopped = True
            raise
        finally:
            process.ended = True
        return ProcessResult(stdout=b"", stderr="")

    def note(self, values: Mapping[str, str]) -> tuple[tuple[str, ...], bool]:
        names = tuple(item["name"] for item in json.loads(values["names"]))
        guarded = values["guard"] == "true"
        self.asked.append((names, guarded))
        self.fetches.append(values["fetches"])
        if values["fetches"] == "forbidden" and not self.fetching.isdisjoint(names):
            raise ProcessFailed(
                output=command_output(
                    "error: access to URI 'https://h/a' is forbidden in restricted mode"
                )
            )
        return names, guarded

    def answer(self, names: Sequence[str], *, guarded: bool) -> bytes:
        if self.set_failure is not None:
            raise self.set_failure
        for name in names:
            if name in self.fatal:
                raise self.fatal[name]
            if name in self.throwing and not guarded:
                raise ProcessFailed(output=command_output(f"error: {self.throwing[name]}"))
        if len(names) > self.together:
            raise ProcessFailed(output=command_output("error: out of memory"))
        answers = [self.record(name) for name in names]
        levels = {"[]": sorted(self.level)} if any("rest" in each for each in answers) else {}
        return json.dumps({"answers": answers, "levels": levels}).encode()

    def record(self, name: str) -> dict[str, Any]:
        if self.level and name not in self.level:
            return {"error": "not-found", "path": [], "rest": name.split(".")}
        if name in self.throwing:
            return {"error": "evaluation", "path": [name]}
        return {
            "path": [name],
            "name": name,
            "pname": name,
            "version": "",
            "description": "",
            "priority": 5,
            "derivation": f"/nix/store/{name}.drv",
            "outputs": [{"name": "out", "path": f"/nix/store/{name}"}],
            "otherOutputs": [],
            "licenses": [],
            "cpe": "",
        }


class EvaluatorCase(SynchronousTestCase):
    """An evaluator of a spawner that plays Nix."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.spawner = FakeEvaluations(self.clock)
        self.settings = NixSettings(
            state_directory=Path("/state"), home=Path("/home"), eval_timeout=100.0
        )
        self.evaluator = self.make()

    def make(self, **changes: Any) -> Evaluator:
        return Evaluator(
            NixContext(
                spawner=self.spawner,
                clock=self.clock,
                workers=InlineWorkers(),
                settings=evolve(self.settings, **changes),
                environ={},
            ),
            resolve=Path("/resolve.nix"),
        )

    def evaluate(
        self,
        names: Sequence[str],
        package_set: PackageSet = PACKAGE_SET,
        system: str = "x86_64-linux",
    ) -> Deferred[Evaluation]:
        requests = [PackageRequest(name=name) for name in names]
        return Deferred.fromCoroutine(self.evaluator.evaluate(package_set, system, requests))

    def failing(self, text: str = "", signal: int | None = None) -> ProcessFailed:
        return ProcessFailed(output=command_output(text, signal))


class EvaluatorTests(EvaluatorCase):
    """Tests of the queries to Nix, and of those that are repeated."""

    def test_packages_that_evaluate_are_evaluated_once_all_together(self) -> None:
        """Packages that evaluate are evaluated once, all together."""
        evaluation = self.successResultOf(self.evaluate("abc"))
        self.assertEqual([package.attribute for package in evaluation.packages], ["a", "b", "c"])
        self.assertEqual(self.spawner.asked, [(("a", "b", "c"), True)])

    def test_names_that_a_pinned_set_does_not_have_need_no_evaluation_once_that_is_known(
        self,
    ) -> None:
        """Once the names of a pinned set are known, missing ones need no evaluation."""
        self.spawner.level = frozenset({"git", "_7zz", "node.js", "cacert"})
        pinned = evolve(PACKAGE_SET, revision=evolve(PACKAGE_SET.revision, pinned=True))
        cacert = PackageRequest(name="cacert", exact=True, optional=True)

        def refused(*names: str, package_set: PackageSet = pinned) -> list[tuple[str, ...]]:
            requests = [cacert, *(PackageRequest(name=name) for name in names)]
            evaluation = self.evaluator.evaluate(package_set, "x86_64-linux", requests)
            error = self.failureResultOf(Deferred.fromCoroutine(evaluation), PackagesRefused).value
            found = find_candidates(error.problems, self.clock.seconds)
            return [(problem.name, *problem.candidates) for problem in found]

        self.assertEqual(refused("gti"), [("gti", "git")])
        self.assertEqual(refused("gitt", "nodejs"), [("gitt", "git"), ("nodejs", "node.js")])
        self.assertEqual(len(self.spawner.asked), 1)
        # What may be there is evaluated, without the others.
        for names in (["GIT"], ["7zz"], ["node.js"], ["git.dev"]):
            refused("gti", *names)
            self.assertEqual(self.spawner.asked[-1][0], ("cacert", *names))
        for package_set in (PACKAGE_SET, PACKAGE_SET):
            refused("gti", package_set=package_set)
            self.assertEqual(self.spawner.asked[-1][0], ("cacert", "gti"))

    def test_names_that_end_an_evaluation_are_found_by_halves_in_order(self) -> None:
        """Names that end an evaluation are found by halves, in order, with their texts."""
        self.spawner.fatal = {
            "c": self.failing("error: first"),
            "h": self.failing(signal=11),
        }
        refused = self.failureResultOf(self.evaluate("abcdefgh"), PackagesRefused).value
        self.assertEqual([problem.name for problem in refused.problems], ["c", "h"])
        self.assertIn("first", refused.problems[0].message)
        self.assertIn("signal 11", refused.problems[1].message)
        asked = ["".join(names) for names, _ in self.spawner.asked]
        self.assertEqual(
            asked,
            ["abcdefgh", "", *("abcd", "ab", "cd", "c", "d"), *("efgh", "ef", "gh", "g", "h")],
        )

    def test_name_that_ends_the_evaluation_is_not_evaluated_again(self) -> None:
        """One name that ends the evaluation is not evaluated again."""
        self.spawner.fatal = {"a": self.failing("error: why")}
        refused = self.failureResultOf(self.evaluate("a"), PackagesRefused).value
        self.assertIn("why", refused.message)
        self.assertEqual(len(self.spawner.asked), 2)

    def test_packages_that_need_too_much_together_are_evaluated_in_parts(self) -> None:
        """Packages that need too much together are evaluated in parts."""
        self.spawner.together = 2
        evaluation = self.successResultOf(self.evaluate("abcde"))
        self.assertEqual(len(evaluation.packages), 5)

    def test_thrown_messages_are_found_by_evaluating_names_alone(self) -> None:
        """Thrown messages are found by evaluating the names alone, a bounded number of them."""
        names = [f"n{number}" for number in range(MAX_EXPLAINED_NAMES + 2)]
        self.spawner.throwing = {name: f"because of {name}" for name in names}
        refused = self.failureResultOf(self.evaluate([*names, "fine"]), PackagesRefused).value
        messages = [problem.message for problem in refused.problems]
        self.assertEqual(len(messages), len(names))
        told = [message for message in messages if "because of" in message]
        self.assertEqual(len(told), MAX_EXPLAINED_NAMES)
        self.assertEqual(
            self.spawner.asked[1:], [((name,), False) for name in names[:MAX_EXPLAINED_NAMES]]
        )

    def test_revision_that_fetches_is_evaluated_with_a_guard_from_then_on(self) -> None:
        """A revision whose evaluation fetches is evaluated with a guard, from then on."""
        self.spawner.fetching = frozenset("b")
        self.successResultOf(self.evaluate("a"))
        self.assertEqual(self.spawner.fetches, ["forbidden"])
        self.successResultOf(self.evaluate("ab"))
        self.successResultOf(self.evaluate("ab"))
        self.assertEqual(self.spawner.fetches[1:], ["forbidden", "pinned", "pinned"])
        self.successResultOf(self.evaluate("ab", OTHER_SET))
        self.assertEqual(self.spawner.fetches[4:], ["forbidden", "pinned"])

    def test_fetch_that_is_found_among_failing_packages(self) -> None:
        """A package that fetches is no problem beside one that ends the evaluation."""
        self.spawner.fatal = {"a": self.failing("error: a fails")}
        self.spawner.fetching = frozenset("b")
        refused = self.failureResultOf(self.evaluate("ab"), PackagesRefused).value
        self.assertEqual([problem.name for problem in refused.problems], ["a"])

    def test_fetches_that_are_not_pinned_may_be_allowed(self) -> None:
        """Where any fetch is allowed, nothing is evaluated with a guard."""
        self.evaluator = self.make(allow_unpinned_fetches=True)
        self.spawner.fetching = frozenset("b")
        self.successResultOf(self.evaluate("ab"))
        self.assertEqual(self.spawner.fetches, ["any"])

    def test_failure_of_the_whole_package_set_is_distinguished(self) -> None:
        """A package set that fails when no package is asked for is distinguished."""
        self.spawner.set_failure = self.failing("error: syntax error")
        failure = self.failureResultOf(self.evaluate("ab"), EvaluationFailed).value
        self.assertIn("syntax error", failure.message)
        self.assertEqual([names for names, _ in self.spawner.asked], [("a", "b"), ()])

    def test_fault_of_nixs_is_found_at_once(self) -> None:
        """A fault of Nix's is found at once."""
        missing = CommandMissing(command="nix-instantiate")
        self.spawner.broken = True
        for fault in (self.failing("error: cannot connect to socket at '/x'"), missing):
            self.spawner.asked.clear()
            self.spawner.set_failure = fault
            self.failureResultOf(self.evaluate("ab"), NixUnusable)
            self.assertEqual(len(self.spawner.asked), 1)

    def test_fault_of_nix_that_passes_is_no_error(self) -> None:
        """After a fault of Nix that has passed, the packages are evaluated once more."""
        self.spawner.set_failure = self.failing("error: cannot connect to socket at '/x'")
        self.spawner.passes = True
        self.successResultOf(self.evaluate("ab"))
        self.assertEqual((len(self.spawner.asked), self.spawner.probes), (2, 1))

    def test_words_of_set_that_sound_like_a_fault_of_nix_are_the_sets(self) -> None:
        """A package set's thrown text is told as its words, if Nix works."""
        for text in ("No space left on device", "cannot connect to socket at '/x'"):
            self.spawner.set_failure = self.failing(f"error: {text}")
            failure = self.failureResultOf(self.evaluate("ab"), EvaluationFailed).value
            self.assertIn(text, failure.message)

    def test_thrown_words_that_sound_like_a_fault_of_nix_are_the_packages(self) -> None:
        """A package's thrown text is told as its words, and Nix is not suspected."""
        self.spawner.throwing = {"a": "No space left on device", "b": "out of memory-safe people"}
        refused = self.failureResultOf(self.evaluate("abc"), PackagesRefused).value
        self.assertEqual(
            [problem.message for problem in refused.problems],
            [
                "the package a does not evaluate: No space left on device",
                "the package b does not evaluate: out of memory-safe people",
            ],
        )
        self.assertEqual(self.spawner.probes, 0)

    def test_set_refuses_version_of_nix(self) -> None:
        """A package set may refuse this Nix; a package that says so is one of that set."""
        text = (
            "error: evaluation aborted with the following error message:"
            " 'This version of Nixpkgs requires Nix >= 2.18'"
        )
        self.spawner.set_failure = self.failing(text)
        self.failureResultOf(self.evaluate("ab"), NixMisconfigured)
        self.spawner.set_failure = None
        self.spawner.fatal = {"a": self.failing(text)}
        self.failureResultOf(self.evaluate("ab"), PackagesRefused)

    def test_set_that_prints_without_end_does_not_evaluate(self) -> None:
        """A set that prints without end does not evaluate."""
        self.spawner.set_failure = OutputTooLarge(output=command_output(), limit=1)
        self.failureResultOf(self.evaluate("ab"), EvaluationFailed)

    def test_evaluation_that_takes_too_long_is_not_tried_again(self) -> None:
        """One that takes too long is not tried again."""
        self.spawner.seconds = 101.0
        failure = self.failureResultOf(self.evaluate("ab"), EvaluationTimedOut).value
        self.assertEqual((failure.names, failure.seconds), (("a", "b"), 100.0))
        self.assertEqual(len(self.spawner.asked), 1)

    def test_search_for_names_that_fail_has_a_deadline_of_its_own_and_keeps_it(self) -> None:
        """The search for names that fail has a deadline of its own, and keeps it."""
        self.spawner.seconds = 30.0
        self.spawner.fatal = {"h": self.failing()}
        self.failureResultOf(self.evaluate("abcdefgh"), EvaluationTimedOut)
        self.assertEqual(self.clock.seconds(), 130.0)

    def test_explanation_that_takes_too_long_is_left_out(self) -> None:
        """An explanation that takes too long is left out."""
        self.spawner.seconds = 60.0
        self.spawner.throwing = {"a": "because", "b": "because"}
        refused = self.failureResultOf(self.evaluate("ab"), PackagesRefused).value
        self.assertIn("because", refused.problems[0].message)
        self.assertNotIn("because", refused.problems[1].message)

    def test_concurrent_evaluations_are_limited(self) -> None:
        """No more evaluations run at a time than may, and a waiting one can be cancelled."""
        self.evaluator = self.make(evaluations=2)
        self.spawner.waiting = []
        results = [self.evaluate(name) for name in "abcd"]
        for result in results:
            result.addErrback(lambda _: None)
        self.assertEqual(len(self.spawner.waiting), 2)
        results[2].cancel()
        self.spawner.waiting[0].callback(None)
        self.assertEqual([names for names, _ in self.spawner.asked], [("a",), ("b",), ("d",)])
        self.spawner.waiting[1].callback(None)
        self.spawner.waiting[2].callback(None)
        self.assertEqual(self.successResultOf(results[3]).packages[0].attribute, "d")

    def test_refused_name_never_reaches_nix(self) -> None:
        """A refused name never reaches Nix."""
        self.failureResultOf(self.evaluate(["a", "pkgscross.x"]), PackagesRefused)
        self.assertEqual(self.spawner.asked, [])


class PrewarmingTests(EvaluatorCase):
    """Tests of evaluations by a process that was started before any request."""

    def setUp(self) -> None:
        super().setUp()
        self.evaluator.enable_prewarming()

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.evaluator.stop())

    def evaluated(self, names: Sequence[str], *arguments: Any) -> list[str]:
        """The packages of an evaluation that needs no time."""
        evaluation = self.successResultOf(self.evaluate(names, *arguments))
        return [package.attribute for package in evaluation.packages]

    def waiting(self) -> Ahead:
        """The one process that waits, after an evaluation by none."""
        self.assertEqual(self.evaluated("z"), ["z"])
        self.assertEqual(self.spawner.ahead, [])
        self.clock.advance(START_DELAY_SECONDS)
        self.spawner.asked.clear()
        [process] = self.spawner.ahead
        self.assertEqual(process.heard, b"")
        return process

    def test_evaluation_is_answered_by_process_that_was_started_after_one_before(self) -> None:
        """An evaluation is answered by the process that was started after the one before."""
        process = self.waiting()
        self.assertEqual((process.command.argv[-1], process.command.timeout), ("-", None))
        self.assertEqual(self.evaluated(["a", "b.c"]), ["a", "b.c"])
        _, [_, _, _, names, *_] = literals(process.heard.decode())
        self.assertEqual(
            json.loads(names),
            [
                {"exact": False, "name": "a", "optional": False, "path": ["a"]},
                {"exact": False, "name": "b.c", "optional": False, "path": ["b", "c"]},
            ],
        )
        # By no other process.
        self.assertEqual(self.spawner.asked, [(("a", "b.c"), True)])

    def test_each_evaluation_is_followed_by_a_process_for_the_next(self) -> None:
        """Each evaluation is followed by a process for the next one, some time later."""
        self.waiting()
        for count, name in enumerate("abc", start=1):
            self.assertEqual(self.evaluated(name), [name])
            self.assertEqual(len(self.spawner.ahead), count)
            self.assertTrue(self.spawner.ahead[-1].ended)
            self.clock.advance(START_DELAY_SECONDS)
            self.assertEqual(len(self.spawner.ahead), count + 1)
        self.assertEqual(len(self.spawner.asked), 3)

    def test_one_of_two_concurrent_evaluations_uses_the_idle_process(self) -> None:
        """Of two evaluations at a time one is answered by the process, and one as ever."""
        process = self.waiting()
        self.spawner.seconds = 1.0
        first = self.evaluate("a")
        self.assertNotEqual(process.heard, b"")
        self.spawner.waiting = []
        second = self.evaluate("b")
        self.spawner.waiting[0].callback(None)
        self.assertEqual(self.successResultOf(first).packages[0].attribute, "a")
        self.assertEqual(self.successResultOf(second).packages[0].attribute, "b")

    def test_idle_process_serves_any_system(self) -> None:
        """It does not matter which system it is asked for."""
        process = self.waiting()
        self.evaluated("a", PACKAGE_SET, "aarch64-linux")
        self.assertIn("aarch64-linux", literals(process.heard.decode())[1])

    def test_process_waits_for_one_package_set_the_last_one(self) -> None:
        """A process waits for one package set, the last one."""
        process = self.waiting()
        self.assertEqual(self.evaluated("a", OTHER_SET), ["a"])
        self.assertTrue(process.dismissed)
        self.clock.advance(START_DELAY_SECONDS)
        self.assertEqual(self.evaluated("b", OTHER_SET), ["b"])
        self.assertIn("/other", literals(self.spawner.ahead[-1].heard.decode())[1])

    def test_for_what_is_expected_a_process_is_started_at_once_and_used(self) -> None:
        """For what is expected a process is started at once, and used."""
        self.evaluator.prewarm_evaluation(PACKAGE_SET, "x86_64-linux")
        self.clock.advance(0)
        [process] = self.spawner.ahead
        self.assertEqual(self.evaluated("a"), ["a"])
        self.assertTrue(process.ended)
        self.assertEqual(len(self.spawner.asked), 1)

    def test_query_that_the_process_fails_to_answer_is_repeated(self) -> None:
        """A query that the process fails to answer is repeated; the repeated one's error counts."""
        self.spawner.fatal = {"b": self.failing("error: why")}
        self.waiting()
        self.spawner.ahead_failure = self.failing("error: who knows")
        refused = self.failureResultOf(self.evaluate("ab"), PackagesRefused).value
        self.assertEqual([problem.name for problem in refused.problems], ["b"])
        self.assertIn("why", refused.message)
        self.assertNotIn("who knows", refused.message)
        asked = ["".join(names) for names, _ in self.spawner.asked]
        self.assertEqual(asked, ["ab", "ab", "", "a", "b"])

    def test_failure_of_the_process_alone_is_not_reported(self) -> None:
        """A failure of the process alone is not reported."""
        self.waiting()
        self.spawner.ahead_failure = self.failing(signal=9)
        self.assertEqual(self.evaluated("ab"), ["a", "b"])
        self.assertEqual(self.spawner.asked, [(("a", "b"), True)] * 2)
        self.clock.advance(START_DELAY_SECONDS)
        self.assertEqual(len(self.spawner.ahead), 2)

    def test_process_that_has_died_while_it_waited_is_not_asked(self) -> None:
        """A process that has died while it waited is not asked."""
        process = self.waiting()
        process.question.errback(self.failing(signal=9))
        self.assertEqual(self.evaluated("a"), ["a"])
        self.assertEqual(process.heard, b"")

    def test_thrown_message_is_found_as_without_a_process_that_waits(self) -> None:
        """A thrown message is found as without a process that waits."""
        self.spawner.throwing = {"a": "because"}
        process = self.waiting()
        refused = self.failureResultOf(self.evaluate("ab"), PackagesRefused).value
        self.assertIn("because", refused.message)
        self.assertTrue(process.ended)
        self.assertEqual(self.spawner.asked, [(("a", "b"), True), (("a",), False)])

    def test_process_that_takes_too_long_is_stopped_and_no_other_is_asked(self) -> None:
        """A process that takes too long is stopped, and no other is asked."""
        process = self.waiting()
        self.spawner.seconds = 101.0
        evaluation = self.evaluate("ab")
        self.clock.advance(99.0)
        self.assertNoResult(evaluation)
        self.clock.advance(1.0)
        failure = self.failureResultOf(evaluation, EvaluationTimedOut).value
        self.assertEqual((failure.names, failure.seconds), (("a", "b"), 100.0))
        self.assertTrue(process.stopped)
        self.assertEqual(len(self.spawner.asked), 1)

    def test_after_process_that_failed_late_one_behind_it_has_time_to_tell_why(self) -> None:
        """After a process that failed late, the one behind it has time to tell why."""
        self.waiting()
        self.spawner.seconds = 60.0
        self.spawner.ahead_failure = self.failing()
        evaluation = self.evaluate("ab")
        self.clock.advance(60.0)
        self.assertEqual(
            [package.attribute for package in self.successResultOf(evaluation).packages],
            ["a", "b"],
        )

    def test_cancelled_evaluation_ends_its_process(self) -> None:
        """With an evaluation that is cancelled the process ends, and another one follows."""
        process = self.waiting()
        self.spawner.seconds = 10.0
        evaluation = self.evaluate("ab")
        evaluation.cancel()
        self.failureResultOf(evaluation, CancelledError)
        self.assertTrue(process.stopped)
        self.clock.advance(START_DELAY_SECONDS)
        self.assertEqual(len(self.spawner.ahead), 2)

    def test_no_process_waits_after_the_stop_whatever_is_evaluated_or_expected(self) -> None:
        """No process waits after the stop, whatever is evaluated or expected."""
        process = self.waiting()
        self.successResultOf(self.stop())
        self.assertTrue(process.stopped)
        self.assertEqual(self.evaluated("a"), ["a"])
        self.evaluator.prewarm_evaluation(PACKAGE_SET, "x86_64-linux")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.spawner.ahead, [process])
        self.successResultOf(self.stop())

    def test_no_process_waits_unless_prewarming_was_enabled(self) -> None:
        """No process waits unless prewarming was enabled."""
        self.evaluator = self.make()
        self.evaluator.prewarm_evaluation(PACKAGE_SET, "x86_64-linux")
        self.assertEqual(self.evaluated("a"), ["a"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.spawner.ahead, [])
        self.successResultOf(self.stop())
