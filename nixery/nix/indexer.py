"""
List the packages of package sets, while nobody waits for anything else.

One pass lists all packages of a revision, with processes of their own that have a low priority.
Each looks at a slice of the names at the top of the set, so that memory is bounded by that of
one slice, and a request waits for none: between two slices, the pass stands still while something
is being evaluated or built, for a while.  What all packages share is evaluated anew in each slice,
and is a fifth of the time.

``nix/index.nix`` catches what packages throw.  If a slice fails nevertheless, the name that was
looked at last is left out, and the slice is repeated without it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from attrs import define, evolve, field
from cachetools import LRUCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from nixery.errors import NixeryError
from nixery.nix import resolve_arguments
from nixery.nix.arguments import chunks
from nixery.nix.context import NixContext
from nixery.nix.error_parsing import error_text, fetch_forbidden
from nixery.nix.evaluation_log import fetched_path
from nixery.nix.package_index import IndexEntry, PackageIndex, parse_entries, parse_names
from nixery.nix.package_indexes import PackageIndexes
from nixery.nix.resolve_arguments import Fetches, Lookup
from nixery.process.errors import OutputTooLarge, ProcessFailed, ProcessTimedOut
from nixery.runtime.deferreds import when_finished
from nixery.sources.source import PackageSet, Revision

__all__ = ["PackageIndexer", "list_packages"]

SLICE = 1000
"""The names that one process looks at: about a second of nixpkgs."""

MAX_SLICE_BYTES = 64 * 1024
"""The most bytes of the names of a slice: they are one argument of a command."""

MAX_REPETITIONS = 200
"""The most repeated slices of one pass; then those that fail are left out as a whole."""

START_DELAY_SECONDS = 5.0
"""Seconds between a request and its pass: the client that caused it has more requests."""

MAX_STANDSTILL_SECONDS = 30.0
"""Seconds that a slice waits at most: a busy registry has to list its packages, too."""

BUSY_PAUSE_SECONDS = 0.5
"""Seconds until it is asked again whether something else is being done."""

MAX_WAITING = 4
"""The most revisions that wait for their pass; the first of them are forgotten."""

REST_FACTOR = 20.0
"""
A package set that has changed, or may have, is listed again when it was not for so many times as
long as that took: one that is edited all the time takes a twentieth of a processor.
"""

RETRY_SECONDS = 600.0
"""Seconds after which a package set that could not be listed is tried again, if it is used."""

MAX_REMEMBERED = 64

_TRACE = "trace: "

_Key = tuple[Revision, str]


async def list_packages(context: NixContext, lookup: Lookup) -> PackageIndex:
    """
    List the packages of a set at once, for a command that waits for it.

    :raises NixeryError: the package set cannot be evaluated at all, or Nix failed.
    """

    async def proceed() -> None:
        pass

    return await _Pass(context, lookup, proceed).run()


@define(eq=False)
class PackageIndexer:
    """
    Makes the indexes of package sets, one at a time.

    :param context: the processes run in it.
    :param indexes: keep the results.
    :param make_lookup: returns the arguments of look-ups in a package set for a system.
    :param building: tells whether images are being made.
    """

    _context: NixContext
    _indexes: PackageIndexes
    _make_lookup: Callable[[PackageSet, str], Lookup]
    _building: Callable[[], bool]

    _waiting: dict[_Key, PackageSet] = field(factory=dict, init=False)
    _current: _Key | None = field(default=None, init=False)
    _task: Deferred[None] | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)
    _uses: int = field(default=0, init=False)
    # What needs no other pass, and the time on the clock from which on anything else may have one.
    _listed: LRUCache[_Key, tuple[Revision | None, float]] = field(
        factory=lambda: LRUCache(MAX_REMEMBERED), init=False
    )

    _log = Logger()

    @contextmanager
    def used(self, package_set: PackageSet, system: str) -> Iterator[None]:
        """Let the pass stand still while a package set is used, and :meth:`request` its index."""
        self.request(package_set, system)
        self._uses += 1
        try:
            yield
        finally:
            self._uses -= 1

    def request(self, package_set: PackageSet, system: str) -> None:
        """Make the index of a package set soon, unless there is one."""
        key = package_set.revision.without_version(), system
        if self._stopped or key == self._current or not self._is_due(key, package_set.revision):
            return
        # The newest version, as the last one to be dropped.
        self._waiting.pop(key, None)
        self._waiting[key] = package_set
        if len(self._waiting) > MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        if self._task is None:
            self._task = Deferred.fromCoroutine(self._make_all())
            self._task.addErrback(self._log_unexpected)

    def _is_due(self, key: _Key, revision: Revision) -> bool:
        listed, due = self._listed.get(key, (None, 0.0))
        return due <= self._context.clock.seconds() and listed != revision

    async def stop(self) -> None:
        """Stop the pass, and wait until its process has ended."""
        self._stopped = True
        if self._task is not None:
            task, finished = self._task, when_finished(self._task)
            task.cancel()
            if not self._context.settings.allow_import_from_derivation:
                # Kills it at once: it writes nothing, and has no builders to stop.
                task.cancel()
            await finished

    async def _make_all(self) -> None:
        try:
            await self._pause(START_DELAY_SECONDS)
            while self._waiting:
                # The last one: it is in use now.
                self._current, package_set = self._waiting.popitem()
                revision, system = package_set.revision, self._current[1]
                rest = await self._make(package_set, revision, system)
                self._listed[self._current] = (
                    None if rest is None or not revision.is_fixed else revision,
                    self._context.clock.seconds() + (RETRY_SECONDS if rest is None else rest),
                )
                self._current = None
        finally:
            self._current = self._task = None

    async def _make(self, package_set: PackageSet, revision: Revision, system: str) -> float | None:
        """
        Make one index.

        :return: the seconds after which it may be made again, if the package set has changed;
            ``None`` if it could not be made.
        """
        if await self._indexes.exists(revision, system):
            return 0.0
        lookup = self._make_lookup(package_set, system)
        one_pass = _Pass(self._context, lookup, self._wait_until_idle)
        try:
            index = await one_pass.run()
            await self._indexes.add(revision, system, index)
        except NixeryError as error:
            self._log.info(
                "The packages of {revision} cannot be listed: {error}",
                revision=revision.label,
                error=error,
            )
            return None
        self._log.info(
            "{count} packages of {revision} were listed in {seconds:.1f} s; {skipped} names cannot"
            " be evaluated.",
            count=len(index.entries),
            revision=revision.label,
            seconds=one_pass.seconds,
            skipped=index.skipped,
        )
        return REST_FACTOR * one_pass.seconds

    async def _wait_until_idle(self) -> None:
        deadline = self._context.clock.seconds() + MAX_STANDSTILL_SECONDS
        while (self._uses or self._building()) and self._context.clock.seconds() < deadline:
            await self._pause(BUSY_PAUSE_SECONDS)

    async def _pause(self, seconds: float) -> None:
        await deferLater(self._context.clock, seconds)

    def _log_unexpected(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("No packages are listed for now", failure=failure)


@define(eq=False)
class _Pass:
    """
    One pass over a package set.

    :param wait_until_idle: returns when nothing else is being done.
    """

    _context: NixContext
    _lookup: Lookup
    _wait_until_idle: Callable[[], Awaitable[None]]

    _repetitions: int = field(default=0, init=False)
    _skipped: int = field(default=0, init=False)
    _last_traced: str = field(default="", init=False)

    seconds: float = field(default=0.0, init=False)
    """Seconds for which its processes ran so far."""

    async def run(self) -> PackageIndex:
        """
        Return the index.

        :raises NixeryError: the package set cannot be evaluated at all, or Nix failed.
        """
        refused = self._context.settings.refused
        output = await self._evaluate(None)
        names = await self._context.workers.run(parse_names, output, refused)
        entries: tuple[IndexEntry, ...] = ()
        for start in range(0, len(names), SLICE):
            for slice_names in chunks(names[start : start + SLICE], MAX_SLICE_BYTES):
                entries += await self._describe(slice_names)
        return PackageIndex(names=names, entries=entries, skipped=self._skipped)

    async def _describe(self, names: Sequence[str]) -> tuple[IndexEntry, ...]:
        """Return the packages among some names, without those that cannot be evaluated."""
        left = list(names)
        while left:
            try:
                output = await self._evaluate(left)
            except (ProcessFailed, ProcessTimedOut, OutputTooLarge) as error:
                # Packages trace what they like.
                culprits = [name for name in left if name == self._last_traced] or left
                if not self._repetitions:
                    # Fails if nothing can be evaluated.
                    await self._evaluate(())
                self._repetitions += 1
                if self._repetitions > MAX_REPETITIONS:
                    culprits = left
                self._log.debug("{names} are not listed: {error}", names=culprits, error=error)
                self._skipped += len(culprits)
                left = [name for name in left if name not in culprits]
            else:
                return await self._context.workers.run(
                    parse_entries, output, self._context.settings.refused
                )
        return ()

    async def _evaluate(self, names: Sequence[str] | None) -> bytes:
        """
        Look at some names, or list all names of the set.

        :raises NixeryError: that failed.
        """
        await self._wait_until_idle()
        self._last_traced = ""
        command = evolve(
            self._context.evaluation(
                resolve_arguments.describe(self._lookup, names),
                self._context.settings.eval_timeout,
            ),
            low_priority=True,
            on_stderr_line=self._note_trace,
        )
        started_at = self._context.clock.seconds()
        try:
            return (await self._context.spawner.run(command)).stdout
        except ProcessFailed as error:
            text = error_text(error.output.stderr, self._context.settings)
            if self._lookup.fetches is not Fetches.FORBIDDEN or not fetch_forbidden(text):
                raise
            self._lookup = evolve(self._lookup, fetches=Fetches.PINNED)
        finally:
            self.seconds += self._context.clock.seconds() - started_at
        return await self._evaluate(names)

    def _note_trace(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        if text.startswith(_TRACE) and fetched_path(text) is None:
            self._last_traced = text.removeprefix(_TRACE)

    _log = Logger()
