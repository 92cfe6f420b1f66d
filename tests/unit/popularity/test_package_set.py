"""Tests for :mod:`nixery.popularity.package_set`."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.cli.common import NullProgress
from nixery.nix.errors import BuildFailed, NixUnusable
from nixery.nix.progress import Progress
from nixery.popularity import package_set
from nixery.popularity.package_set import evaluate_all, realise_all
from nixery.process.errors import CommandOutput
from nixery.sources.source import PackageSet, path_revision
from nixery.testing.fakes import FakeNix, FakePackage

T = TypeVar("T")

FAILURE = BuildFailed(derivation="", log=(), output=CommandOutput(argv=("nix-build",), status=100))


class WholeSetTests(SynchronousTestCase):
    """Evaluating and building all that there is."""

    def setUp(self) -> None:
        self.told: list[tuple[int, int]] = []
        self.progress: Progress = NullProgress()

    def make(self, count: int, failing: tuple[int, ...] = ()) -> FakeNix:
        return FakeNix(
            store=Path(self.mktemp()),
            packages=[
                FakePackage(attribute=f"p{number}", failure=FAILURE if number in failing else None)
                for number in range(count)
            ],
        )

    def tell(self, done: int, expected: int) -> None:
        self.told.append((done, expected))

    def now(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def evaluate(self, nix: FakeNix, names: list[str]) -> package_set.EvaluatedSet:
        package_set = PackageSet(revision=path_revision(Path("/set")), path=Path("/set"))
        return self.now(evaluate_all(nix, package_set, "x86_64-linux", names, self.tell))

    def test_many_names_are_evaluated_some_at_a_time(self) -> None:
        """Many names are evaluated some at a time; those that are refused are told."""
        self.patch(package_set, "EVALUATION_BATCH_SIZE", 3)
        nix = self.make(7)
        names = [f"p{number}" for number in range(5)] + ["gone", "p5", "away", "p6", "p6"]
        found = self.evaluate(nix, names)
        self.assertEqual(("away", "gone"), found.refused)
        self.assertEqual(
            [f"p{number}" for number in range(7)], [each.attribute for each in found.packages]
        )
        self.assertEqual((10, 10), self.told[-1])
        self.assertLessEqual(max(map(len, nix.evaluations)), 3)

    def test_nothing_can_be_used(self) -> None:
        """A set of which everything is refused is empty, not an error."""
        found = self.evaluate(self.make(0), ["a", "b"])
        self.assertEqual(((), ("a", "b")), (found.packages, found.refused))

    def test_all_packages_that_can_be_built_are_built_whatever_others_fail(self) -> None:
        """All packages that can be built are built, whatever others fail."""
        self.patch(package_set, "BUILD_BATCH_SIZE", 8)
        nix = self.make(20, failing=(0, 9, 10, 19))
        packages = self.evaluate(nix, [f"p{number}" for number in range(20)]).packages
        built = self.now(realise_all(nix, packages, self.progress, self.tell))
        self.assertEqual({"p0", "p9", "p10", "p19"}, {*built.failed})
        good = {each.path.path for each in nix.packages if each.failure is None}
        self.assertEqual(good, {*built.outputs})
        self.assertEqual((20, 20), self.told[-1])
        for realisation in built.realisations:
            self.now(nix.release(realisation))
        self.assertEqual(set(), nix.roots)

    def test_after_failure_of_nix_itself_not_of_build_nothing_stays_protected(self) -> None:
        """After a failure of Nix itself, not of a build, nothing stays protected."""
        self.patch(package_set, "BUILD_BATCH_SIZE", 1)
        nix = self.make(3)
        nix.packages = [
            *nix.packages[:2],
            FakePackage(attribute="p2", failure=NixUnusable(reason="the disk is full")),
        ]
        packages = self.evaluate(nix, ["p0", "p1", "p2"]).packages
        task = Deferred.fromCoroutine(realise_all(nix, packages, self.progress, self.tell))
        self.failureResultOf(task, NixUnusable)
        self.assertEqual(set(), nix.roots)
