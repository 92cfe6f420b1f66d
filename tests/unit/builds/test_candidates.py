"""Tests of finding the names that may have been meant by missing ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.candidates import (
    BUDGET_SECONDS,
    MAX_CANDIDATES,
    MAX_SEARCHED_NAMES,
    MAX_WAITING,
    CandidateSearch,
    find_candidates,
    visible_candidates,
)
from nixery.image.errors import PackageProblem, ProblemKind
from nixery.image.patterns import parse_patterns
from nixery.limits.build_quota import current_client
from nixery.limits.package_rules import PackageRules
from tests.support.http import SteppedWorkers


class CandidateTests(SynchronousTestCase):
    """Problems that count the searches for their candidates."""

    def setUp(self) -> None:
        self.now = 0.0
        self.searches = 0
        self.workers = SteppedWorkers()

    def problem(self, *candidates: str, seconds: float = 0.0) -> PackageProblem:
        def find(_expired: Callable[[], bool]) -> Sequence[str]:
            self.searches += 1
            self.now += seconds
            return candidates

        return PackageProblem(
            name="gti", kind=ProblemKind.NOT_FOUND, message="no gti", find_candidates=find
        )

    def find(self, *problems: PackageProblem) -> list[tuple[str, ...]]:
        found = find_candidates(problems, lambda: self.now)
        self.assertTrue(all(problem.find_candidates is None for problem in found))
        return [problem.candidates for problem in found]

    def complete(
        self, problem: PackageProblem, rules: PackageRules | None = None
    ) -> Deferred[tuple[PackageProblem, ...]]:
        search = CandidateSearch(
            workers=self.workers, seconds=lambda: self.now, rules=rules or PackageRules()
        )
        return Deferred.fromCoroutine(search.complete([problem]))

    def test_only_the_first_missing_names_are_searched(self) -> None:
        """Candidates are found for the first missing names, and for no more of a request."""
        known = PackageProblem(
            name="x", kind=ProblemKind.AMBIGUOUS, message="x", candidates=("X", "x")
        )
        missing = [self.problem("git")] * (MAX_SEARCHED_NAMES + 2)
        self.assertEqual(
            self.find(known, *missing), [("X", "x"), *[("git",)] * MAX_SEARCHED_NAMES, (), ()]
        )
        self.assertEqual(self.searches, MAX_SEARCHED_NAMES)

    def test_search_ends_when_the_budget_is_spent(self) -> None:
        """The first name is searched; the next one only within the budget."""
        slow = self.problem("git", seconds=BUDGET_SECONDS)
        self.assertEqual(self.find(slow, slow), [("git",), ()])

    def test_search_learns_that_the_budget_is_spent(self) -> None:
        """A search is told that the budget is spent while it is at work."""
        told = []

        def find(expired: Callable[[], bool]) -> Sequence[str]:
            told.append(expired())
            self.now += BUDGET_SECONDS
            told.append(expired())
            return ()

        problem = PackageProblem(
            name="x", kind=ProblemKind.NOT_FOUND, message="x", find_candidates=find
        )
        self.find(problem)
        self.assertEqual(told, [False, True])

    def test_one_request_at_a_time_and_none_for_a_client_that_left(self) -> None:
        """Requests are searched in turn; one whose client has left is not searched at all."""
        search = CandidateSearch(workers=self.workers, seconds=lambda: self.now)
        first, left, last = (
            Deferred.fromCoroutine(search.complete([self.problem(name)])) for name in "abc"
        )
        self.assertEqual(len(self.workers), 1)
        left.cancel()
        self.failureResultOf(left, CancelledError)
        self.workers.finish()
        self.assertEqual(
            [self.successResultOf(each)[0].candidates for each in (first, last)], [("a",), ("c",)]
        )
        self.assertEqual(self.searches, 2)

    def test_turn_goes_on_when_the_client_leaves_during_it(self) -> None:
        """A client that leaves in its turn gives it to the next one."""
        search = CandidateSearch(workers=self.workers, seconds=lambda: self.now)
        first, last = (
            Deferred.fromCoroutine(search.complete([self.problem(name)])) for name in "ab"
        )
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.workers.finish()
        self.assertEqual(self.successResultOf(last)[0].candidates, ("b",))
        self.assertEqual(self.searches, 1)

    def test_clients_take_turns(self) -> None:
        """A client with one request waits for no more than one of another's."""
        search = CandidateSearch(workers=self.workers, seconds=lambda: self.now)
        ended: list[str] = []

        def ask(client: str, name: str) -> None:
            context = copy_context()
            context.run(current_client.set, (client,))
            asked = context.run(Deferred.fromCoroutine, search.complete([self.problem(name)]))
            asked.addCallback(lambda found: ended.append(found[0].candidates[0]))

        for name in ("a1", "a2", "a3"):
            ask("a", name)
        ask("b", "b1")
        self.workers.finish()
        self.assertEqual(ended, ["a1", "b1", "a2", "a3"])

    def test_requests_beyond_those_that_may_wait_are_answered_without_candidates(self) -> None:
        """Requests beyond those that may wait are answered at once, without candidates."""
        search = CandidateSearch(workers=self.workers, seconds=lambda: self.now)
        asked = [
            Deferred.fromCoroutine(search.complete([self.problem("git")]))
            for _ in range(MAX_WAITING + 2)
        ]
        [last] = self.successResultOf(asked[-1])
        self.assertEqual((last.candidates, last.find_candidates), ((), None))
        self.workers.finish()
        for each in asked[:-1]:
            self.assertEqual(self.successResultOf(each)[0].candidates, ("git",))

    def test_nothing_is_done_where_nothing_is_missing(self) -> None:
        """Other problems take no turn and no thread."""
        known = PackageProblem(name="x", kind=ProblemKind.BROKEN, message="x")
        self.assertEqual(self.successResultOf(self.complete(known)), (known,))

    def test_packages_that_are_not_served_are_no_candidates(self) -> None:
        """Candidates that are not served are left out, however they are written."""
        rules = PackageRules(denied=parse_patterns(["git", "libsigc++"]))
        problem = self.problem("git", "gitea", "python3.pkgs.git", "attr--6c6962736967632b2b")
        completed = self.complete(problem, rules)
        self.workers.finish()
        [found] = self.successResultOf(completed)
        self.assertEqual(found.candidates, ("gitea",))

    def test_candidates_that_a_client_may_not_see_make_room_for_others(self) -> None:
        """A client is told the best of those candidates that it may see."""
        names = [f"secret{at}" for at in range(5)] + [f"git{at}" for at in range(7)]
        [problem] = find_candidates([self.problem(*names)], lambda: 0.0)
        visible = visible_candidates(problem, lambda name: name.startswith("git"))
        self.assertEqual(visible.candidates, tuple(f"git{at}" for at in range(MAX_CANDIDATES)))
        self.assertEqual(visible_candidates(problem).candidates, tuple(names[:MAX_CANDIDATES]))
