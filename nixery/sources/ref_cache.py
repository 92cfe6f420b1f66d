"""
What references point to: asked once for all, remembered, and known when nobody answers.

Each moving reference is looked up by one question to its upstream, shared by all who
need it, and stands for its time to live.  When the upstream cannot be reached, what it
said last goes on being served, also after a restart; the log says so once, and once
when it is over.

A commit that was found to be in the history of a branch or a tag stays accepted, even
if that branch is rewritten later: whoever has pinned a deployment to a commit expects
it to go on working, and that it came from the repository was true.  To withdraw one,
set ``revisions`` so that it does not match.
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

__all__ = ["RefCache"]

T = TypeVar("T")

UPSTREAM_PAUSE = 30.0
"""Seconds that an upstream which failed is left alone, where something is known."""

NEGATIVE_TTL = 30.0
"""Seconds that an unknown reference stays unknown, at most."""

MOST_REMEMBERED = 4096
"""How many references are remembered."""


@define(eq=False)
class _Answer:
    """What a reference is taken to be until a time on the clock; ``None``: nothing."""

    found: ResolvedRef | None
    until: float


class RefCache:
    """
    The references of one upstream.

    :param upstream: whom to ask.
    :param name: how the log and the file call it.
    :param ttl: seconds for which a moving reference is not looked up again.
    :param known: keeps what was found over a restart.
    :param workers: for the file system.
    :param clock: what times to live are measured with.
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
        Read what was known; asks nobody.

        :raises CommandMissing: there is no program to ask with.
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
        """Cancel what is under way; returns when it has ended."""
        self._stopping = True
        await self._asking.stop()

    async def find(self, reference: Reference, *, expected: bool) -> ResolvedRef | None:
        """
        What a reference points to now, or did a short while ago.

        :param expected: whether something is wrong with the upstream if it has no such
            reference: then what it pointed to last still counts.
        :return: ``None`` if it points to nothing.
        :raises SourceUnavailable: that cannot be found out, and is not known.
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

    def doubt(self, commit: str) -> None:
        """Ask again about all that points to a commit, which cannot be fetched."""
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
                self._log.warn("{error}", error=error, evidence=error.evidence)
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
                evidence=error.evidence,
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
        """Know it after a restart, too."""
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
        A reference as text.

        All of its fields count: a commit that was taken on trust has not been found.
        """
        fields: dict[str, Json] = {"kind": type(reference).__name__, **asdict(reference)}
        return canonical_json({"upstream": self._name, "reference": fields}).decode()


def _shorten(mapping: dict[str, T]) -> None:
    """Forget the oldest of too many."""
    while len(mapping) > MOST_REMEMBERED:
        del mapping[next(iter(mapping))]
