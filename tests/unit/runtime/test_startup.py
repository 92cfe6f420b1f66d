"""Tests for :mod:`nixery.runtime.startup`."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nixery.nix.errors import NixUnusable
from nixery.runtime.startup import Component, OrderedService


class Recorder:
    """Components that record what happens to them, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.waiting: dict[str, Deferred[None]] = {}
        self.given_up: list[BaseException] = []

    def part(self, name: str) -> Component:
        """Make a component that starts and stops at once."""

        async def start() -> None:
            self.events.append(f"start {name}")

        async def stop() -> None:
            self.events.append(f"stop {name}")

        return Component(name=name, start=start, stop=stop)

    def slow(self, name: str) -> Component:
        """Make a component that starts and stops when the test says so."""

        async def wait(event: str) -> None:
            self.events.append(event)
            self.waiting[event] = Deferred()
            await self.waiting[event]

        return Component(
            name=name, start=lambda: wait(f"start {name}"), stop=lambda: wait(f"stop {name}")
        )

    def failing(self, name: str, error: Exception) -> Component:
        """Make a component that cannot start."""

        async def start() -> None:
            raise error

        return Component(name=name, start=start, stop=self.part(name).stop)

    def daemon(self, parts: Sequence[Component]) -> OrderedService:
        """Make a daemon of these components."""

        return OrderedService(parts, self.given_up.append)


class DaemonTests(SynchronousTestCase):
    """Tests of the order in which components start and stop."""

    def setUp(self) -> None:
        self.recorder = Recorder()

    def test_components_start_in_their_order_and_stop_in_the_reverse_one(self) -> None:
        """Components start in their order and stop in the reverse one."""
        daemon = self.recorder.daemon([self.recorder.part(name) for name in "abc"])
        daemon.startService()
        self.assertEqual(["start a", "start b", "start c"], self.recorder.events)
        self.successResultOf(daemon.stopService())
        self.assertEqual(["stop c", "stop b", "stop a"], self.recorder.events[3:])
        self.assertEqual([], self.recorder.given_up)

    def test_each_waits_for_the_one_before(self) -> None:
        """A component starts when its predecessor is ready, and stops after its successor."""
        slow, recorder = self.recorder.slow, self.recorder
        daemon = recorder.daemon([slow("a"), slow("b")])
        daemon.startService()
        self.assertEqual(["start a"], recorder.events)
        recorder.waiting["start a"].callback(None)
        self.assertEqual(["start a", "start b"], recorder.events)
        recorder.waiting["start b"].callback(None)
        stopping = daemon.stopService()
        self.assertEqual(["stop b"], recorder.events[2:])
        recorder.waiting["stop b"].callback(None)
        self.assertNoResult(stopping)
        recorder.waiting["stop a"].callback(None)
        self.successResultOf(stopping)

    def test_failed_start_is_logged_once_and_ends_the_daemon(self) -> None:
        """A failed start is logged once and ends the daemon; later components do not start."""
        recorder = self.recorder
        error = NixUnusable(reason="gone")
        daemon = recorder.daemon(
            [
                recorder.part("a"),
                recorder.failing("Nix side", error),
                recorder.part("c"),
            ]
        )
        with capturedLogs() as logs:
            daemon.startService()
        self.assertEqual([error], recorder.given_up)
        _starts, event = logs
        self.assertEqual("critical", event["log_level"].name)
        self.assertEqual("Nix side", event["part"])
        self.assertIn("gone", event["reason"])
        self.successResultOf(daemon.stopService())
        self.assertEqual(["start a", "stop Nix side", "stop a"], recorder.events)

    def test_unexpected_error_is_logged_with_traceback_and_ends_the_daemon(self) -> None:
        """An error of no known type is logged with its traceback, and ends the daemon too."""
        daemon = self.recorder.daemon([self.recorder.failing("a", ZeroDivisionError())])
        daemon.startService()
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual(1, len(self.recorder.given_up))

    def test_stopped_while_starting(self) -> None:
        """A daemon that is stopped while it starts cancels the start, and gives up nothing."""
        recorder = self.recorder
        daemon = recorder.daemon([recorder.part("a"), recorder.slow("b"), recorder.part("c")])
        daemon.startService()
        stopping = daemon.stopService()
        self.assertEqual(["start a", "start b", "stop b"], recorder.events)
        recorder.waiting["stop b"].callback(None)
        self.successResultOf(stopping)
        self.assertEqual("stop a", recorder.events[-1])
        self.assertNotIn("start c", recorder.events)
        self.assertEqual([], recorder.given_up)

    def test_fault_because_of_stopping(self) -> None:
        """An error of a component that is interrupted by stopping is no fault."""

        async def start() -> None:
            try:
                await Deferred[None]()
            finally:
                raise NixUnusable(reason="interrupted")

        daemon = self.recorder.daemon([Component(name="a", start=start)])
        daemon.startService()
        self.successResultOf(daemon.stopService())
        self.assertEqual([], self.recorder.given_up)

    def test_part_that_does_not_stop_as_it_should(self) -> None:
        """A component that fails to stop is logged, and those below it stop all the same."""

        async def stop() -> None:
            raise ZeroDivisionError

        daemon = self.recorder.daemon([self.recorder.part("a"), Component(name="b", stop=stop)])
        daemon.startService()
        self.successResultOf(daemon.stopService())
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual("stop a", self.recorder.events[-1])

    def test_daemon_that_has_stopped_can_start_again(self) -> None:
        """A daemon that has stopped can start again."""
        daemon = self.recorder.daemon([self.recorder.part("a")])
        for _ in range(2):
            daemon.startService()
            self.successResultOf(daemon.stopService())
        self.assertEqual(["start a", "stop a"] * 2, self.recorder.events)

    def test_service_of_twisteds_can_be_a_component(self) -> None:
        """A service of Twisted's can be a component, also where it takes time to stop."""
        ended: Deferred[None] = Deferred()

        class Slow(Service):
            def stopService(self) -> Deferred[None]:
                super().stopService()
                return ended

        service = Slow()
        daemon = self.recorder.daemon([self.recorder.part("a"), Component.of_service("s", service)])
        daemon.startService()
        self.assertTrue(service.running)
        stopping = daemon.stopService()
        self.assertNoResult(stopping)
        ended.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(["start a", "stop a"], self.recorder.events)
