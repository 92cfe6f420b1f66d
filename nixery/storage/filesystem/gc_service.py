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
from nixery.storage.filesystem.ages import AgeClock
from nixery.storage.filesystem.garbage_collector import Collection, Step, collect
from nixery.storage.filesystem.gc_policy import CollectionResult, Policy

__all__ = ["CollectionService"]

INTERVAL_SECONDS = 3600.0
"""
Seconds between the end of a collection and the next: a collection reads the whole directory, and
what a storage grows by in an hour is little beside its limit. A nearly full disk does not wait.
"""

LOCK_PAUSE_SECONDS = 0.05
"""Seconds between two attempts to get the lock."""


@define(kw_only=True, eq=False)
class CollectionService:
    """
    Keeps a directory of images within the limits of a policy.

    :param root: the directory.
    :param policy: the limits.
    :param workers: the pool for storage.
    :param clock: for the interval.
    :param wall_clock: for the ages of files.
    :param interval: seconds between the end of a collection and the next.
    :param on_removed: called after a collection that has removed something: entries of caches
        in memory may be stale.
    """

    root: Path
    policy: Policy
    workers: Workers
    clock: IReactorTime
    wall_clock: WallClock
    interval: float = INTERVAL_SECONDS
    on_removed: Callable[[], None] = lambda: None

    last_result: CollectionResult | None = field(default=None, init=False)
    _loop: LoopingCall | None = field(default=None, init=False)
    _running: Deferred[None] | None = field(default=None, init=False)
    _stopping: bool = field(default=False, init=False)
    _age_clock: AgeClock = field(init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._age_clock = AgeClock(
            self.wall_clock, self.clock.seconds, grace=self.policy.protection
        )

    async def start(self) -> None:
        """Start the loop; the first collection begins after one interval.  Does not wait."""
        self._stopping = False
        self._loop = LoopingCall(self._collect_and_log)
        self._loop.clock = self.clock
        self._loop.start(self.interval, now=False)

    async def stop(self) -> None:
        """Stop the loop; a running collection ends after its current step."""
        self._stopping = True
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        if self._running is not None:
            await self._running

    async def collect(self) -> CollectionResult | None:
        """
        Collect now.

        :return: the result; ``None`` if it did not finish, because another collection is
            running, something failed, or the daemon stops.  The log says which.
        """
        try:
            result = await self._run_steps(collect(str(self.root), self.policy, self._age_clock))
        except CollectionRunning:
            self._log.info("No collection of the storage: another one is running.")
            return None
        except (NixeryError, CancelledError) as error:
            self._log.error("Cannot collect garbage in the storage: {error}", error=error)
            return None
        if result is None:
            return None
        self.last_result = result
        if result.images or result.blobs or result.over:
            self._log.info("The collection of the storage {what}.", what=result.describe())
        if result.images or result.blobs:
            self.on_removed()
        return result

    def _collect_and_log(self) -> Deferred[None]:
        # The loop waits for the collection, and so never runs two at a time.
        async def run() -> None:
            try:
                await self.collect()
            except Exception:  # noqa: BLE001  # the next one may succeed
                self._log.failure("The collection of the storage failed.")

        self._running = Deferred.fromCoroutine(run())
        return self._running

    async def _run_steps(self, collection: Collection) -> CollectionResult | None:
        """:return: ``None`` if the daemon stopped meanwhile."""
        try:
            while not self._stopping:
                # Passed out of the thread as a value: StopIteration would end the coroutine.
                step, result = await self.workers.run(_next_step, collection)
                if result is not None:
                    return result
                if step is Step.WAIT:
                    await deferLater(self.clock, LOCK_PAUSE_SECONDS)
            return None
        finally:
            collection.close()


def _next_step(collection: Collection) -> tuple[Step, CollectionResult | None]:
    try:
        return next(collection), None
    except StopIteration as end:
        result: CollectionResult = end.value
        return Step.CONTINUE, result
