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
    :param collect_garbage: removes what is not needed; ``None`` if nothing can be removed.
    :param read_space: reads the size of the file system and its free space, both in bytes.
    """

    path: Path
    margin: FreeSpaceLimit
    workers: Workers
    clock: IReactorTime
    collect_garbage: Callable[[], Awaitable[object]] | None = None
    read_space: Callable[[str], tuple[int, int]] = field(factory=lambda: _read_space)

    _last_reading: tuple[float, DiskSpaceLow | None] = field(
        default=(float("-inf"), None), init=False
    )
    _last_collection: float = field(default=float("-inf"), init=False)
    _loop: LoopingCall | None = field(default=None, init=False)
    _log = Logger()

    async def start(self) -> None:
        """Read the free space now, and then at intervals."""
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._refresh()))
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
        shortage = await self._find_shortage(READING_TTL_SECONDS)
        if shortage is None:
            return
        now = self.clock.seconds()
        if (
            self.collect_garbage is not None
            and now - self._last_collection >= COLLECTION_INTERVAL_SECONDS
        ):
            self._last_collection = now
            await self.collect_garbage()
            shortage = await self._find_shortage(0.0)
            if shortage is None:
                return
        raise shortage

    def faults(self) -> Sequence[str]:
        """Return the problems found at the last reading, a sentence each."""
        shortage = self._last_reading[1]
        return () if shortage is None else (shortage.message,)

    async def _refresh(self) -> None:
        try:
            await self._find_shortage(0.0)
        except NixeryError:
            return  # the daemon stops

    async def _find_shortage(self, max_age: float) -> DiskSpaceLow | None:
        read_at, previous = self._last_reading
        if self.clock.seconds() - read_at < max_age:
            return previous
        try:
            size, free = await self.workers.run(self.read_space, str(self.path))
        except OSError as error:
            self._log.warn("the free space of the disk is unknown: {error}", error=error)
            return None
        needed = self.margin.of(size)
        shortage = None
        if free < needed:
            shortage = DiskSpaceLow(
                operation="make images",
                reason="the disk is nearly full",
                path=str(self.path),
                free=free,
                needed=needed,
            )
        if (shortage is None) != (previous is None):
            if shortage is None:
                self._log.info("The disk of {path} has free space again.", path=self.path)
            else:
                self._log.error("{error}", error=shortage.message)
        self._last_reading = (self.clock.seconds(), shortage)
        return shortage


def _read_space(path: str) -> tuple[int, int]:
    # Free for this process: without the blocks that are reserved for root.
    status = os.statvfs(path)
    return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
