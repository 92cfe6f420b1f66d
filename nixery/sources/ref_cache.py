"""
Cache the look-ups of references, and serve stale ones while the upstream fails.

Concurrent look-ups of a moving reference share one request to its upstream, and the result
is used for its time to live.  While the upstream cannot be reached, the last result is
served, also after a restart; this is logged once, and so is the recovery.

The references that the configuration names are looked up at once.  While one is renewed, its
clients wait for :data:`RENEWAL_WAIT_SECONDS` in all, and then get the last result, unless that is
too old: an upstream that hangs delays them no longer than that.

All other references are the clients' choice, and clients may make them up.  Look-ups for them
wait in a queue that is fair between clients and bounded, as is the number of look-ups that one
client may cause; those whose clients have all left leave the queue.

A commit that was found to be in the history of a branch or a tag stays accepted, even
if that branch is rewritten later: a deployment that is pinned to a commit has to go on
working, and the commit did come from the repository.  To withdraw one,
set ``allowed_tags`` so that it does not match.
"""

from __future__ import annotations

from typing import TypeVar

from attrs import asdict, define
from cachetools import TTLCache
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from nixery.errors import ShuttingDown
from nixery.image.canonical_json import Json, canonical_json
from nixery.limits.build_quota import current_queue_client
from nixery.limits.fair_queue import FairQueue
from nixery.limits.token_buckets import TokenBuckets
from nixery.runtime.deferreds import TimedOut, with_timeout
from nixery.runtime.single_flight import SingleFlight
from nixery.runtime.workers import Workers
from nixery.sources.errors import LookupsExceeded, SourceUnavailable
from nixery.sources.interface import InTurn, LookUp, RefSource
from nixery.sources.ref_file import RefFile
from nixery.sources.source import ResolvedRef
from nixery.sources.tag_policy import GitCommit, Reference

__all__ = ["LOOKUP_TIMEOUT_SECONDS", "MIN_STALE_SECONDS", "RefCache"]

T = TypeVar("T")

LOOKUP_TIMEOUT_SECONDS = 20.0
"""
The most seconds that a look-up may take, all attempts together: less than clients wait for the
answer to a request (``pull_wait_timeout``).
"""

RENEWAL_WAIT_SECONDS = 2.0
"""Seconds from the start of a renewal until the last result is served in its place."""

MIN_STALE_SECONDS = 60.0
"""Seconds after its time to live for which a result may be served while it is renewed."""

MAX_WAITING_LOOKUPS = 64
"""The most look-ups of references that clients chose that wait for their turn."""

LOOKUPS_PER_MINUTE = 30
"""The most such look-ups that one client may cause in a minute, and at once."""

QUEUE_RETRY_SECONDS = 5.0
"""Seconds to retry after, for clients whose look-ups find no place in the queue."""

STALE_TTL_SECONDS = 30.0
"""Seconds between requests for a reference whose look-up failed and has an old result."""

NEGATIVE_TTL_SECONDS = 30.0
"""The most seconds for which a reference that does not exist is cached."""

MAX_CACHED_REFS = 4096
"""The most references that are cached."""


@define(eq=False)
class _CachedRef:
    """
    A cached result.

    :param as_of: the time on the clock at which its last look-up began.
    :param expires_at: the time on the clock at which it is looked up again.
    """

    result: ResolvedRef
    as_of: float
    expires_at: float


