"""
Stops builds before the disk is full.

A disk that fills up in the middle of a layer harms more than one image: Nix, the journal
and everything else on it fail too.  So no image and no layer is begun while less than a
margin is free; stored images are still served.  Before the monitor refuses a build, it
starts a garbage collection of the storage, where retention is configured.

The free space is read at intervals and not for each layer; between two readings a
build can write no more than the disk's throughput allows.  Nix keeps a margin of its own for
its store (``min-free`` in nix.conf).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from nixery.errors import NixeryError
from nixery.runtime.sizes import FreeSpaceLimit
from nixery.runtime.workers import Workers
from nixery.storage.errors import DiskSpaceLow

__all__ = ["FreeSpaceMonitor"]

IDLE_INTERVAL_SECONDS = 30.0
"""Seconds between two readings when nothing is built."""

READING_TTL_SECONDS = 2.0
"""Seconds for which a reading is valid while something is built."""

COLLECTION_INTERVAL_SECONDS = 60.0
"""Seconds from one attempt to free space to the next."""


@define(kw_only=True, eq=False)
class FreeSpaceMonitor:
    """
    Watches the file system of a directory.

    :param path: the directory.
    :param margin: how much has to be free.
    :param workers: the pool for reading the free space: a hanging disk must not block the
        reactor.
    :param clock: for the intervals between readings.
    :param make_room: removes what is not needed; ``None`` if nothing can be removed.
    :param look: reads the size of the file system and its free space, both in bytes.
    """

    path: Path
    margin: FreeSpaceLimit
    workers: Workers
    clock: IReactorTime
    make_room: Callable[[], Awaitable[object]] | None = None
    look: Callable[[str], tuple[int, int]] = field(factory=lambda: _look)

    _seen: tuple[float, DiskSpaceLow | None] = field(default=(float("-inf"), None), init=False)
    _tried: float = field(default=float("-inf"), init=False)
    _loop: LoopingCall | None = field(default=None, init=False)
    _log = Logger()

    async def start(self) -> None:
        """Read the free space now, and then at intervals."""
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._watch()))
        self._loop.clock = self.clock
        self._loop.start(IDLE_INTERVAL_SECONDS)

    async def stop(self) -> None:
        """Stop reading the free space."""
        if self._loop is not None and self._loop.running:
            self._loop.stop()

    async def check(self) -> None:
        """
        Check that enough space is free, and try to free some if not.

        :raises DiskSpaceLow: too little is free.
        """
        low = await self._current(READING_TTL_SECONDS)
        if low is None:
            return
        now = self.clock.seconds()
        if self.make_room is not None and now - self._tried >= COLLECTION_INTERVAL_SECONDS:
            self._tried = now
            await self.make_room()
            low = await self._current(0.0)
            if low is None:
                return
        raise low

    def faults(self) -> Sequence[str]:
        """Return the problems found at the last reading, a sentence each."""
        low = self._seen[1]
        return () if low is None else (low.message,)

    async def _watch(self) -> None:
        try:
            await self._current(0.0)
        except NixeryError:
            return  # the daemon stops

    async def _current(self, believed: float) -> DiskSpaceLow | None:
        seen, low = self._seen
        now = self.clock.seconds()
        if now - seen < believed:
            return low
        try:
            size, free = await self.workers.run(self.look, str(self.path))
        except OSError as error:
            self._log.warn("how full the disk is cannot be told: {error}", error=error)
            return None
        needed = self.margin.of(size)
        found = None
        if free < needed:
            found = DiskSpaceLow(
                operation="make images",
                reason="the disk is nearly full",
                path=str(self.path),
                free=free,
                needed=needed,
            )
        if (found is None) != (self._seen[1] is None):
            if found is None:
                self._log.info("There is room on the disk of {path} again.", path=self.path)
            else:
                self._log.error("{error}", error=found.message)
        self._seen = (self.clock.seconds(), found)
        return found


def _look(path: str) -> tuple[int, int]:
    # Free for this process: without the blocks that are reserved for root.
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
