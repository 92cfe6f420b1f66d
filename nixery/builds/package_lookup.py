"""
What a package set has: for somebody who types names and wants to know before a pull.

Names are evaluated as they are for an image, but nothing is built, and nothing of it is
told in the book of builds.  Each answer is kept for a while, by the name and the
revision: whoever types asks for the same names again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableMapping, Sequence
from typing import Protocol

from attrs import define, field, frozen
from cachetools import TTLCache

from nixery.builds.fair_queue import FairQueue
from nixery.image.names import PackageRequest, Tag
from nixery.image.packages import LookupResult
from nixery.sources.interface import Sources
from nixery.sources.source import PackageSet, Revision

__all__ = ["SearchResult", "Lookup", "PackageLookup"]

LATEST = Tag("latest")

PINNED_TTL = 3600.0
"""For how many seconds an answer about a revision is kept that never changes."""

OTHER_TTL = 10.0
"""The same for one that may change at any moment."""

KEPT = 4096
"""How many answers are kept of either."""


class PackageLookup(Protocol):
    """Who looks names up."""

    async def look_up(
        self, package_set: PackageSet, system: str, requirements: Sequence[PackageRequest]
    ) -> Sequence[LookupResult]:
        """
        An answer for each requirement, in their order.

        :raises EvaluationFailed: the package set itself does not evaluate.
        :raises EvaluationTimedOut: it took too long.
        :raises NixUnusable: Nix itself failed.
        """


@frozen(kw_only=True)
class SearchResult:
    """
    What became of names.

    :param revision: of the package set that was asked.
    :param answers: in the order of the names.
    """

    revision: Revision
    answers: tuple[LookupResult, ...]


@define(kw_only=True, eq=False)
class Lookup:
    """
    Looks names up, a few at a time.

    :param sources: where packages come from.
    :param looker: evaluates.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param running: how many evaluations run at once, beside those of images.
    :param waiting: how many may wait for their turn.
    """

    sources: Sources
    looker: PackageLookup
    seconds: Callable[[], float]
    running: int = 1
    waiting: int = 32

    _pinned: MutableMapping[Hashable, LookupResult] = field(init=False)
    _other: MutableMapping[Hashable, LookupResult] = field(init=False)
    _queue: FairQueue[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pinned = TTLCache(KEPT, PINNED_TTL, timer=self.seconds)
        self._other = TTLCache(KEPT, OTHER_TTL, timer=self.seconds)
        self._queue = FairQueue(max_running=self.running, max_waiting=self.waiting, retry_after=5.0)

    async def revision(self) -> Revision:
        """
        What is served now under the tag ``latest``.

        :raises NixeryError: that cannot be found out.
        """
        return await self.sources.resolve(LATEST)

    async def check(
        self, client: str, system: str, requirements: Sequence[PackageRequest]
    ) -> SearchResult:
        """
        Look names up.  Cancelling ends the evaluation.

        :param client: who asks: evaluations are shared out fairly between those.
        :raises QueueFull: too many wait already.
        :raises NixeryError: the package set cannot be had, or not be evaluated.
        """
        revision = await self.revision()
        kept = self._pinned if revision.pinned else self._other
        known = {
            item: answer
            for item in requirements
            if (answer := kept.get((revision, system, item))) is not None
        }
        missing = [item for item in requirements if item not in known]
        if missing:

            async def work() -> Sequence[LookupResult]:
                package_set = await self.sources.fetch(revision)
                return await self.looker.look_up(package_set, system, missing)

            for answer in await self._queue.run(client, work):
                known[answer.requirement] = kept[revision, system, answer.requirement] = answer
        return SearchResult(
            revision=revision,
            answers=tuple(known[item] for item in requirements),
        )

    def stop(self) -> None:
        """Turn away all that wait."""
        self._queue.stop()