class RefCache:
    """
    Caches the references of one upstream.

    :param upstream: looks references up.
    :param name: the upstream's name in the log and in the file.
    :param ttl: seconds for which a moving reference is not looked up again.
    :param stale_ttl: seconds after that for which the last result of a configured reference may
        be served while it is renewed.
    :param max_lookups: the most concurrent look-ups of references that clients chose, of those
        that cost the upstream or this machine something for this reference alone.
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
        stale_ttl: float = MIN_STALE_SECONDS,
        max_lookups: int,
        ref_file: RefFile,
        workers: Workers,
        clock: IReactorTime,
    ) -> None:
        self._upstream = upstream
        self._name = name
        self._ttl = ttl
        self._stale_ttl = stale_ttl
        self._ref_file = ref_file
        self._workers = workers
        self._clock = clock
        self._stored: dict[str, ResolvedRef] = {}
        self._entries: dict[str, _CachedRef] = {}
        # Apart from the others: made-up references must not displace them.
        self._missing: TTLCache[str, None] = TTLCache(
            MAX_CACHED_REFS, min(NEGATIVE_TTL_SECONDS, ttl), timer=clock.seconds
        )
        # By the keys of configured references, the times at which their last renewals began.
        self._renewal_starts: dict[str, float] = {}
        self._renewals: SingleFlight[str, ResolvedRef | None] = SingleFlight()
        # By key and client: each client waits in its own place of the queue.
        self._lookups: SingleFlight[tuple[str, str], ResolvedRef | None] = SingleFlight(
            cancel_abandoned=True
        )
        self._queue: FairQueue[str] = FairQueue(
            max_running=max_lookups,
            max_waiting=MAX_WAITING_LOOKUPS,
            what="tags wait to be looked up",
            retry_after=QUEUE_RETRY_SECONDS,
        )
        self._quota = TokenBuckets(
            rate=LOOKUPS_PER_MINUTE / 60, burst=LOOKUPS_PER_MINUTE, seconds=clock.seconds
        )
        self._saves: SingleFlight[None, None] = SingleFlight()
        self._save_lock = DeferredLock()
        self._upstream_failing = False
        self._logged_error: SourceUnavailable | None = None
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
                "The last answers of {upstream} are forgotten: {error}",
                upstream=self._name,
                error=error,
            )

    async def stop(self) -> None:
        """Cancel running look-ups; returns when they have ended."""
        self._stopping = True
        await self._renewals.stop()
        await self._lookups.stop()
        await self._upstream.stop()
        await self._saves.settled()

    async def find(self, reference: Reference, *, configured: bool) -> ResolvedRef | None:
        """
        Return the commit of a reference, from the cache while that is fresh.

        :param configured: whether the configuration names it.  Then it must exist: if it
            is missing, the last result is used.
        :return: ``None`` if the reference does not exist.
        :raises SourceUnavailable: the look-up failed, and there is no earlier result.
        :raises LookupsExceeded: the client has caused too many look-ups of commits.
        :raises QueueFull: too many look-ups wait already.
        """
        key = self._cache_key(reference)
        if isinstance(reference, GitCommit) and key in self._stored:
            return self._stored[key]
        cached = self._entries.get(key)
        if cached is not None and self._clock.seconds() < cached.expires_at:
            return cached.result
        if self._stopping:
            raise ShuttingDown
        if configured:
            return await self._renew(key, reference, cached)
        if key in self._missing:
            return None
        client = current_queue_client()
        in_turn = self._make_in_turn(key, client, limited=isinstance(reference, GitCommit))
        return await self._lookups.run(
            (key, client), lambda: self._look_up(key, reference, in_turn)
        )

    def invalidate(self, commit: str) -> None:
        """Drop cached results that are a commit which cannot be fetched, to look them up anew."""
        for key, cached in list(self._entries.items()):
            if cached.result.commit == commit:
                del self._entries[key]

    async def _renew(
        self, key: str, reference: Reference, cached: _CachedRef | None
    ) -> ResolvedRef | None:
        """Look a configured reference up, or return its last result if that takes too long."""
        now = self._clock.seconds()
        if key not in self._renewals:
            self._renewal_starts[key] = now
        wait = max(0.0, self._renewal_starts[key] + RENEWAL_WAIT_SECONDS - now)
        renewal = self._renewals.run(key, lambda: self._look_up(key, reference, None))
        if cached is None or cached.as_of + self._ttl + self._stale_ttl < now + wait:
            return await renewal
        try:
            return await with_timeout(wait, self._clock, _result_of(renewal))
        except TimedOut:
            return cached.result

    def _make_in_turn(self, key: str, client: str, *, limited: bool) -> InTurn:
        """
        Return a function that runs a look-up when its client's turn has come.

        :param client: empty for the daemon itself.
        :param limited: whether it counts towards the client's limit.
        """

        async def in_turn(look_up: LookUp) -> ResolvedRef | None:
            wait = self._quota.take(client) if limited and client else 0.0
            if wait > 0:
                raise LookupsExceeded(limit=LOOKUPS_PER_MINUTE, retry_after=wait)

            async def begin() -> ResolvedRef | None:
                # It goes on without its client, which may come back for the result.
                self._lookups.keep((key, client))
                # Another client may have caused the same look-up.
                cached = self._entries.get(key)
                if cached is not None and self._clock.seconds() < cached.expires_at:
                    return cached.result
                return None if key in self._missing else await look_up()

            return await self._queue.run(client, begin)

        return in_turn

    async def _look_up(
        self, key: str, reference: Reference, in_turn: InTurn | None
    ) -> ResolvedRef | None:
        """
        Ask the upstream, and cache its answer.

        :param in_turn: as in :meth:`nixery.sources.interface.RefSource.find`.
        """
        try:
            return await self._ask(key, reference, in_turn)
        except CancelledError as error:
            raise ShuttingDown from error

    async def _ask(
        self, key: str, reference: Reference, in_turn: InTurn | None
    ) -> ResolvedRef | None:
        stored = self._stored.get(key)
        as_of = self._clock.seconds()
        try:
            result = await self._upstream.find(reference, in_turn)
            if result is None and in_turn is None:
                raise SourceUnavailable(
                    source=self._name,
                    what=reference.describe(),
                    reason="there is no such thing",
                    advice="what its operator has configured is not there",
                )
        except SourceUnavailable as error:
            if stored is None:
                self._log_error(error)
                raise
            self._log_failure(reference, stored, error)
            self._cache_result(key, stored, as_of, STALE_TTL_SECONDS)
            return stored
        self._log_recovery()
        if result is not None:
            self._cache_result(key, result, as_of, self._ttl)
        else:
            self._entries.pop(key, None)
            self._missing[key] = None
        if result != stored:
            await self._store(key, result)
        return result

    def _log_error(self, error: SourceUnavailable) -> None:
        # Look-ups that shared a request share its failure.
        if error is not self._logged_error:
            self._log.warn("{error}", error=error, output=error.output)
        self._logged_error = error

    def _log_failure(
        self, reference: Reference, stored: ResolvedRef, error: SourceUnavailable
    ) -> None:
        if not self._upstream_failing:
            self._upstream_failing = True
            self._log.warn(
                "{upstream}: {reference} cannot be looked up: {reason}. The last known commit"
                " is still served: {commit}",
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

    def _cache_result(self, key: str, result: ResolvedRef, as_of: float, ttl: float) -> None:
        self._missing.pop(key, None)
        self._entries.pop(key, None)
        self._entries[key] = _CachedRef(result, as_of, self._clock.seconds() + ttl)
        self._evict_oldest(self._entries)

    async def _store(self, key: str, result: ResolvedRef | None) -> None:
        """Store a result for use after a restart."""
        self._stored.pop(key, None)
        if result is not None:
            self._stored[key] = result
            self._evict_oldest(self._stored)
        await self._saves.run(None, self._save)

    async def _save(self) -> None:
        await self._save_lock.acquire()
        # Results that come while the file is written share the next write.
        self._saves.close(None)
        try:
            await self._workers.run(self._ref_file.save, dict(self._stored))
        except OSError as error:
            self._log.warn(
                "The answers of {upstream} are not kept: {error}", upstream=self._name, error=error
            )
        finally:
            self._save_lock.release()

    def _evict_oldest(self, mapping: dict[str, T]) -> None:
        """Remove the oldest entry beyond the limit, but none of a configured reference."""
        if len(mapping) > MAX_CACHED_REFS:
            del mapping[next(key for key in mapping if key not in self._renewal_starts)]

    def _cache_key(self, reference: Reference) -> str:
        """
        Return the cache key of a reference.

        All of its fields are in the key: a commit that was accepted as trusted has not been
        found in a history.
        """
        fields: dict[str, Json] = {"kind": type(reference).__name__, **asdict(reference)}
        return canonical_json({"upstream": self._name, "reference": fields}).decode()


async def _result_of(task: Deferred[T]) -> T:
    return await task
