"""
Serve indexes that lack platforms, and have these platforms tried again after a while.

Such an index is never recorded as the whole one.  A platform that takes an hour to fail must not
hold up the clients of the others for that hour: the index is served while the next attempt runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from typing import Any

from attrs import define, field
from cachetools import LRUCache, TTLCache
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from nixery.errors import NixeryError
from nixery.image.manifests import Image
from nixery.runtime.deferreds import TimedOut, with_timeout

__all__ = ["IncompleteIndexes"]

MAX_INDEXES = 1024
"""The number of indexes that are remembered; another process has to make its own attempt."""

ATTEMPT_WAIT_SECONDS = 1.0
"""Seconds for which the client that begins an attempt waits, in case a cache has it all now."""


@define(kw_only=True, eq=False)
class IncompleteIndexes:
    """
    The keys of indexes that lack platforms, by the keys of what clients asked for.

    :param clock: limits the wait for an attempt.
    :param interval: the seconds from one attempt to make the missing platforms to the next.
    """

    clock: IReactorTime
    interval: float
    _keys: MutableMapping[str, str] = field(init=False)
    _tried: MutableMapping[str, None] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._keys = LRUCache(MAX_INDEXES)
        self._tried = TTLCache(MAX_INDEXES, self.interval, timer=self.clock.seconds)

    def __contains__(self, asked: str) -> bool:
        """Tell whether the index that was made last lacks platforms."""
        return asked in self._keys

    def record(self, asked: str, key: str) -> None:
        """Note that an attempt has just ended with an index that lacks platforms."""
        self._keys[asked] = key
        self._tried[asked] = None

    def discard(self, asked: str) -> None:
        """Note that the index is whole now."""
        self._keys.pop(asked, None)

    async def answer(
        self,
        asked: str,
        get_known: Callable[[str], Awaitable[Image | None]],
        attempt: Callable[[], Coroutine[Deferred[Any], Any, Image]],
    ) -> Image | None:
        """
        Return the index that was made last, or the outcome of an attempt that is due and soon ends.

        :param get_known: returns the image of a key, if it is still stored.
        :param attempt: begins a job or joins it; the job goes on when the wait is cancelled.
        :return: ``None`` if no index that lacks platforms is known.
        """
        known = await get_known(self._keys[asked]) if asked in self._keys else None
        if known is None or asked in self._tried:
            return known
        self._tried[asked] = None
        # The failure of a job has a log line of its own, and what is known can be served still.
        with suppress(TimedOut, NixeryError):
            return await with_timeout(ATTEMPT_WAIT_SECONDS, self.clock, attempt())
        return known
