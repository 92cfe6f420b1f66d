"""
Stopping before the disk is full.

A disk that fills up in the middle of a layer harms more than one image: Nix, the journal
and whoever else shares it fail with it.  So no image is begun, and no layer of one, while
less than a margin is free; what is stored is served on.  Before it refuses anybody, the
guard has the storage collected, where retention is configured.

How much is free is asked once in a while and not for each layer; between two looks a
build can write no more than disks take in that time.  Nix has a margin of its own for
its store (``min-free`` in nix.conf), which is its to keep.
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

INTERVAL = 30.0
"""Seconds between two looks when nothing is built."""

BELIEVED = 2.0
"""For how many seconds a look is believed while something is built."""

COLLECTIONS = 60.0
"""Seconds from one attempt to make room to the next."""


@define(kw_only=True, eq=False)
class FreeSpaceMonitor:
    """
    Watches the file system of a directory.

    :param path: the directory.
    :param margin: how much has to be free.
    :param workers: asks the file system: a disk that hangs must not hang the reactor.
    :param clock: tells when to look again.
    :param make_room: removes what is not needed; ``None`` where nothing does.
    :param look: what the file system says: how many bytes it has, and how many are free.
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
        """Look, and go on looking."""
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._watch()))
        self._loop.clock = self.clock
        self._loop.start(INTERVAL)

    async def stop(self) -> None:
        """Look no more."""
        if self._loop is not None and self._loop.running:
            self._loop.stop()

    async def check(self) -> None:
        """
        Go on only if there is room; makes room first where it can.

        :raises DiskSpaceLow: there is too little.
        """
        low = await self._current(BELIEVED)
        if low is None:
            return
        now = self.clock.seconds()
        if self.make_room is not None and now - self._tried >= COLLECTIONS:
            self._tried = now
            await self.make_room()
            low = await self._current(0.0)
            if low is None:
                return
        raise low

    def faults(self) -> Sequence[str]:
        """What was wrong at the last look, a sentence each."""
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
    # Free for us: what is reserved for root is not.
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
