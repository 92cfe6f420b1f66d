"""Looking again at files when the process gets SIGHUP."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from nixery.errors import PasswordFileUnusable
from nixery.reload import Reloader


class _Reactor(MemoryReactorClock):
    def callFromThread(self, function: Callable[..., object], *args: object) -> None:
        function(*args)


class ReloadTests(SynchronousTestCase):
    """Callbacks, and what becomes of them."""

    def setUp(self) -> None:
        self.reloader = Reloader(cast(IReactorFromThreads, _Reactor()))
        self.calls: list[str] = []
        self.said: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            self.said.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    async def note(self) -> None:
        self.calls.append("noted")

    def test_signal(self) -> None:
        """The signal has everything looked at, while the service runs."""
        before = signal.getsignal(signal.SIGHUP)
        self.reloader.register("users", self.note)
        self.reloader.startService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(self.calls, ["noted"])
        self.assertIsNone(self.reloader.stopService())
        self.assertEqual(signal.getsignal(signal.SIGHUP), before)

    def test_failures(self) -> None:
        """What cannot be used is told, and the others are looked at all the same."""

        async def broken() -> None:
            raise PasswordFileUnusable(path="/f", line=2, reason="it is broken")

        async def bug() -> None:
            raise ZeroDivisionError

        self.reloader.register("users", broken)
        self.reloader.register("certificates", bug)
        self.reloader.register("rest", self.note)
        self.reloader.reload()
        self.assertEqual(self.calls, ["noted"])
        self.assertTrue(any("/f, line 2" in each for each in self.said), self.said)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_one_at_a_time(self) -> None:
        """Signals that come while files are looked at are one more round."""
        waiting: list[Deferred[None]] = []

        async def slow() -> None:
            waiting.append(Deferred())
            await waiting[-1]

        self.reloader.register("users", slow)
        self.reloader.startService()
        self.addCleanup(self.reloader.stopService)
        for _ in range(3):
            self.reloader.reload()
        self.assertEqual(len(waiting), 1)
        waiting[0].callback(None)
        self.assertEqual(len(waiting), 2)
        waiting[1].callback(None)
        self.assertEqual(len(waiting), 2)

    def test_stop(self) -> None:
        """Who stops does not wait for what hangs."""
        self.reloader.register("users", Deferred)
        self.reloader.startService()
        self.reloader.reload()
        stopped = self.reloader.stopService()
        assert stopped is not None
        self.successResultOf(stopped)
        self.assertEqual(self.calls, [])
