"""Tests of the collection that a daemon does by itself."""

from __future__ import annotations

import time
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from nixery.storage.filesystem import scan
from nixery.storage.filesystem.gc_policy import Policy
from nixery.storage.filesystem.gc_service import CollectionService
from nixery.storage.filesystem.publish_lock import attempt_collection, publishing
from nixery.testing.fakes import FakeWallClock
from tests.support.stores import StoreCase
from tests.support.workers import CountingWorkers


class RetentionTests(StoreCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(scan, "TIMESTAMP_RESOLUTION_SECONDS", float("-inf"))
        self.clock = Clock()
        # The files bear the times of this machine.
        self.wall_clock = FakeWallClock(self.clock, time.time())
        self.workers = CountingWorkers()
        self.told = 0
        self.retention = self.make(self.root)
        self.image("old", b"1")
        self.age()

    def make(self, root: Path) -> CollectionService:
        def removed() -> None:
            self.told += 1

        return CollectionService(
            root=root,
            policy=Policy(max_bytes=0),
            interval=60.0,
            workers=self.workers,
            clock=self.clock,
            wall_clock=self.wall_clock,
            on_removed=removed,
        )

    def test_now_and_then(self) -> None:
        """It collects after each interval, in many small steps, and tells who has to know."""
        self.successResultOf(Deferred.fromCoroutine(self.retention.start()))
        self.clock.advance(59)
        self.assertEqual({"old"}, self.images())
        self.clock.advance(1)
        self.assertEqual(set(), self.images())
        self.assertGreater(self.workers.calls, 6)
        self.assertEqual(1, self.told)
        self.image("old", b"1")
        self.age()
        self.clock.advance(60)
        self.assertEqual((set(), 2), (self.images(), self.told))
        self.clock.advance(60)
        self.assertEqual(2, self.told)
        self.successResultOf(Deferred.fromCoroutine(self.retention.stop()))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_clock_that_is_set(self) -> None:
        """A clock that is set forward makes nothing old that was used just before."""
        self.image("new", b"2")
        self.wall_clock.step(30 * 86400)
        self.successResultOf(Deferred.fromCoroutine(self.retention.collect()))
        self.assertEqual({"new"}, self.images())
        # The step counts now: nobody has used the image for a month.
        self.clock.advance(Policy().protection + 60)
        self.successResultOf(Deferred.fromCoroutine(self.retention.collect()))
        self.assertEqual(set(), self.images())

    def test_waits_without_a_thread(self) -> None:
        """During a publication, the collection tries again by the clock, without a thread."""
        with publishing(str(self.root)):
            collecting = Deferred.fromCoroutine(self.retention.collect())
            self.clock.pump([0.05] * 10)
            self.assertNoResult(collecting)
        self.clock.advance(0.05)
        done = self.successResultOf(collecting)
        assert done is not None
        self.assertEqual(1, done.images)

    def test_daemon_that_stops_ends_it_after_a_step_and_leaves_no_lock_behind(self) -> None:
        """A daemon that stops ends it after a step, and leaves no lock behind."""
        self.successResultOf(Deferred.fromCoroutine(self.retention.start()))
        with publishing(str(self.root)):
            self.clock.advance(60)
            stopping = Deferred.fromCoroutine(self.retention.stop())
            self.clock.advance(0.05)
            self.successResultOf(stopping)
        self.assertEqual({"old"}, self.images())
        with attempt_collection(str(self.root)) as alone:
            self.assertTrue(alone)

    def test_failures_are_survived(self) -> None:
        """A failed collection is logged, and tried again after the next interval."""
        self.successResultOf(Deferred.fromCoroutine(self.retention.start()))
        with attempt_collection(str(self.root)):
            self.clock.advance(60)
        self.workers.limit = self.workers.calls + 3
        self.clock.advance(60)
        self.assertEqual({"old"}, self.images())
        self.workers.limit = 10**9
        self.clock.advance(60)
        self.assertEqual(set(), self.images())
        self.successResultOf(Deferred.fromCoroutine(self.retention.stop()))

    def test_disk_that_fails(self) -> None:
        """A directory that is gone is no reason to end."""
        lost = self.make(self.root / "lost")
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(lost.collect())))
