"""Tests for :mod:`nixery.builds.realisation`."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.realisation import MAX_COSTLY_ATTEMPTS, MAX_REEVALUATIONS, realise
from nixery.image.names import parse_image_name
from nixery.image.packages import Evaluation
from nixery.nix.errors import EvaluationFailed, MissingDerivations
from nixery.nix.interface import Realisation
from nixery.nix.progress import Phase
from nixery.process.errors import CommandOutput
from nixery.sources.source import PackageSet, path_revision
from nixery.testing.fakes import FakeNix, FakePackage
from tests.unit.nix.test_internal_json import Recorder

T = TypeVar("T")

NAME = parse_image_name("hello", "x86_64-linux")
FAILURE = EvaluationFailed(reason="gone", output=CommandOutput(argv=("nix-instantiate",), status=1))


@define(eq=False)
class ChangingPackageSet:
    """A path whose package set is another one each time that it is looked at."""

    fetched: list[PackageSet] = field(factory=list)
    failing: bool = False

    async def fetch(self) -> PackageSet:
        if self.failing:
            raise FAILURE
        path = Path(f"/set-{len(self.fetched)}")
        self.fetched.append(PackageSet(revision=path_revision(path, ()), path=path))
        return self.fetched[-1]


class RealiseTests(SynchronousTestCase):
    """Builds whose derivations are collected, by a fake Nix."""

    def setUp(self) -> None:
        self.nix = FakeNix(store=Path(self.mktemp()), packages=[FakePackage(attribute="hello")])
        self.source = ChangingPackageSet()
        self.recorder = Recorder()
        path = Path("/set")
        first = PackageSet(revision=path_revision(path, ()), path=path)
        self.evaluation = self.successResultOf(
            Deferred.fromCoroutine(
                self.nix.evaluate(first, NAME.system, NAME.package_requests),
            )
        )
        self.nix.package_sets.clear()

    def realise(self) -> Deferred[tuple[Realisation, Evaluation]]:
        return Deferred.fromCoroutine(
            realise(self.nix, self.source.fetch, NAME, self.evaluation, self.recorder)
        )

    def test_packages_that_were_not_garbage_collected_are_not_evaluated_again(self) -> None:
        """Packages that were not garbage-collected are not evaluated again."""
        _, evaluation = self.successResultOf(self.realise())
        self.assertIs(evaluation, self.evaluation)
        self.assertEqual((self.nix.package_sets, self.source.fetched), ([], []))

    def test_collected_derivations_are_evaluated_again_of_the_same_package_set(self) -> None:
        """Collected derivations are evaluated again, of the same package set, and built."""
        self.nix.collected_derivations = 1
        realisation, evaluation = self.successResultOf(self.realise())
        self.assertEqual(evaluation, self.evaluation)
        self.assertEqual(realisation.outputs, (evaluation.packages[0].outputs[0].path,))
        self.assertEqual(self.nix.package_sets, self.source.fetched * 2)
        self.assertEqual(self.nix.evaluated_to_build, self.nix.evaluations[1:])
        self.assertEqual(self.recorder.calls.count((Phase.EVALUATING,)), 1)

    def test_package_set_that_changes_each_time_is_looked_at_a_few_times(self) -> None:
        """A package set that is another one each time is looked at a few times only."""
        self.nix.collected_derivations = MAX_REEVALUATIONS
        self.successResultOf(self.realise())
        self.nix.collected_derivations = MAX_REEVALUATIONS + 1
        self.failureResultOf(self.realise(), MissingDerivations)
        self.assertEqual(self.nix.collected_derivations, 0)

    def test_builds_that_were_in_vain_are_not_repeated_again_and_again(self) -> None:
        """Attempts in which builds had begun are few: each may build all of it again."""
        self.nix.collected_derivations, self.nix.builds_in_vain = 5, 1
        failure = self.failureResultOf(self.realise(), MissingDerivations).value
        self.assertEqual(failure.builds, 1)
        self.assertEqual(5 - self.nix.collected_derivations, MAX_COSTLY_ATTEMPTS)

    def test_not_to_be_had_any_more(self) -> None:
        """Collected packages that cannot be evaluated again fail with the reason."""
        self.nix.collected_derivations, self.source.failing = 1, True
        self.assertEqual(self.failureResultOf(self.realise()).value, FAILURE)
