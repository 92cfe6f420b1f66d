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

    def test_first_notification_after_a_pause_is_delivered_next_iteration(self) -> None:
        """The first notification after a pause is delivered in the reactor's next iteration."""
        self.subscribe()
        self.notifier.notify()
        self.assertEqual(self.calls, [])
        self.clock.advance(0)
        self.assertEqual(self.calls, [1000])

    def test_many_notifications_cause_one_call_per_interval(self) -> None:
        """A hundred thousand notifications cause one call per interval, also after the last one."""
        self.subscribe()
        for _ in range(8):
            for _ in range(12_500):
                self.notifier.notify()
            self.clock.advance(0.125)
        self.clock.pump([0.125] * 8)
        self.assertEqual(self.calls, [1000.125, 1000.625, 1001.125])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_without_listeners_no_call_is_scheduled(self) -> None:
        """Without listeners no call is scheduled."""
        self.notifier.notify()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        unsubscribe = self.subscribe()
        self.notifier.notify()
        unsubscribe()
        unsubscribe()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unsubscribing_while_called(self) -> None:
        """A listener may unsubscribe itself and others while it is called."""
        unsubscribers: list[Callable[[], None]] = []

        def unsubscribe_both() -> None:
            self.calls.append(0)
            for unsubscribe in unsubscribers:
                unsubscribe()

        unsubscribers += [
            self.notifier.subscribe(unsubscribe_both),
            self.notifier.subscribe(unsubscribe_both),
        ]
        self.notifier.notify()
        self.clock.advance(1)
        self.notifier.notify()
        self.clock.advance(1)
        self.assertEqual(self.calls, [0])

    def test_listeners_that_fail(self) -> None:
        """The failure of a listener is logged, and the other listeners are called."""

        def fail() -> None:
            raise ZeroDivisionError

        self.notifier.subscribe(fail)
        self.subscribe()
        self.notifier.notify()
        self.clock.advance(0)
        self.assertEqual(len(self.calls), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
