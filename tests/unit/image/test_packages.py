"""Many answers become one evaluation, or one error."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.errors import PackageProblem, PackagesRefused, ProblemKind
from nixery.image.names import PackageRequest
from nixery.image.packages import (
    Evaluation,
    LookupResult,
    Output,
    Package,
    make_evaluation,
    refused_problems,
)

OUT = Output(name="out", path="/nix/store/o-curl")
DEV = Output(name="dev", path="/nix/store/d-curl-dev")
CURL = Package(
    requested=("curl",),
    attribute="curl",
    name="curl-8.5.0",
    pname="curl",
    version="8.5.0",
    description="",
    priority=5,
    derivation="/nix/store/x-curl.drv",
    outputs=(OUT,),
)


def lookup_result(package: Package) -> LookupResult:
    return LookupResult(request=PackageRequest(name=package.requested[0]), result=package)


def problem(name: str, kind: ProblemKind, *, optional: bool = False) -> LookupResult:
    return LookupResult(
        request=PackageRequest(name=name, optional=optional),
        result=PackageProblem(name=name, kind=kind, message=f"{name}: {kind.value}"),
    )


class MakeEvaluationTests(SynchronousTestCase):
    """Tests of the evaluation or error that is made of the answers."""

    def test_names_of_one_derivation_are_one_package_with_the_outputs_of_all(self) -> None:
        """Names of one derivation are one package, with the outputs of all."""
        answers = [
            lookup_result(evolve(CURL, requested=("curlfull",), attribute="curlFull", priority=3)),
            lookup_result(CURL),
            lookup_result(evolve(CURL, requested=("curl.dev",), outputs=(DEV,))),
        ]
        (package,) = make_evaluation(answers, "x86_64-linux").packages
        self.assertEqual(
            package,
            evolve(
                CURL,
                requested=("curl", "curl.dev", "curlfull"),
                priority=3,
                outputs=(DEV, OUT),
            ),
        )

    @settings(max_examples=50)
    @given(st.permutations(range(6)))
    def test_order_of_the_answers_makes_no_difference(self, order: list[int]) -> None:
        """The order of the answers makes no difference."""
        answers = [
            lookup_result(
                evolve(
                    CURL,
                    requested=(f"name{number}",),
                    attribute=f"attribute{number % 4}",
                    derivation=f"/nix/store/{number % 3}.drv",
                    priority=number,
                )
            )
            for number in range(6)
        ]
        self.assertEqual(
            make_evaluation([answers[number] for number in order], "s"),
            make_evaluation(answers, "s"),
        )

    def test_optional_packages_that_are_not_there_are_left_out(self) -> None:
        """Optional packages that are not there are left out; other faults of them count."""
        absent = [
            problem("b", ProblemKind.NOT_FOUND, optional=True),
            problem("a", ProblemKind.NOT_A_PACKAGE, optional=True),
        ]
        self.assertEqual(
            make_evaluation(absent, "s"),
            Evaluation(packages=(), missing_optional=("a", "b"), system="s"),
        )
        with self.assertRaises(PackagesRefused):
            make_evaluation([problem("b", ProblemKind.BROKEN, optional=True)], "s")

    def test_all_problems_are_told(self) -> None:
        """All problems are told."""
        with self.assertRaises(PackagesRefused) as caught:
            make_evaluation(
                [
                    lookup_result(CURL),
                    problem("a", ProblemKind.UNFREE),
                    problem("b", ProblemKind.NOT_FOUND),
                ],
                "s",
            )
        self.assertEqual([one.name for one in caught.exception.problems], ["a", "b"])
        self.assertTrue(caught.exception.not_found)


class RefusedTests(SynchronousTestCase):
    """Tests of the attribute paths that clients may not request."""

    def test_any_part_of_a_path_is_refused_in_any_case(self) -> None:
        """Any part of a path is refused, in any case; parts of parts are not."""
        refused = frozenset({"tests", "pkgscross"})
        names = ("git", "pkgsCross.x.git", "git.TESTS", "tests", "testsuite.git", "git.tests-x")
        requests = [PackageRequest(name=name) for name in names]
        problems = refused_problems(requests, refused)
        self.assertEqual([one.name for one in problems], ["pkgsCross.x.git", "git.TESTS", "tests"])
        self.assertEqual({one.kind for one in problems}, {ProblemKind.REFUSED})
