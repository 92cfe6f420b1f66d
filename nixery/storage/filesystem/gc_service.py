"""
Runs garbage collections in the daemon at intervals.

The work is done by :mod:`.garbage_collector`, one small step per call on the storage
pool, so that pulls get a thread in between; this module only schedules it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from nixery.errors import NixeryError
from nixery.runtime.clocks import WallClock
from nixery.runtime.workers import Workers
from nixery.storage.errors import CollectionRunning
from nixery.storage.filesystem.ages import Ages
from nixery.storage.filesystem.garbage_collector import Step, Work, collect
from nixery.storage.filesystem.gc_policy import Collected, Policy

__all__ = ["Retention"]

INTERVAL_SECONDS = 3600.0
"""
Seconds between the end of a collection and the next: a collection reads the whole directory, and
what a storage grows by in an hour is little beside its limit. A nearly full disk does not wait.
"""

LOCK_PAUSE_SECONDS = 0.05
"""Seconds between two attempts to get the lock."""


@define(kw_only=True, eq=False)
class Retention:
    """
    Keeps a directory of images within the limits of a policy.

    :param root: the directory.
    :param policy: the limits.
    :param workers: the pool for storage.
    :param clock: for the interval.
    :param wall_clock: for the ages of files.
    :param interval: seconds between the end of a collection and the next.
    :param removed: called after a collection that has removed something: entries of caches
        in memory may be stale.
    """

    root: Path
    policy: Policy
    workers: Workers
    clock: IReactorTime
    wall_clock: WallClock
    interval: float = INTERVAL_SECONDS
    removed: Callable[[], None] = lambda: None

    last: Collected | None = field(default=None, init=False)
    _loop: LoopingCall | None = field(default=None, init=False)
    _running: Deferred[None] | None = field(default=None, init=False)
    _stopping: bool = field(default=False, init=False)
    _ages: Ages = field(init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._ages = Ages(self.wall_clock, self.clock.seconds, grace=self.policy.protection)

    async def start(self) -> None:
        """Start the loop; the first collection begins after one interval.  Does not wait."""
        self._stopping = False
        self._loop = LoopingCall(self._begin)
        self._loop.clock = self.clock
        self._loop.start(self.interval, now=False)

    async def stop(self) -> None:
        """Stop the loop; a running collection ends after its current step."""
        self._stopping = True
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        if self._running is not None:
            await self._running

    async def collect(self) -> Collected | None:
        """
        Collect now.

        :return: the result; ``None`` if it did not finish, because another collection is
            running, something failed, or the daemon stops.  The log says which.
        """
        try:
            done = await self._drive(collect(str(self.root), self.policy, self._ages))
        except CollectionRunning:
            self._log.info("No collection of the storage: another one is going on.")
            return None
        except (NixeryError, CancelledError) as error:
            self._log.error("The storage was not collected: {error}", error=error)
            return None
        if done is None:
            return None
        self.last = done
        if done.images or done.blobs or done.over:
            self._log.info("The collection of the storage {what}.", what=done.describe())
        if done.images or done.blobs:
            self.removed()
        return done

    def _begin(self) -> Deferred[None]:
        # The loop waits for the collection, and so never runs two at a time.
        async def once() -> None:
            try:
                await self.collect()
            except Exception:  # noqa: BLE001  # the next one may succeed
                self._log.failure("The collection of the storage failed.")

        self._running = Deferred.fromCoroutine(once())
        return self._running

    async def _drive(self, work: Work) -> Collected | None:
        """:return: ``None`` if the daemon stopped meanwhile."""
        try:
            while not self._stopping:
                # Passed out of the thread as a value: StopIteration would end the coroutine.
                pace, done = await self.workers.run(_step, work)
                if done is not None:
                    return done
                if pace is Step.WAIT:
                    await deferLater(self.clock, LOCK_PAUSE_SECONDS)
            return None
        finally:
            work.close()


def _step(work: Work) -> tuple[Step, Collected | None]:
    try:
        return next(work), None
    except StopIteration as end:
        done: Collected = end.value
        return Step.GO, done
