"""
List the branches and tags of a git repository once for all clients that ask for one.

Anybody may ask for any tag, and a request to the host for each would let a client that makes up
tags use up what the host allows, and keep others waiting.  Here all of them share one listing:

- A listing is not repeated for :data:`LISTING_SECONDS`, also if it has failed.  Refs that it has
  are found without a request meanwhile.
- A ref that it does not have may have been pushed since: a client that asks for such a ref waits
  for a listing that began after it asked.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from itertools import count
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from nixery.runtime.single_flight import SingleFlight
from nixery.sources.git_arguments import RefList
from nixery.sources.source import ResolvedRef

__all__ = ["LISTING_SECONDS", "RefListing"]

LISTING_SECONDS = 3.0
"""Seconds from the end of a listing until the next one may begin."""


@frozen(kw_only=True)
class _Listing:
    """
    The refs at one time.

    :param number: greater than those of the requests that came before the listing began.
    :param until: the time on the clock until which it is used.
    """

    refs: RefList
    number: int
    until: float


class RefListing:
    """
    The branches and tags of a repository.

    :param list_refs: asks the repository for all of them.
    :param clock: measures the time between listings.
    """

    def __init__(
        self, list_refs: Callable[[], Coroutine[Deferred[Any], Any, RefList]], clock: IReactorTime
    ) -> None:
        self._list_refs = list_refs
        self._clock = clock
        self._numbers = count(1)
        self._last: _Listing | None = None
        # The time on the clock until which no other listing begins.
        self._pause_until = clock.seconds()
        self._running: SingleFlight[None, _Listing] = SingleFlight(cancel_abandoned=True)

    async def find(self, names: Sequence[str]) -> ResolvedRef | None:
        """
        Return the first of several refs that exists.

        :raises SourceUnavailable: the repository cannot be listed.
        """
        number = next(self._numbers)
        recent = self._recent()
        found = None if recent is None else recent.refs.find(names)
        while found is None:
            # One that runs already will do for a ref that it has.
            listing = await self._running.run(None, self._list)
            found = listing.refs.find(names)
            if listing.number > number:
                break
        return found

    async def find_tip(self, commit: str) -> ResolvedRef | None:
        """
        Return a branch or a tag that is at a commit, or was so some seconds ago.

        :raises SourceUnavailable: the repository cannot be listed.
        """
        listing = self._recent() or await self._running.run(None, self._list)
        return listing.refs.find_tip(commit)

    async def stop(self) -> None:
        """Cancel the listing that runs; returns when it has ended."""
        await self._running.stop()

    def _recent(self) -> _Listing | None:
        if self._last is None or self._last.until <= self._clock.seconds():
            return None
        return self._last

    async def _list(self) -> _Listing:
        if self._pause_until > self._clock.seconds():
            await deferLater(self._clock, self._pause_until - self._clock.seconds())
        # The result serves those who ask next, even if all who wait now leave.
        self._running.keep(None)
        number = next(self._numbers)
        try:
            refs = await self._list_refs()
        finally:
            self._pause_until = self._clock.seconds() + LISTING_SECONDS
        self._last = _Listing(refs=refs, number=number, until=self._pause_until)
        return self._last
