"""Tests for :mod:`nixery.builds.notifier`."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.notifier import ThrottledNotifier


class ThrottledNotifierTests(SynchronousTestCase):
    """Tests of the rate at which listeners are notified."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.notifier = ThrottledNotifier(clock=self.clock, interval=0.5)
        self.calls: list[float] = []

    def subscribe(self) -> Callable[[], None]:
        return self.notifier.subscribe(lambda: self.calls.append(self.clock.seconds()))

    def test_after_silence(self) -> None:
        """The first ring after a while is heard at once, but not from within."""
        self.subscribe()
        self.notifier.notify()
        self.assertEqual(self.calls, [])
        self.clock.advance(0)
        self.assertEqual(self.calls, [1000])

    def test_many_rings(self) -> None:
        """A hundred thousand rings are heard once in each interval, the last one too."""
        self.subscribe()
        for _ in range(8):
            for _ in range(12_500):
                self.notifier.notify()
            self.clock.advance(0.125)
        self.clock.pump([0.125] * 8)
        self.assertEqual(self.calls, [1000.125, 1000.625, 1001.125])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody_listens(self) -> None:
        """Then a ring costs no timer."""
        self.notifier.notify()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        leave = self.subscribe()
        self.notifier.notify()
        leave()
        leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_listeners_that_leave(self) -> None:
        """A listener may end another's listening, and its own, while it is told."""
        leaves: list[Callable[[], None]] = []

        def leave_both() -> None:
            self.calls.append(0)
            for leave in leaves:
                leave()

        leaves += [self.notifier.subscribe(leave_both), self.notifier.subscribe(leave_both)]
        self.notifier.notify()
        self.clock.advance(1)
        self.notifier.notify()
        self.clock.advance(1)
        self.assertEqual(self.calls, [0])

    def test_listeners_that_fail(self) -> None:
        """One that fails is in the log, and the others are told."""

        def fail() -> None:
            raise ZeroDivisionError

        self.notifier.subscribe(fail)
        self.subscribe()
        self.notifier.notify()
        self.clock.advance(0)
        self.assertEqual(len(self.calls), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
