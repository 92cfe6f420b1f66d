"""Tests of evaluations, and of those that are repeated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.candidates import find_candidates
from nixery.image.errors import PackagesRefused
from nixery.image.names import PackageRequest
from nixery.image.packages import Evaluation
from nixery.nix.arguments import NixSettings
from nixery.nix.command_evaluator import MAX_EXPLAINED_NAMES
from nixery.nix.context import NixContext
from nixery.nix.errors import EvaluationFailed, EvaluationTimedOut, NixMisconfigured, NixUnusable
from nixery.nix.evaluator import Evaluator
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
from tests.support.repl import FakeRepl, asked_names

PACKAGE_SET = PackageSet(revision=path_revision(Path("/pkgs")), path=Path("/pkgs"))
PINNED_SET = evolve(PACKAGE_SET, revision=evolve(PACKAGE_SET.revision, pinned=True))


def command_output(stderr: str = "", signal: int | None = None) -> CommandOutput:
    status = 1 if signal is None else None
    return CommandOutput(argv=("nix-instantiate",), status=status, signal=signal, stderr=stderr)


@define(eq=False)
class FakeEvaluations:
    """
    A :class:`nixery.process.spawner.Spawner` that evaluates a set of packages of which some
    throw, some end the evaluation, and all others exist.

    :ivar level: the names that exist; empty: all.
    :ivar asked: the names of each question, and whether it was guarded.
    :ivar fetching: the names whose evaluation fetches.
    :ivar fetches: what each question might fetch.
    :ivar broken: whether Nix cannot store a file either.
    :ivar passes: whether ``set_failure`` has passed once it has stored a file.
    :ivar probes: how often it was asked to store a file.
    :ivar repls: the resident evaluators.
    :ivar repl_failure: how those end that are asked.
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

    repls: list[FakeRepl] = field(factory=list)
    repl_failure: ProcessFailed | None = None

    async def run(self, command: Command) -> ProcessResult:
        if command.stdio_handler is not None:
            return await self.run_repl(command)
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

    async def run_repl(self, command: Command) -> ProcessResult:
        assert command.stdio_handler is not None
        repl = FakeRepl(command, self.answer_repl)
        self.repls.append(repl)
        command.stdio_handler.started(repl)
        return await repl.result

    def answer_repl(self, repl: FakeRepl, expression: str) -> None:
        names = asked_names(expression)
        self.asked.append((names, True))
        if self.repl_failure is not None:
            repl.exit(self.repl_failure)
            return
        try:
            output = self.answer(names, guarded=True)
        except ProcessFailed:
            repl.answer(None)
        else:
            repl.answer(output.decode())

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
        cacert = PackageRequest(name="cacert", exact=True, optional=True)

        def refused(*names: str, package_set: PackageSet = PINNED_SET) -> list[tuple[str, ...]]:
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
        self.successResultOf(self.evaluate("ab", PINNED_SET))
        self.assertEqual(self.spawner.fetches[4:], ["forbidden", "pinned"])

    def test_fetch_that_is_found_among_failing_packages(self) -> None:
        """A package that fetches is no problem beside one that ends the evaluation."""
        self.spawner.fatal = {"a": self.failing("error: a fails")}
        self.spawner.fetching = frozenset("b")
        refused = self.failureResultOf(self.evaluate("ab"), PackagesRefused).value
        self.assertEqual([problem.name for problem in refused.problems], ["a"])

    def test_fetches_that_are_not_pinned_may_be_allowed(self) -> None:
        """Nothing is evaluated with a guard if any fetch is allowed."""
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


