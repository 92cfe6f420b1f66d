"""A wall clock that is set, back or forward, while things run that take time."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, LoopingCall
from twisted.trial.unittest import SynchronousTestCase

from nixery.access.throttle import FREE_FAILURES_PER_USER, LoginThrottle
from nixery.builds.errors import CachedFailure
from nixery.builds.image_cache import FailureCache
from nixery.errors import NixeryError
from nixery.http.back_pressure import SendLimits
from nixery.limits.token_buckets import TokenBuckets
from nixery.runtime.clocks import WallClock, WallTime
from nixery.runtime.deferreds import TimedOut, with_timeout
from nixery.runtime.reactor_time import use_monotonic_time
from nixery.runtime.systemd.watchdog import ServiceNotifier
from nixery.storage.filesystem.ages import AgeClock
from nixery.testing.fakes import FakeWallClock, InlineWorkers
from tests.fuzz.fuzz_app import PASSWORD, USER, World, answers_in, basic

MONTH = 30 * 86400.0

STEPS = (-MONTH, 7200.0, MONTH)


class MachineReactor(Clock):
    """
    A reactor as Twisted makes it, on a machine whose clock can be set: it measures by the
    wall clock, until it is told otherwise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wall_clock = FakeWallClock(MonotonicOf(self))

    def monotonic(self) -> float:
        return self.rightNow

    def seconds(self) -> float:
        return self.wall_clock.now()

    def step(self, seconds: float) -> None:
        """Set the wall clock, and let the reactor look at its timers."""
        self.wall_clock.step(seconds)
        self.advance(0)


class MonotonicOf(Clock):
    """The monotonic clock of a machine, which began when it did: near 0."""

    def __init__(self, machine: MachineReactor) -> None:
        super().__init__()
        self._machine = machine

    def seconds(self) -> float:
        return self._machine.rightNow


