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

UPSTREAM_PAUSE = 30.0
"""Seconds between requests for a reference whose look-up failed and has an old result."""

NEGATIVE_TTL = 30.0
"""The most seconds for which a reference that does not exist is cached."""

MAX_CACHED_REFS = 4096
"""The most references that are cached."""


@define(eq=False)
class _Answer:
    """A cached result, valid until a time on the clock; ``None`` if there is no such ref."""

    found: ResolvedRef | None
    until: float


class RefCache:
    """
    Caches the references of one upstream.

    :param upstream: looks references up.
    :param name: the upstream's name in the log and in the file.
    :param ttl: seconds for which a moving reference is not looked up again.
    :param known: stores results across restarts.
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
        known: RefFile,
        workers: Workers,
        clock: IReactorTime,
    ) -> None:
        self._upstream = upstream
        self._name = name
        self._ttl = ttl
        self._file = known
        self._workers = workers
        self._clock = clock
        self._known: dict[str, ResolvedRef] = {}
        self._fresh: dict[str, _Answer] = {}
        self._asking: SingleFlight[str, ResolvedRef | None] = SingleFlight()
        self._saving = DeferredLock()
        self._failing = False
        self._stopping = False

    async def start(self) -> None:
        """
        Load the stored results; makes no request.

        :raises CommandMissing: a program that look-ups need is not on PATH.
        """
        self._stopping = False
        await self._upstream.check()
        try:
            self._known = await self._workers.run(self._file.load)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._log.warn(
                "What {upstream} said last is forgotten: {error}", upstream=self._name, error=error
            )

    async def stop(self) -> None:
        """Cancel running look-ups; returns when they have ended."""
        self._stopping = True
        await self._asking.stop()

    async def find(self, reference: Reference, *, expected: bool) -> ResolvedRef | None:
        """
        Return the commit of a reference, from the cache while that is fresh.

        :param expected: whether a missing reference is a fault of the upstream: then the
            last result is used.
        :return: ``None`` if the reference does not exist.
        :raises SourceUnavailable: the look-up failed, and there is no earlier result.
        """
        key = self._key(reference)
        if isinstance(reference, GitCommit) and key in self._known:
            return self._known[key]
        answer = self._fresh.get(key)
        if answer is not None and self._clock.seconds() < answer.until:
            return answer.found
        if self._stopping:
            raise ShuttingDown

        async def work() -> ResolvedRef | None:
            try:
                return await self._ask(key, reference, expected=expected)
            except CancelledError as error:
                raise ShuttingDown from error

        return await self._asking.run(key, work)

    def invalidate(self, commit: str) -> None:
        """Drop cached results that are a commit which cannot be fetched, to look them up anew."""
        for key, answer in list(self._fresh.items()):
            if answer.found is not None and answer.found.commit == commit:
                del self._fresh[key]

    async def _ask(self, key: str, reference: Reference, *, expected: bool) -> ResolvedRef | None:
        known = self._known.get(key)
        try:
            found = await self._upstream.find(reference)
            if found is None and expected:
                raise SourceUnavailable(
                    source=self._name,
                    what=reference.describe(),
                    reason="there is no such thing",
                    advice="what its operator has configured is not there",
                )
        except SourceUnavailable as error:
            if known is None:
                self._log.warn("{error}", error=error, output=error.output)
                raise
            self._fail(reference, known, error)
            self._remember(key, known, UPSTREAM_PAUSE)
            return known
        self._recover()
        self._remember(key, found, self._ttl if found else min(NEGATIVE_TTL, self._ttl))
        if found != known:
            await self._keep(key, found)
        return found

    def _fail(self, reference: Reference, known: ResolvedRef, error: SourceUnavailable) -> None:
        if not self._failing:
            self._failing = True
            self._log.warn(
                "{upstream} cannot be asked for {reference}: {reason}. The commit that it named"
                " last goes on being served: {commit}",
                upstream=self._name,
                reference=reference.describe(),
                reason=error.reason,
                commit=known.commit,
                output=error.output,
            )

    def _recover(self) -> None:
        if self._failing:
            self._failing = False
            self._log.info("{upstream} answers again.", upstream=self._name)

    def _remember(self, key: str, found: ResolvedRef | None, ttl: float) -> None:
        self._fresh.pop(key, None)
        self._fresh[key] = _Answer(found, self._clock.seconds() + ttl)
        _shorten(self._fresh)

    async def _keep(self, key: str, found: ResolvedRef | None) -> None:
        """Store a result for use after a restart."""
        self._known.pop(key, None)
        if found is not None:
            self._known[key] = found
            _shorten(self._known)
        await self._saving.acquire()
        try:
            await self._workers.run(self._file.save, dict(self._known))
        except OSError as error:
            self._log.warn(
                "What {upstream} says is not kept: {error}", upstream=self._name, error=error
            )
        finally:
            self._saving.release()

    def _key(self, reference: Reference) -> str:
        """
        Return the cache key of a reference.

        All of its fields are in the key: a commit that was accepted as trusted has not been
        found in a history.
        """
        fields: dict[str, Json] = {"kind": type(reference).__name__, **asdict(reference)}
        return canonical_json({"upstream": self._name, "reference": fields}).decode()


def _shorten(mapping: dict[str, T]) -> None:
    """Remove the oldest entries beyond the limit."""
    while len(mapping) > MAX_CACHED_REFS:
        del mapping[next(iter(mapping))]
