"""
Know that the files of a package set have not changed.

    start --> place --> stand <--> refresh
                ^         |          |
                |<--------+----------+
                +--> fail, and try again later

While the watches *stand*, :meth:`TreeWatch.version` reads the events that are queued, and returns
another version if there are any.  An event is queued before the system call that changes a file
returns, so a change that ended before the call is never missed.  Everything doubtful is a change:
lost events, files that are moved out of the trees, mounts; then all watches are placed anew.  New
files and directories are watched by a *refresh*.  In the meantime, and where a change may go
unseen, the version is not known.

A write through a shared mapping of a file makes no event before the file is closed: until then, the
change has not ended.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nixery.errors import ShuttingDown
from nixery.runtime.workers import Workers
from nixery.sources.inotify import (
    IN_ATTRIB,
    IN_CREATE,
    IN_IGNORED,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
    IN_UNMOUNT,
    Event,
)
from nixery.sources.mounts import MountTable
from nixery.sources.readable_paths import ReadablePath
from nixery.sources.tree_scan import Interrupted, Placement, Unwatchable, scan

__all__ = ["TreeWatch"]

RETRY_SECONDS = 60.0
"""Seconds after which watches that cannot be placed are tried again, at the next request."""

MISSING_RETRY_SECONDS = 1.0
"""The same where a file was missing, as while a directory is replaced."""

QUIET_SECONDS = 0.25
"""Seconds between two times that events are read without a request: a log may be in the tree."""

SHORT_SECONDS = 0.02
"""Watches that are placed within these seconds are waited for, rather than evaluated without."""

MAX_SHORT_REFRESH = 100
"""The most new files whose watches are waited for."""


@define
class Changes:
    """
    The changes that some events tell of.

    :param any: whether there is one.
    :param doubtful: whether all watches have to be placed anew.
    :param paths: files and directories that may be new.
    """

    any: bool = False
    doubtful: bool = False
    paths: set[bytes] = field(factory=set)


def interpret(events: Iterable[Event], placement: Placement) -> Changes:
    """Return what has changed, and take the watches that are gone out of the placement."""
    found = Changes()
    moved: set[int] = set()
    for watch, mask, cookie, name in events:
        if mask & (IN_Q_OVERFLOW | IN_UNMOUNT) or (not name and watch in placement.components):
            found.doubtful = True
        elif mask & IN_IGNORED:
            # The file is gone, which another event has told.
            placement.count -= 1
            placement.directories.pop(watch, None)
            continue
        elif name and watch in placement.components and watch not in placement.directories:
            # It happened beside a component, which has a watch of its own.
            continue
        elif name and watch in placement.directories:
            if mask & IN_MOVED_FROM:
                moved.add(cookie)
            if mask & (IN_CREATE | IN_MOVED_TO | IN_ATTRIB):
                # Of a directory that was moved, all that is below it has another path now.
                found.paths.add(os.path.join(placement.directories[watch], name))
                moved.discard(cookie)
        found.any = True
    # What has left the trees is still watched.
    found.doubtful = found.doubtful or bool(moved)
    return found


@implementer(IReadDescriptor)
@define(eq=False)
class TreeWatch:
    """
    Observes all changes of some files and directories.

    All methods belong to the reactor thread.

    :param paths: as :func:`nixery.sources.readable_paths.readable_paths` returns them.
    :param workers: place the watches.
    :param reactor: reads events that nobody asks for, and measures time.
    """

    paths: Sequence[ReadablePath]
    workers: Workers
    reactor: Any

    _placement: Placement | None = field(default=None, init=False)
    _mounts: MountTable | None = field(default=None, init=False)
    _version: int = field(default=0, init=False)
    # What runs on a worker thread, and those who wait for its end.
    _job: Deferred[None] | None = field(default=None, init=False)
    _is_short: bool = field(default=False, init=False)
    _waiting: list[Deferred[None]] = field(factory=list, init=False)
    _scan_seconds: float = field(default=float("inf"), init=False)
    _retry_at: float = field(default=0.0, init=False)
    # Why it is not watched, as it was logged; empty if it is, ``None`` if neither was logged.
    _reason: str | None = field(default=None, init=False)
    _next_read: IDelayedCall | None = field(default=None, init=False)
    _stopping: bool = field(default=True, init=False)
    _log = Logger()

    def start(self) -> None:
        """Begin to place the watches, without waiting for them."""
        self._stopping = False
        self._retry_at = self.reactor.seconds()
        self._place()

    async def stop(self) -> None:
        """Remove the watches, and wait until that is done."""
        self._stopping = True
        if self._job is not None:
            await self._job
        await self._discard()
        if self._mounts is not None:
            self._mounts.close()
            self._mounts = None

    @property
    def stands(self) -> bool:
        """True if changes are observed now."""
        return self._placement is not None and self._job is None

    def version(self) -> str | None:
        """
        Return a version of the files that differs from all that were returned before a change which
        has ended by now; ``None`` if it is not known.
        """
        if self._job is None and not self._stopping:
            if self._placement is not None:
                self._observe(self._placement)
            elif self.reactor.seconds() >= self._retry_at:
                self._place()
        return str(self._version) if self.stands else None

    async def settled_version(self) -> str | None:
        """Return the same, after new files are watched where that does not take long."""
        version = self.version()
        if version is None and self._job is not None and self._is_short:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            try:
                await waiting
            finally:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)
            version = self.version()
        return version

    def _observe(self, placement: Placement) -> None:
        """Read what has happened since the last call, and begin what follows from it."""
        assert self._mounts is not None
        found = interpret(placement.inotify.read(), placement)
        mounts_changed = self._mounts.changed()
        if found.any:
            self._version += 1
        if found.doubtful:
            self._place()
        elif found.paths or mounts_changed:
            self._refresh(placement, sorted(found.paths), mounts_changed=mounts_changed)

    # -- placing watches --------------------------------------------------------------

    def _place(self) -> None:
        """Place all watches anew."""
        self._version += 1

        async def work() -> None:
            await self._discard()
            if self._mounts is None:
                self._mounts = MountTable()
            # Mounts that are made from here on are told at the end.
            self._mounts.changed()
            begun = self.reactor.seconds()
            placement = await self.workers.run(scan, self.paths, lambda: self._stopping)
            self._scan_seconds = self.reactor.seconds() - begun
            self._placement = placement
            self.reactor.addReader(self)
            if self._reason != "":
                self._reason = ""
                self._log.info(
                    "The package set is watched, and evaluated only after changes: {count} files"
                    " and directories.",
                    count=placement.count,
                )

        self._run(work(), is_short=self._scan_seconds <= SHORT_SECONDS)

    def _refresh(
        self, placement: Placement, paths: Sequence[bytes], *, mounts_changed: bool
    ) -> None:
        """Watch what is new."""

        async def work() -> None:
            if not await self.workers.run(placement.refresh, paths, mounts_changed=mounts_changed):
                await self._discard()
                self._retry_at = self.reactor.seconds()

        self._run(work(), is_short=len(paths) <= MAX_SHORT_REFRESH)

    def _run(self, work: Coroutine[Deferred[Any], Any, None], *, is_short: bool) -> None:
        """Run a coroutine, and read what happened in the meantime."""

        async def run() -> None:
            try:
                await work
            except (ShuttingDown, Interrupted):
                self._stopping = True
            except (Unwatchable, OSError) as error:
                await self._give_up(error)
            except Exception:
                self._log.failure("the package set cannot be watched")
                await self._give_up(Unwatchable("the log has the error of this program"))
                raise

        job = self._job = Deferred()
        self._is_short = is_short
        Deferred.fromCoroutine(run()).addBoth(self._ended, job)

    def _ended(self, _: object, job: Deferred[None]) -> None:
        self._job = None
        # Begins the next job, if there is more to do.
        self.version()
        job.callback(None)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    async def _give_up(self, error: Exception) -> None:
        await self._discard()
        lasting = not isinstance(error, Unwatchable) or error.lasting
        delay = RETRY_SECONDS if lasting else MISSING_RETRY_SECONDS
        self._retry_at = self.reactor.seconds() + delay
        if lasting and str(error) != self._reason:
            self._reason = str(error)
            self._log.warn(
                "the package set is evaluated at every pull, because changes of it might not be"
                " noticed: {reason}",
                reason=self._reason,
            )

    async def _discard(self) -> None:
        """Remove all watches."""
        if self._next_read is not None and self._next_read.active():
            self._next_read.cancel()
        if self._placement is not None:
            self.reactor.removeReader(self)
            placement, self._placement = self._placement, None
            await self.workers.run(placement.inotify.close)

    # -- events that nobody asks for, as the reactor calls ----------------------------

    def fileno(self) -> int:
        """See :class:`twisted.internet.interfaces.IFileDescriptor`."""
        return -1 if self._placement is None else self._placement.inotify.fileno()

    def logPrefix(self) -> str:  # noqa: N802
        """See :class:`twisted.internet.interfaces.ILoggingContext`."""
        return "TreeWatch"

    def doRead(self) -> None:  # noqa: N802
        """Read events before they are too many."""
        self.reactor.removeReader(self)
        self._next_read = self.reactor.callLater(QUIET_SECONDS, self._resume)
        self.version()

    def connectionLost(self, reason: Failure) -> None:
        """See :class:`twisted.internet.interfaces.IFileDescriptor`."""

    def _resume(self) -> None:
        if self._placement is not None:
            self.reactor.addReader(self)