class ResidentTests(EvaluatorCase):
    """Tests of evaluations by resident evaluators, and of those that take their place."""

    def setUp(self) -> None:
        super().setUp()
        self.evaluator.keep_evaluators()

    def evaluated(self, names: Sequence[str], *arguments: Any) -> list[str]:
        """The packages of an evaluation that needs no time."""
        evaluation = self.successResultOf(self.evaluate(names, *arguments))
        return [package.attribute for package in evaluation.packages]

    def test_evaluations_of_a_pinned_set_are_answered_by_one_process(self) -> None:
        """Evaluations of a pinned package set are answered by one process, and by no other."""
        self.assertEqual(self.evaluated(["a", "b.c"], PINNED_SET), ["a", "b.c"])
        self.assertEqual(self.evaluated("d", PINNED_SET), ["d"])
        self.assertEqual(self.spawner.asked, [(("a", "b.c"), True), (("d",), True)])
        [repl] = self.spawner.repls
        self.assertEqual(len(repl.asked), 2)

    def test_evaluations_of_a_set_that_may_change_have_a_process_each(self) -> None:
        """Evaluations of a package set that may change have a process each."""
        self.assertEqual(self.evaluated("a"), ["a"])
        self.assertEqual(self.evaluated("b"), ["b"])
        self.assertEqual(self.spawner.asked, [(("a",), True), (("b",), True)])
        self.assertEqual([repl.ended for repl in self.spawner.repls], [True, True])

    def test_names_that_a_pinned_set_does_not_have_are_remembered(self) -> None:
        """The names of a pinned set that an evaluator tells show what is missing from then on."""
        self.spawner.level = frozenset({"git"})
        for count, names in enumerate((["gti"], ["gitt"]), start=1):
            self.failureResultOf(self.evaluate(names, PINNED_SET), PackagesRefused)
            self.assertEqual((count, len(self.spawner.asked)), (count, 1))

    def test_question_that_is_not_answered_is_evaluated_in_the_ordinary_way(self) -> None:
        """A question that is not answered is evaluated as ever, and its error counts."""
        self.spawner.fatal = {"b": self.failing("error: why")}
        refused = self.failureResultOf(self.evaluate("ab", PINNED_SET), PackagesRefused).value
        self.assertEqual([problem.name for problem in refused.problems], ["b"])
        self.assertIn("why", refused.message)
        asked = ["".join(names) for names, _ in self.spawner.asked]
        self.assertEqual(asked, ["ab", "ab", "", "a", "b"])
        # The evaluator is there for the next one.
        self.assertEqual(self.evaluated("a", PINNED_SET), ["a"])
        self.assertEqual(len(self.spawner.repls), 1)

    def test_failure_of_an_evaluator_is_not_reported(self) -> None:
        """A failure of an evaluator alone is not reported."""
        self.spawner.repl_failure = self.failing("error: who knows", signal=9)
        self.assertEqual(self.evaluated("ab", PINNED_SET), ["a", "b"])
        self.assertEqual(self.spawner.asked, [(("a", "b"), True)] * 2)

    def test_package_that_ends_evaluators_is_not_asked_of_more_than_two(self) -> None:
        """A package that ends evaluators is not asked of more than two, whatever is beside it."""
        self.spawner.fatal = {"x": self.failing("error: why")}
        self.spawner.repl_failure = self.failing(signal=11)
        for name in "abc":
            self.failureResultOf(self.evaluate([name, "x"], PINNED_SET), PackagesRefused)
        self.assertEqual(len(self.spawner.repls), 2)
        self.spawner.repl_failure = None
        self.assertEqual(self.evaluated("abc", PINNED_SET), ["a", "b", "c"])
        self.assertEqual(len(self.spawner.repls), 3)

    def test_answer_that_is_not_understood_is_not_used(self) -> None:
        """An answer that is not understood is not used, and its process is not asked again."""

        def answer(repl: FakeRepl, _: str) -> None:
            repl.answer("[]")

        self.evaluated("a", PINNED_SET)
        self.spawner.repls[0].on_look_up = answer
        self.assertEqual(self.evaluated("b", PINNED_SET), ["b"])
        self.assertTrue(self.spawner.repls[0].ended)
        self.evaluated("c", PINNED_SET)
        self.assertEqual(len(self.spawner.repls), 2)

    def test_thrown_message_is_found_as_without_an_evaluator(self) -> None:
        """A thrown message is found as without an evaluator."""
        self.spawner.throwing = {"a": "because"}
        refused = self.failureResultOf(self.evaluate("ab", PINNED_SET), PackagesRefused).value
        self.assertIn("because", refused.message)
        self.assertEqual(self.spawner.asked, [(("a", "b"), True), (("a",), False)])

    def test_evaluation_that_hangs_is_told_with_the_words_of_the_ordinary_one(self) -> None:
        """An evaluation that hangs is stopped in both ways, and told as without an evaluator."""

        def hang(_repl: FakeRepl, _expression: str) -> None: ...

        self.evaluated("a", PINNED_SET)
        self.spawner.repls[0].on_look_up = hang
        self.spawner.seconds = 101.0
        evaluation = self.evaluate("ab", PINNED_SET)
        self.assertNoResult(evaluation)
        self.clock.advance(50.0)
        failure = self.failureResultOf(evaluation, EvaluationTimedOut).value
        self.assertEqual((failure.names, failure.seconds), (("a", "b"), 100.0))
        self.assertTrue(self.spawner.repls[0].ended)

    def test_set_is_prepared_before_it_is_asked_for(self) -> None:
        """A pinned package set that is expected is evaluated before it is asked for."""
        self.evaluator.prepare_evaluation(PINNED_SET, "x86_64-linux")
        [repl] = self.spawner.repls
        self.assertEqual(self.evaluated("a", PINNED_SET), ["a"])
        self.assertEqual(len(repl.asked), 2)

    def test_nothing_is_kept_after_the_stop(self) -> None:
        """Nothing is kept after the stop, whatever is evaluated or expected."""
        self.evaluated("a", PINNED_SET)
        self.successResultOf(Deferred.fromCoroutine(self.evaluator.stop()))
        self.assertEqual(self.evaluated("b", PINNED_SET), ["b"])
        self.evaluator.prepare_evaluation(PINNED_SET, "x86_64-linux")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual([repl.ended for repl in self.spawner.repls], [True])

    def test_nothing_is_kept_unless_that_was_enabled(self) -> None:
        """Nothing is kept unless that was enabled."""
        self.evaluator = self.make()
        self.evaluator.prepare_evaluation(PINNED_SET, "x86_64-linux")
        self.assertEqual(self.evaluated("a", PINNED_SET), ["a"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.spawner.repls, [])
