"""
Collecting the references of a whole package set from a binary cache.

Each store path is one small request; a set of 100,000 is finished in minutes if many
requests are under way at once.  References lead to further paths: whatever belongs to
a closure belongs to the set.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from nixery.errors import UnexpectedOutput
from nixery.nix.narinfo import HASH_LENGTH, parse_references
from nixery.popularity.count import References
from nixery.popularity.errors import CacheIncomplete, FetchFailed
from nixery.popularity.reference_log import ReferenceLog
from nixery.runtime.deferreds import gather
from nixery.runtime.workers import Workers

__all__ = ["Crawled", "Crawler"]

CONNECTIONS = 64
"""Requests that are under way at once; binary caches are made for many clients."""

LARGEST_NARINFO = 4 * 1024**2
"""Bytes: the longest of nixpkgs refer to thousands of paths and have some 500 kB."""

MOST_PATHS = 3_000_000
"""How many store paths are followed; a cache that makes them up has no end."""

ATTEMPTS = 5
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""How often a path is asked for, and the seconds between, doubled each time."""

BATCH = 500
"""How many answers are written down at a time: as many are lost at most."""

_MISSING = frozenset({403, 404, 410})
"""What caches answer for paths that they do not have; buckets that nobody may list, 403."""


@frozen(kw_only=True)
class Crawled:
    """
    A package set.

    :param references: of each path, by base names.
    :param missing: the paths that the cache does not have, sorted.
    :param unusable: the paths that it describes in a way that cannot be, sorted.
    """

    references: References
    missing: tuple[str, ...]
    unusable: tuple[str, ...]


@define(kw_only=True, eq=False)
class Crawler:
    """
    Collects references, once.

    :param cache: the URL of the binary cache.
    :param fetch: gets a file by its URL, of at most so many bytes.
    :param log: what was found out before; open, and written to.
    :param workers: for the log.
    :param clock: for pauses.
    :param progress: told how many paths are done, and how many are known by now.
    :param connections: how many requests are under way at once.
    """

    cache: str
    fetch: Callable[[str, int], Awaitable[bytes]]
    log: ReferenceLog
    workers: Workers
    clock: IReactorTime
    progress: Callable[[int, int], None]
    connections: int = CONNECTIONS

    _logged: dict[str, tuple[str, ...]] = field(factory=dict, init=False)
    _references: dict[str, tuple[str, ...]] = field(factory=dict, init=False)
    _names: dict[str, str] = field(factory=dict, init=False)
    _missing: list[str] = field(factory=list, init=False)
    _unusable: list[str] = field(factory=list, init=False)
    _taken: set[str] = field(factory=set, init=False)
    _waiting: list[str] = field(factory=list, init=False)
    _unwritten: dict[str, tuple[str, ...]] = field(factory=dict, init=False)
    _busy: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)
    _idle: list[Deferred[None]] = field(factory=list, init=False)

    async def crawl(self, roots: Iterable[str]) -> Crawled:
        """
        The closure of store paths.

        :param roots: base names.
        :raises FetchFailed: the cache failed again and again.  What was found out is
            kept: call it again.
        :raises CacheIncomplete: it has not even half of the paths.
        :raises UnexpectedOutput: it has paths without end.
        :raises StorageError: the log failed.
        """
        self._logged = await self.workers.run(self.log.read)
        self._add(roots)
        try:
            await gather(self._work() for _ in range(self.connections))
        finally:
            # What one has found out is worth keeping whatever has become of others.
            await self._write()
        missing, unusable = sorted(self._missing), sorted(self._unusable)
        if len(self._references) < len(missing) + len(unusable):
            raise CacheIncomplete(
                cache=self.cache,
                found=len(self._references),
                missing=len(missing),
                unusable=len(unusable),
            )
        return Crawled(
            references=self._references, missing=tuple(missing), unusable=tuple(unusable)
        )

    async def _work(self) -> None:
        """Ask for one path after the other, until all is known."""
        while not self._stopped:
            if not self._waiting:
                if not self._busy:
                    # Nobody is left who might find another path.
                    self._stop()
                    return
                # One that has been cancelled would be woken in vain.
                idle: Deferred[None] = Deferred(self._idle.remove)
                self._idle.append(idle)
                await idle
                continue
            name = self._waiting.pop()
            self._busy += 1
            try:
                await self._look_up(name)
            except BaseException:
                # The others finish what they are at, and no more.
                self._stop()
                raise
            finally:
                self._busy -= 1
            self.progress(self._done, self._done + self._busy + len(self._waiting))
            self._wake()

    @property
    def _done(self) -> int:
        return len(self._references) + len(self._missing) + len(self._unusable)

    def _stop(self) -> None:
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        idle, self._idle = self._idle, []
        for each in idle:
            each.callback(None)

    async def _look_up(self, name: str) -> None:
        url = f"{self.cache.rstrip('/')}/{name[:HASH_LENGTH]}.narinfo"
        try:
            text = await self._fetch(url)
        except FetchFailed as error:
            if error.status not in _MISSING:
                raise
            self._missing.append(name)
            return
        try:
            references = parse_references(name, text)
        except UnexpectedOutput:
            self._unusable.append(name)
            return
        self._found(name, references)
        self._unwritten[name] = self._references[name]
        self._add(references)
        if len(self._unwritten) >= BATCH:
            await self._write()

    async def _fetch(self, url: str) -> bytes:
        pause = FIRST_PAUSE
        for _ in range(ATTEMPTS - 1):
            try:
                return await self.fetch(url, LARGEST_NARINFO)
            except FetchFailed as error:
                if error.status in _MISSING or self._stopped:
                    raise
                await deferLater(self.clock, min(error.retry_after or pause, LONGEST_PAUSE))
            pause *= 2
        return await self.fetch(url, LARGEST_NARINFO)

    def _add(self, names: Iterable[str]) -> None:
        """Take paths up, and what is known already of what they need."""
        more = list(names)
        while more:
            name = more.pop()
            name = self._names.setdefault(name, name)
            if name in self._references or name in self._taken:
                continue
            known = self._logged.get(name)
            if known is None:
                self._taken.add(name)
                self._waiting.append(name)
            else:
                self._found(name, known)
                more += known
        if len(self._names) > MOST_PATHS:
            raise UnexpectedOutput(
                what=f"the binary cache (more than {MOST_PATHS} store paths)", excerpt=self.cache
            )

    def _found(self, name: str, references: Sequence[str]) -> None:
        # One object for each name, however many paths refer to it.
        self._references[name] = tuple(self._names.setdefault(each, each) for each in references)

    async def _write(self) -> None:
        unwritten, self._unwritten = self._unwritten, {}
        if unwritten:
            await self.workers.run(self.log.append, unwritten)
