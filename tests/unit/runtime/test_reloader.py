"""Looking again at files when the process gets SIGHUP."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from nixery.access.errors import PasswordFileUnusable
from nixery.runtime import reloader
from nixery.runtime.reloader import Reloader


class _Reactor(MemoryReactorClock):
    def callFromThread(self, function: Callable[..., object], *args: object) -> None:
        function(*args)


class ReloadTests(SynchronousTestCase):
    """Callbacks, and what becomes of them."""

    def setUp(self) -> None:
        self.calls: list[str] = []
        self.reloads: list[bool] = []
        self.callbacks: dict[str, Callable[[], Awaitable[object]]] = {}
        self.reloader = Reloader(
            cast(IReactorFromThreads, _Reactor()), self.end, self.callbacks, self.reloads.append
        )
        # Tests may be run in a terminal.
        self.hangup_ends = False
        self.patch(reloader, "hangup_ends", lambda: self.hangup_ends)
        self.said: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            self.said.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    async def note(self) -> None:
        self.calls.append("noted")

    def test_signal_has_everything_looked_at_while_the_service_runs(self) -> None:
        """The signal has everything looked at, while the service runs."""
        before = signal.getsignal(signal.SIGHUP)
        self.callbacks["users"] = self.note
        self.reloader.startService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(self.calls, ["noted"])
        self.assertIsNone(self.reloader.stopService())
        self.assertEqual(signal.getsignal(signal.SIGHUP), before)

    def end(self) -> None:
        self.calls.append("ended")

    def test_in_the_foreground_of_a_terminal_the_signal_ends_the_process_once(self) -> None:
        """In the foreground of a terminal the signal ends the process, once; the log says so."""
        before = signal.getsignal(signal.SIGHUP)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        self.hangup_ends = True
        self.callbacks["users"] = self.note
        self.reloader.startService()
        self.assertIn("Closing the terminal (SIGHUP) stops", self.said[0])
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertIsNone(self.reloader.stopService())
        # The shell sends another one while the process is ending.
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(self.calls, ["ended"])

    def test_hangup_while_ending(self) -> None:
        """A process that is ending already is not disturbed."""

        def end() -> None:
            raise ReactorNotRunning

        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        self.hangup_ends = True
        reloader = Reloader(cast(IReactorFromThreads, _Reactor()), end, {})
        reloader.startService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertIsNone(reloader.stopService())

    def test_elsewhere_the_log_says_what_the_signal_reloads(self) -> None:
        """Elsewhere the log says what the signal reloads."""
        self.callbacks["users"] = self.note
        self.reloader.startService()
        self.addCleanup(self.reloader.stopService)
        self.assertEqual(self.said, ["SIGHUP reloads: users."])

    def test_file_that_cannot_be_used_is_reported(self) -> None:
        """A file that cannot be used is reported, and the others are reloaded all the same."""

        async def broken() -> None:
            raise PasswordFileUnusable(path="/f, line 2", reason="it is broken")

        async def bug() -> None:
            raise ZeroDivisionError

        self.callbacks["users"] = broken
        self.callbacks["certificates"] = bug
        self.callbacks["rest"] = self.note
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

        self.callbacks["users"] = slow
        self.reloader.startService()
        self.addCleanup(self.reloader.stopService)
        for _ in range(3):
            self.reloader.reload()
        self.assertEqual(len(waiting), 1)
        waiting[0].callback(None)
        self.assertEqual(len(waiting), 2)
        waiting[1].callback(None)
        self.assertEqual(len(waiting), 2)

    def test_stopping_does_not_wait_for_a_reload_that_hangs(self) -> None:
        """Stopping does not wait for a reload that hangs."""
        self.callbacks["users"] = Deferred
        self.reloader.startService()
        self.reloader.reload()
        stopped = self.reloader.stopService()
        assert stopped is not None
        self.successResultOf(stopped)
        self.assertEqual(self.calls, [])
