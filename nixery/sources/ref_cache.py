"""
Cache the look-ups of references, and serve stale ones while the upstream fails.

Concurrent look-ups of a moving reference share one request to its upstream, and the result
is used for its time to live.  While the upstream cannot be reached, the last result is
served, also after a restart; this is logged once, and so is the recovery.

A commit that was found to be in the history of a branch or a tag stays accepted, even
if that branch is rewritten later: a deployment that is pinned to a commit has to go on
working, and the commit did come from the repository.  To withdraw one,
set ``allowed_tags`` so that it does not match.
"""

from __future__ import annotations

from typing import TypeVar

from attrs import asdict, define
from twisted.internet.defer import CancelledError, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from nixery.errors import ShuttingDown
from nixery.image.canonical_json import Json, canonical_json
from nixery.runtime.single_flight import SingleFlight
from nixery.runtime.workers import Workers
from nixery.sources.errors import SourceUnavailable
from nixery.sources.interface import RefSource
from nixery.sources.ref_file import RefFile
from nixery.sources.source import ResolvedRef
from nixery.sources.tag_policy import GitCommit, Reference

__all__ = ["LOOKUP_TIMEOUT_SECONDS", "RefCache"]

T = TypeVar("T")

LOOKUP_TIMEOUT_SECONDS = 20.0
"""
The most seconds that a look-up may take, all attempts together: less than clients wait for the
answer to a request (``pull_wait_timeout``).
"""

STALE_TTL_SECONDS = 30.0
"""Seconds between requests for a reference whose look-up failed and has an old result."""

NEGATIVE_TTL_SECONDS = 30.0
"""The most seconds for which a reference that does not exist is cached."""

MAX_CACHED_REFS = 4096
"""The most references that are cached."""


@define(eq=False)
class _CachedRef:
    """A cached result, valid until a time on the clock; ``None`` if there is no such ref."""

    result: ResolvedRef | None
    expires_at: float


class RefCache:
    """
    Caches the references of one upstream.

    :param upstream: looks references up.
    :param name: the upstream's name in the log and in the file.
    :param ttl: seconds for which a moving reference is not looked up again.
    :param ref_file: stores results across restarts.
    :param workers: for the file system.
    :param clock: measures times to live.
    """

    _log = Logger()

    def __init__(
        self,
        upstream: RefSource,
        *,
        name: str,
        ttl: float,
        ref_file: RefFile,
        workers: Workers,
        clock: IReactorTime,
    ) -> None:
        self._upstream = upstream
        self._name = name
        self._ttl = ttl
        self._ref_file = ref_file
        self._workers = workers
        self._clock = clock
        self._stored: dict[str, ResolvedRef] = {}
        self._entries: dict[str, _CachedRef] = {}
        self._lookups: SingleFlight[str, ResolvedRef | None] = SingleFlight()
        self._save_lock = DeferredLock()
        self._upstream_failing = False
        self._stopping = False

    async def start(self) -> None:
        """
        Load the stored results; makes no request.

        :raises CommandMissing: a program that look-ups need is not on PATH.
        """
        self._stopping = False
        await self._upstream.check()
        try:
            self._stored = await self._workers.run(self._ref_file.load)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._log.warn(
                "What {upstream} said last is forgotten: {error}", upstream=self._name, error=error
            )

    async def stop(self) -> None:
        """Cancel running look-ups; returns when they have ended."""
        self._stopping = True
        await self._lookups.stop()

    async def find(self, reference: Reference, *, must_exist: bool) -> ResolvedRef | None:
        """
        Return the commit of a reference, from the cache while that is fresh.

        :param must_exist: whether a missing reference is a fault of the upstream: then the
            last result is used.
        :return: ``None`` if the reference does not exist.
        :raises SourceUnavailable: the look-up failed, and there is no earlier result.
        """
        key = self._cache_key(reference)
        if isinstance(reference, GitCommit) and key in self._stored:
            return self._stored[key]
        cached = self._entries.get(key)
        if cached is not None and self._clock.seconds() < cached.expires_at:
            return cached.result
        if self._stopping:
            raise ShuttingDown

        async def look_up() -> ResolvedRef | None:
            try:
                return await self._look_up(key, reference, must_exist=must_exist)
            except CancelledError as error:
                raise ShuttingDown from error

        return await self._lookups.run(key, look_up)

    def invalidate(self, commit: str) -> None:
        """Drop cached results that are a commit which cannot be fetched, to look them up anew."""
        for key, cached in list(self._entries.items()):
            if cached.result is not None and cached.result.commit == commit:
                del self._entries[key]

    async def _look_up(
        self, key: str, reference: Reference, *, must_exist: bool
    ) -> ResolvedRef | None:
        stored = self._stored.get(key)
        try:
            result = await self._upstream.find(reference)
            if result is None and must_exist:
                raise SourceUnavailable(
                    source=self._name,
                    what=reference.describe(),
                    reason="there is no such thing",
                    advice="what its operator has configured is not there",
                )
        except SourceUnavailable as error:
            if stored is None:
                self._log.warn("{error}", error=error, output=error.output)
                raise
            self._log_failure(reference, stored, error)
            self._cache_result(key, stored, STALE_TTL_SECONDS)
            return stored
        self._log_recovery()
        self._cache_result(
            key, result, self._ttl if result else min(NEGATIVE_TTL_SECONDS, self._ttl)
        )
        if result != stored:
            await self._store(key, result)
        return result

    def _log_failure(
        self, reference: Reference, stored: ResolvedRef, error: SourceUnavailable
    ) -> None:
        if not self._upstream_failing:
            self._upstream_failing = True
            self._log.warn(
                "{upstream} cannot be asked for {reference}: {reason}. The commit that it named"
                " last goes on being served: {commit}",
                upstream=self._name,
                reference=reference.describe(),
                reason=error.reason,
                commit=stored.commit,
                output=error.output,
            )

    def _log_recovery(self) -> None:
        if self._upstream_failing:
            self._upstream_failing = False
            self._log.info("{upstream} answers again.", upstream=self._name)

    def _cache_result(self, key: str, result: ResolvedRef | None, ttl: float) -> None:
        self._entries.pop(key, None)
        self._entries[key] = _CachedRef(result, self._clock.seconds() + ttl)
        _evict_oldest(self._entries)

    async def _store(self, key: str, result: ResolvedRef | None) -> None:
        """Store a result for use after a restart."""
        self._stored.pop(key, None)
        if result is not None:
            self._stored[key] = result
            _evict_oldest(self._stored)
        await self._save_lock.acquire()
        try:
            await self._workers.run(self._ref_file.save, dict(self._stored))
        except OSError as error:
            self._log.warn(
                "What {upstream} says is not kept: {error}", upstream=self._name, error=error
            )
        finally:
            self._save_lock.release()

    def _cache_key(self, reference: Reference) -> str:
        """
        Return the cache key of a reference.

        All of its fields are in the key: a commit that was accepted as trusted has not been
        found in a history.
        """
        fields: dict[str, Json] = {"kind": type(reference).__name__, **asdict(reference)}
        return canonical_json({"upstream": self._name, "reference": fields}).decode()


def _evict_oldest(mapping: dict[str, T]) -> None:
    """Remove the oldest entries beyond the limit."""
    while len(mapping) > MAX_CACHED_REFS:
        del mapping[next(iter(mapping))]
