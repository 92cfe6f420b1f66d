"""
Find names that may have been meant by names that do not exist.

This takes a processor some milliseconds for each name in a large package set, and anybody
may send made-up names.  So it is done for few names of each request and within a budget, one
request at a time and fairly between clients, beside the evaluations and not in the turn of one;
and only when there is a client that reads the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, evolve, field

from nixery.image.errors import InvalidName, PackageProblem
from nixery.image.names import parse_image_name
from nixery.limits.build_quota import current_queue_client
from nixery.limits.errors import QueueFull
from nixery.limits.fair_queue import FairQueue
from nixery.limits.package_rules import PackageRules
from nixery.runtime.workers import Workers

__all__ = ["CandidateSearch", "find_candidates", "visible_candidates"]

MAX_SEARCHED_NAMES = 3
"""The most missing names of one request that candidates are looked for."""

BUDGET_SECONDS = 0.1
"""The time that a request's candidates may take, in seconds."""

MAX_WAITING = 64
"""The most requests that wait for their candidates; others are answered without."""

MAX_CANDIDATES = 5
"""The most candidates for a name that a client is told."""


def find_candidates(
    problems: Sequence[PackageProblem], seconds: Callable[[], float]
) -> tuple[PackageProblem, ...]:
    """
    Return the problems with the candidates of the first missing names.

    Call it on a worker thread.

    :param seconds: a clock that may be read on any thread.
    """
    deadline = seconds() + BUDGET_SECONDS

    def expired() -> bool:
        return seconds() >= deadline

    completed: list[PackageProblem] = []
    searched = 0
    for problem in problems:
        if problem.find_candidates is None:
            completed.append(problem)
            continue
        candidates: Sequence[str] = ()
        if searched < MAX_SEARCHED_NAMES and not (searched and expired()):
            candidates = problem.find_candidates(expired)
        searched += 1
        completed.append(evolve(problem, candidates=tuple(candidates), find_candidates=None))
    return tuple(completed)


def visible_candidates(
    problem: PackageProblem, may_see: Callable[[str], bool] = lambda _name: True
) -> PackageProblem:
    """
    Return the problem with the best of those candidates that a client may see.

    :param may_see: tells whether the client may see the image of this name.
    """
    visible = [name for name in problem.candidates if may_see(name)]
    return evolve(problem, candidates=tuple(visible[:MAX_CANDIDATES]))


@define(kw_only=True, eq=False)
class CandidateSearch:
    """
    Finds the candidates for the missing names of requests.

    :param workers: a pool of threads; not the one that packs layers.
    :param seconds: the monotonic time, which may be read on any thread.
    :param rules: candidates that are not served are left out.
    """

    workers: Workers
    seconds: Callable[[], float]
    rules: PackageRules = field(factory=PackageRules)

    # All compete for the interpreter: more threads would not be faster.
    _queue: FairQueue[str] = field(
        factory=lambda: FairQueue(max_running=1, max_waiting=MAX_WAITING), init=False
    )

    async def complete(self, problems: Sequence[PackageProblem]) -> tuple[PackageProblem, ...]:
        """
        Return the problems with candidates for the missing names; without any if too many
        requests wait for theirs.

        Cancelling gives up the turn.
        """
        if all(problem.find_candidates is None for problem in problems):
            return tuple(problems)
        try:
            found = await self._queue.run(
                current_queue_client(),
                lambda: self.workers.run(find_candidates, problems, self.seconds),
            )
        except QueueFull:
            return tuple(evolve(problem, find_candidates=None) for problem in problems)
        return tuple(
            evolve(problem, candidates=tuple(filter(self._is_served, problem.candidates)))
            for problem in found
        )

    def _is_served(self, candidate: str) -> bool:
        try:
            return self.rules.allows(parse_image_name(candidate, system=""))
        except InvalidName:
            return False