class StepTests(SynchronousTestCase):
    """Each part by itself, on a reactor whose time was made monotonic."""

    def setUp(self) -> None:
        self.reactor = MachineReactor()
        use_monotonic_time(self.reactor, self.reactor.monotonic)

    def test_mypy_holds_the_wall_clock_against_its_protocol(self) -> None:
        """mypy holds the wall clock against its protocol."""
        checked: WallClock = self.reactor.wall_clock
        self.assertEqual(WallTime(1_800_000_000), checked.now())

    def test_client_waits_as_long_as_it_would_have_no_longer_and_no_shorter(self) -> None:
        """A client waits as long as it would have, no longer and no shorter."""
        for step in STEPS:
            buckets = TokenBuckets(rate=1, burst=2, seconds=self.reactor.seconds)
            self.assertEqual([0, 0], [buckets.take("a"), buckets.take("a")])
            self.reactor.step(step)
            self.assertEqual(1, buckets.seconds_until_token("a"))
            self.assertEqual(1, buckets.take("a"))
            self.reactor.advance(1)
            self.assertEqual(0, buckets.take("a"))

    def test_throttle_of_failed_logins_ignores_steps_of_the_clock(self) -> None:
        """So does a client that has failed to log in."""
        for step in STEPS:
            throttle = LoginThrottle(self.reactor.seconds)
            for _ in range(FREE_FAILURES_PER_USER + 1):
                throttle.record_failure("192.0.2.1", "ann")
            self.reactor.step(step)
            self.assertEqual(1, throttle.seconds_until_allowed("192.0.2.1", "ann"))
            self.reactor.advance(1)
            self.assertEqual(0, throttle.seconds_until_allowed("192.0.2.1", "ann"))

    def test_timeout_of_ten_seconds_lasts_ten_seconds(self) -> None:
        """A timeout of ten seconds lasts ten seconds."""
        for step in STEPS:

            async def wait() -> None:
                await Deferred()

            waiting = Deferred.fromCoroutine(with_timeout(10, self.reactor, wait()))
            self.reactor.advance(4)
            self.reactor.step(step)
            self.reactor.advance(5)
            self.assertNoResult(waiting)
            self.reactor.advance(1)
            self.failureResultOf(waiting, TimedOut)

    def test_loop_with_an_interval_of_a_minute_runs_once_a_minute(self) -> None:
        """A loop with an interval of a minute runs once a minute."""
        for step in STEPS:
            done: list[int] = []
            loop = LoopingCall(done.append, 1)
            loop.clock = self.reactor
            loop.start(60)
            self.reactor.advance(30)
            self.reactor.step(step)
            self.assertEqual([1], done)
            self.reactor.pump([30, 60])
            self.assertEqual([1, 1, 1], done)
            loop.stop()

    def test_watchdog_pings_come_as_often_as_the_service_manager_demands(self) -> None:
        """The watchdog pings come as often as the service manager demands."""
        sent: list[str] = []

        class Notifications:
            is_available = True

            def notify(self, **fields: object) -> None:
                sent.extend(each for each in fields if each == "WATCHDOG")

        notifier = ServiceNotifier(
            notices=Notifications(),  # type: ignore[arg-type]  # as much of it as is used
            clock=self.reactor,
            workers=InlineWorkers(),
            status=lambda: "",
            watchdog=30.0,
        )
        self.successResultOf(Deferred.fromCoroutine(notifier.start()))
        for step in STEPS:
            sent.clear()
            self.reactor.step(step)
            self.reactor.pump([1] * 30)
            self.assertEqual(3, len(sent))
        self.successResultOf(Deferred.fromCoroutine(notifier.stop()))

    def test_client_that_takes_something_is_not_cut_off(self) -> None:
        """A client that takes something is not cut off, and one that takes nothing is."""
        limits = SendLimits(stall=600, rate=1024)
        for step in STEPS:
            begun = self.reactor.seconds()
            self.reactor.advance(1)
            self.reactor.step(step)
            left = limits.left(1024, self.reactor.seconds() - begun)
            self.assertEqual(600, left)

    def test_failure_is_remembered_for_its_time(self) -> None:
        """A failure is remembered for its time."""
        for step in STEPS:
            cache = FailureCache(seconds=self.reactor.seconds, ttl=60)
            cache.add("key", NixeryError())
            self.reactor.step(step)
            self.reactor.advance(50)
            error = self.assertRaises(CachedFailure, cache.check, "key")
            self.assertEqual(10, error.retry_after)
            self.reactor.advance(10)
            cache.check("key")

    def test_recent_use_does_not_become_old_by_a_step_of_the_clock(self) -> None:
        """A recent use does not become old by a step of the clock until the grace has passed."""
        for step, at_once, later in ((MONTH, 60, MONTH + 3660), (-MONTH, 60 - MONTH, None)):
            wall_clock = self.reactor.wall_clock
            ages = AgeClock(wall_clock, self.reactor.seconds, grace=3600)
            used = ages.now()
            self.reactor.advance(60)
            self.reactor.step(step)
            self.assertAlmostEqual(at_once, ages.now() - used, places=3)
            self.reactor.advance(3600)
            if later is not None:
                self.assertAlmostEqual(later, ages.now() - used, places=3)

    def test_steps_that_are_taken_back(self) -> None:
        """A clock that was wrong for a moment was not."""
        ages = AgeClock(self.reactor.wall_clock, self.reactor.seconds, grace=3600)
        used = ages.now()
        for step in (MONTH, -MONTH):
            self.reactor.step(step)
            self.assertAlmostEqual(0, ages.now() - used, places=3)


class WorldTests(SynchronousTestCase):
    """All that is served, in memory."""

    def test_images_are_served_before_and_after_a_step_of_the_clock(self) -> None:
        """Images are served before and after, with credentials that were good as well."""
        for step in STEPS:
            for gated in (False, True):
                self.check(step, gated=gated)

    def check(self, step: float, *, gated: bool) -> None:
        reactor = MachineReactor()
        use_monotonic_time(reactor, reactor.monotonic)
        world = World(Path(self.mktemp()), gated=gated, clock=reactor)
        header = b"Authorization: %b\r\n" % basic(USER, PASSWORD) if gated else b""
        request = b"GET /v2/hello/manifests/latest HTTP/1.1\r\nHost: reg.example\r\n%b\r\n" % header
        for _ in range(2):
            [(status, _body)] = answers_in(world.exchange(request), ["GET"])
            self.assertEqual(200, status)
            world.wall_clock.step(step)
            reactor.step(step)
        views = world.book.overview()
        self.assertTrue(all(0 <= view.elapsed < 60 for view in views), views)
