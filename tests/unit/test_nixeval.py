"""What is evaluated again, and how often."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import (
    CommandMissing,
    EvaluationFailed,
    EvaluationTimedOut,
    Evidence,
    NixUnusable,
    OutputTooLarge,
    PackagesRefused,
    ProcessFailed,
    ProcessTimedOut,
)
from nixery.names import Requirement
from nixery.nixside.nixargs import NixSettings
from nixery.nixside.nixeval import EXPLAINED, Evaluator
from nixery.packages import Evaluation
from nixery.process import Command, ProcessResult
from nixery.sources import PackageSet, path_revision
from nixery.testing import InlineWorkers

PACKAGE_SET = PackageSet(revision=path_revision(Path("/pkgs")), path=Path("/pkgs"))


def evidence(stderr: str = "", signal: int | None = None) -> Evidence:
    status = 1 if signal is None else None
    return Evidence(argv=("nix-instantiate",), status=status, signal=signal, stderr=stderr)


@define(eq=False)
class FakeEvaluations:
    """
    A :class:`nixery.process.Spawner` that evaluates a set of packages of which some
    throw, some end the evaluation, and all others exist.

    :ivar asked: the names of each command, and whether it was guarded.
    """

    clock: Clock
    throwing: dict[str, str] = field(factory=dict)
    fatal: dict[str, ProcessFailed] = field(factory=dict)
    set_failure: Exception | None = None
    seconds: float = 0.0
    together: int = 1000
    asked: list[tuple[tuple[str, ...], bool]] = field(factory=list)
    waiting: list[Deferred[None]] | None = None

    async def run(self, command: Command) -> ProcessResult:
        values = dict(zip(command.argv, command.argv[1:], strict=False))
        names = [item["name"] for item in json.loads(values["names"])]
        guarded = values["guard"] == "true"
        self.asked.append((tuple(names), guarded))
        if self.waiting is not None:
            self.waiting.append(Deferred())
            await self.waiting[-1]
        assert command.timeout is not None
        if self.seconds > command.timeout:
            self.clock.advance(command.timeout)
            raise ProcessTimedOut(evidence=evidence(), seconds=command.timeout)
        self.clock.advance(self.seconds)
        if self.set_failure is not None:
            raise self.set_failure
        for name in names:
            if name in self.fatal:
                raise self.fatal[name]
            if name in self.throwing and not guarded:
                raise ProcessFailed(evidence=evidence(f"error: {self.throwing[name]}"))
        if len(names) > self.together:
            raise ProcessFailed(evidence=evidence("error: out of memory"))
        answers = [self.record(name) for name in names]
        return ProcessResult(
            stdout=json.dumps({"answers": answers, "levels": {}}).encode(), stderr=""
        )

    def record(self, name: str) -> dict[str, Any]:
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
        }


class EvaluatorTests(SynchronousTestCase):
    """Evaluations by a spawner that plays Nix."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.spawner = FakeEvaluations(self.clock)
        self.settings = NixSettings(
            state_directory=Path("/state"), home=Path("/home"), eval_timeout=100.0
        )
        self.evaluator = self.make()

    def make(self, **changes: Any) -> Evaluator:
        return Evaluator(
            spawner=self.spawner,
            clock=self.clock,
            workers=InlineWorkers(),
            settings=evolve(self.settings, **changes),
            resolve=Path("/resolve.nix"),
            environment={},
        )

    def evaluate(self, names: Sequence[str]) -> Deferred[Evaluation]:
        requirements = [Requirement(name=name) for name in names]
        return Deferred.fromCoroutine(
            self.evaluator.evaluate(PACKAGE_SET, "x86_64-linux", requirements)
        )

    def failing(self, text: str = "", signal: int | None = None) -> ProcessFailed:
        return ProcessFailed(evidence=evidence(text, signal))

    def test_once(self) -> None:
        """Packages that evaluate are evaluated once, all together."""
        evaluation = self.successResultOf(self.evaluate("abc"))
        self.assertEqual([package.attribute for package in evaluation.packages], ["a", "b", "c"])
        self.assertEqual(self.spawner.asked, [(("a", "b", "c"), True)])

    def test_halves(self) -> None:
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

    def test_single(self) -> None:
        """One name that ends the evaluation is not evaluated again."""
        self.spawner.fatal = {"a": self.failing("error: why")}
        refused = self.failureResultOf(self.evaluate("a"), PackagesRefused).value
        self.assertIn("why", refused.message)
        self.assertEqual(len(self.spawner.asked), 2)

    def test_not_together(self) -> None:
        """Packages that need too much together are evaluated in parts."""
        self.spawner.together = 2
        evaluation = self.successResultOf(self.evaluate("abcde"))
        self.assertEqual(len(evaluation.packages), 5)

    def test_thrown(self) -> None:
        """What was thrown is found out by evaluating those names alone, some of them."""
        names = [f"n{number}" for number in range(EXPLAINED + 2)]
        self.spawner.throwing = {name: f"because of {name}" for name in names}
        refused = self.failureResultOf(self.evaluate([*names, "fine"]), PackagesRefused).value
        messages = [problem.message for problem in refused.problems]
        self.assertEqual(len(messages), len(names))
        told = [message for message in messages if "because of" in message]
        self.assertEqual(len(told), EXPLAINED)
        self.assertEqual(self.spawner.asked[1:], [((name,), False) for name in names[:EXPLAINED]])

    def test_set_fails(self) -> None:
        """A set that fails when it is asked for nothing is told apart."""
        self.spawner.set_failure = self.failing("error: syntax error")
        failure = self.failureResultOf(self.evaluate("ab"), EvaluationFailed).value
        self.assertIn("syntax error", failure.message)
        self.assertEqual([names for names, _ in self.spawner.asked], [("a", "b"), ()])

    def test_nix_fails(self) -> None:
        """A fault of Nix's is found at once."""
        missing = CommandMissing(command="nix-instantiate")
        for fault in (self.failing("error: cannot connect to socket at '/x'"), missing):
            self.spawner.asked.clear()
            self.spawner.set_failure = fault
            self.failureResultOf(self.evaluate("ab"), NixUnusable)
            self.assertEqual(len(self.spawner.asked), 1)

    def test_too_much(self) -> None:
        """A set that prints without end does not evaluate."""
        self.spawner.set_failure = OutputTooLarge(evidence=evidence(), limit=1)
        self.failureResultOf(self.evaluate("ab"), EvaluationFailed)

    def test_timeout(self) -> None:
        """One that takes too long is not tried again."""
        self.spawner.seconds = 101.0
        failure = self.failureResultOf(self.evaluate("ab"), EvaluationTimedOut).value
        self.assertEqual((failure.names, failure.seconds), (("a", "b"), 100.0))
        self.assertEqual(len(self.spawner.asked), 1)

    def test_search_timeout(self) -> None:
        """The search for names that fail has a deadline of its own, and keeps it."""
        self.spawner.seconds = 30.0
        self.spawner.fatal = {"h": self.failing()}
        self.failureResultOf(self.evaluate("abcdefgh"), EvaluationTimedOut)
        self.assertEqual(self.clock.seconds(), 130.0)

    def test_explanation_timeout(self) -> None:
        """An explanation that takes too long is left out."""
        self.spawner.seconds = 60.0
        self.spawner.throwing = {"a": "because", "b": "because"}
        refused = self.failureResultOf(self.evaluate("ab"), PackagesRefused).value
        self.assertIn("because", refused.problems[0].message)
        self.assertNotIn("because", refused.problems[1].message)

    def test_slots(self) -> None:
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

    def test_refused(self) -> None:
        """What is refused never reaches Nix."""
        self.failureResultOf(self.evaluate(["a", "pkgscross.x"]), PackagesRefused)
        self.assertEqual(self.spawner.asked, [])
