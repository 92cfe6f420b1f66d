"""
Collects the references of a whole package set from a binary cache.

Each store path is one small request; a set of 100,000 is finished in minutes if many
requests are under way at once.  References are followed: the set includes the closures of
all its paths.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from nixery.errors import UnexpectedOutput
from nixery.nix.narinfo import HASH_LENGTH, parse_references
from nixery.popularity.count import References
from nixery.popularity.errors import CacheIncomplete
from nixery.popularity.reference_log import ReferenceLog
from nixery.runtime.deferreds import gather
from nixery.runtime.errors import FetchFailed
from nixery.runtime.retry import Backoff, retry
from nixery.runtime.workers import Workers

__all__ = ["CrawlResult", "Crawler"]

MAX_CONNECTIONS = 64
"""Maximum number of concurrent requests; binary caches are made for many clients."""

MAX_NARINFO_BYTES = 4 * 1024**2
"""Maximum size in bytes: the largest in nixpkgs name thousands of paths and have some 500 kB."""

MAX_PATHS = 3_000_000
"""Maximum number of store paths, as a bound on a cache that invents them without end."""

BACKOFF = Backoff(first=1.0, longest=60.0, attempts=5)
"""The bounds of the requests for one path."""

LOG_BATCH_SIZE = 500
"""Number of answers per write to the log, which is the most that a crash loses."""

_MISSING_STATUSES = frozenset({403, 404, 410})
"""Statuses for paths that a cache does not have; buckets without public listing answer 403."""


@frozen(kw_only=True)
class CrawlResult:
    """
    The references of a package set.

    :param references: the references of each path, by base names.
    :param missing: the paths that the cache does not have, sorted.
    :param unusable: the paths that it describes by an invalid narinfo, sorted.
    """

    references: References
    missing: tuple[str, ...]
    unusable: tuple[str, ...]


@define(kw_only=True, eq=False)
class Crawler:
    """
    Collects references; good for one use.

    :param cache: the URL of the binary cache.
    :param fetch: fetches a file by its URL, of at most the given number of bytes.
    :param log: the references from earlier runs; it is open, and written to.
    :param workers: the pool for access to the log.
    :param clock: for pauses.
    :param progress: called with the number of paths that are done, and of those known so far.
    :param connections: how many requests are under way at once.
    """

    cache: str
    fetch: Callable[[str, int], Awaitable[bytes]]
    log: ReferenceLog
    workers: Workers
    clock: IReactorTime
    progress: Callable[[int, int], None]
    connections: int = MAX_CONNECTIONS

    _log_entries: dict[str, tuple[str, ...]] = field(factory=dict, init=False)
    _references: dict[str, tuple[str, ...]] = field(factory=dict, init=False)
    _names: dict[str, str] = field(factory=dict, init=False)
    _missing: list[str] = field(factory=list, init=False)
    _unusable: list[str] = field(factory=list, init=False)
    _queued: set[str] = field(factory=set, init=False)
    _queue: list[str] = field(factory=list, init=False)
    _not_logged: dict[str, tuple[str, ...]] = field(factory=dict, init=False)
    _busy_workers: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)
    _idle_workers: list[Deferred[None]] = field(factory=list, init=False)

    async def crawl(self, roots: Iterable[str]) -> CrawlResult:
        """
        Collect the references of the closure of store paths.

        :param roots: base names.
        :raises FetchFailed: the cache failed repeatedly.  The references found so far are
            in the log, so that another run continues from there.
        :raises CacheIncomplete: it has less than half of the paths.
        :raises UnexpectedOutput: it has more paths than the maximum.
        :raises StorageError: the log failed.
        """
        self._log_entries = await self.workers.run(self.log.read)
        self._enqueue(roots)
        try:
            await gather(self._run_worker() for _ in range(self.connections))
        finally:
            # Keep the answers of each worker even if another one failed.
            await self._flush_log()
        missing, unusable = sorted(self._missing), sorted(self._unusable)
        if len(self._references) < len(missing) + len(unusable):
            raise CacheIncomplete(
                cache=self.cache,
                found=len(self._references),
                missing=len(missing),
                unusable=len(unusable),
            )
        return CrawlResult(
            references=self._references, missing=tuple(missing), unusable=tuple(unusable)
        )

    async def _run_worker(self) -> None:
        """Look up one path after the other, until none is left."""
        while not self._stopped:
            if not self._queue:
                if not self._busy_workers:
                    # No other worker is busy, so no further path will be found.
                    self._stop()
                    return
                # The canceller removes a cancelled worker, so that it is not woken.
                idle: Deferred[None] = Deferred(self._idle_workers.remove)
                self._idle_workers.append(idle)
                await idle
                continue
            name = self._queue.pop()
            self._busy_workers += 1
            try:
                await self._look_up(name)
            except BaseException:
                # The other workers finish their current path, and then stop.
                self._stop()
                raise
            finally:
                self._busy_workers -= 1
            self.progress(
                self._done_count, self._done_count + self._busy_workers + len(self._queue)
            )
            self._wake_workers()

    @property
    def _done_count(self) -> int:
        return len(self._references) + len(self._missing) + len(self._unusable)

    def _stop(self) -> None:
        self._stopped = True
        self._wake_workers()

    def _wake_workers(self) -> None:
        idle, self._idle_workers = self._idle_workers, []
        for each in idle:
            each.callback(None)

    async def _look_up(self, name: str) -> None:
        url = f"{self.cache.rstrip('/')}/{name[:HASH_LENGTH]}.narinfo"
        try:
            text = await self._fetch(url)
        except FetchFailed as error:
            if error.status not in _MISSING_STATUSES:
                raise
            self._missing.append(name)
            return
        try:
            references = parse_references(name, text)
        except UnexpectedOutput:
            self._unusable.append(name)
            return
        self._add_references(name, references)
        self._not_logged[name] = self._references[name]
        self._enqueue(references)
        if len(self._not_logged) >= LOG_BATCH_SIZE:
            await self._flush_log()

    async def _fetch(self, url: str) -> bytes:
        async def attempt(_: float) -> bytes:
            return await self.fetch(url, MAX_NARINFO_BYTES)

        def is_temporary(error: Exception) -> bool:
            return (
                isinstance(error, FetchFailed)
                and error.status not in _MISSING_STATUSES
                and not self._stopped
            )

        return await retry(attempt, BACKOFF, clock=self.clock, is_temporary=is_temporary)

    def _enqueue(self, names: Iterable[str]) -> None:
        """Queue paths; those in the log are taken from there, with their references."""
        pending = list(names)
        while pending:
            name = pending.pop()
            name = self._names.setdefault(name, name)
            if name in self._references or name in self._queued:
                continue
            logged = self._log_entries.get(name)
            if logged is None:
                self._queued.add(name)
                self._queue.append(name)
            else:
                self._add_references(name, logged)
                pending += logged
        if len(self._names) > MAX_PATHS:
            raise UnexpectedOutput(
                what=f"the binary cache (more than {MAX_PATHS} store paths)", excerpt=self.cache
            )

    def _add_references(self, name: str, references: Sequence[str]) -> None:
        # Share one string per name, however many paths refer to it.
        self._references[name] = tuple(self._names.setdefault(each, each) for each in references)

    async def _flush_log(self) -> None:
        entries, self._not_logged = self._not_logged, {}
        if entries:
            await self.workers.run(self.log.append, entries)
