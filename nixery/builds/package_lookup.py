"""
Look up packages in a package set before an image is pulled.

Names are evaluated as they are for an image, but nothing is built, and nothing is recorded
in the :class:`~nixery.builds.tracker.BuildTracker`.  Each result is cached for a while by the
name and the revision, because a user who types sends the same names again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableMapping, Sequence
from typing import Protocol

from attrs import define, evolve, field, frozen
from cachetools import TTLCache

from nixery.builds.candidates import CandidateSearch
from nixery.image.errors import PackageProblem
from nixery.image.names import PackageRequest, Tag
from nixery.image.packages import LookupResult
from nixery.limits.fair_queue import FairQueue
from nixery.sources.interface import Sources
from nixery.sources.source import PackageSet, Revision

__all__ = ["SearchResult", "PackageSearch", "PackageLookup"]

LATEST = Tag("latest")

FIXED_TTL_SECONDS = 3600.0
"""
The time that results for a revision are cached that is pinned, or whose changes are observed, in
seconds.
"""

UNKNOWN_TTL_SECONDS = 10.0
"""The time that results for a revision that may change unseen are cached, in seconds."""

MAX_CACHED_RESULTS = 4096
"""The number of results that each of the two caches holds."""


class PackageLookup(Protocol):
    """Looks package names up in a package set."""

    async def look_up(
        self, package_set: PackageSet, system: str, requests: Sequence[PackageRequest]
    ) -> Sequence[LookupResult]:
        """
        Return a result for each requested package, in their order.

        :raises EvaluationFailed: the package set itself does not evaluate.
        :raises EvaluationTimedOut: it took too long.
        :raises NixUnusable: Nix itself failed.
        """


@frozen(kw_only=True)
class SearchResult:
    """
    The results for some package names.

    :param revision: the revision of the package set that was searched.
    :param results: in the order of the names.
    """

    revision: Revision
    results: tuple[LookupResult, ...]


@define(kw_only=True, eq=False)
class PackageSearch:
    """
    Looks package names up, with few evaluations at once, and caches the results.

    :param sources: resolves tags and fetches package sets.
    :param package_lookup: evaluates the names.
    :param candidates: finds other names for those that do not exist.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param max_running: the number of evaluations that run at once, besides those of images.
    :param max_waiting: the number that may wait for their turn.
    """

    sources: Sources
    package_lookup: PackageLookup
    candidates: CandidateSearch
    seconds: Callable[[], float]
    max_running: int = 1
    max_waiting: int = 32

    _fixed_results: MutableMapping[Hashable, LookupResult] = field(init=False)
    _unknown_results: MutableMapping[Hashable, LookupResult] = field(init=False)
    _queue: FairQueue[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._fixed_results = TTLCache(MAX_CACHED_RESULTS, FIXED_TTL_SECONDS, timer=self.seconds)
        self._unknown_results = TTLCache(
            MAX_CACHED_RESULTS, UNKNOWN_TTL_SECONDS, timer=self.seconds
        )
        self._queue = FairQueue(
            max_running=self.max_running, max_waiting=self.max_waiting, retry_after=5.0
        )

    async def revision(self) -> Revision:
        """
        Return the revision that the tag ``latest`` names now.

        :raises NixeryError: the tag cannot be resolved.
        """
        return await self.sources.resolve(LATEST)

    async def search(
        self, client: str, system: str, requests: Sequence[PackageRequest], tag: Tag = LATEST
    ) -> SearchResult:
        """
        Look names up.  Cancelling ends the evaluation.

        :param client: identifies the client; evaluations are shared fairly between clients.
        :param tag: names the revision.
        :raises QueueFull: too many wait already.
        :raises NixeryError: the package set cannot be fetched or evaluated.
        """
        revision = await self.sources.resolve(tag)
        cache = self._fixed_results if revision.is_fixed else self._unknown_results
        results = {
            request: result
            for request in requests
            if (result := cache.get((revision, system, request))) is not None
        }
        unknown = [request for request in requests if request not in results]
        if unknown:

            async def work() -> Sequence[LookupResult]:
                package_set = await self.sources.fetch(revision)
                return await self.package_lookup.look_up(package_set, system, unknown)

            found = await self._queue.run(client, work)
            for result in await self._with_candidates(found):
                results[result.request] = cache[revision, system, result.request] = result
        return SearchResult(
            revision=revision,
            results=tuple(results[request] for request in requests),
        )

    async def _with_candidates(self, results: Sequence[LookupResult]) -> Sequence[LookupResult]:
        problems = [each.result for each in results if isinstance(each.result, PackageProblem)]
        completed = iter(await self.candidates.complete(problems))
        return [
            evolve(each, result=next(completed))
            if isinstance(each.result, PackageProblem)
            else each
            for each in results
        ]

    def stop(self) -> None:
        """Reject all look-ups that wait, and all that come later."""
        self._queue.stop()
