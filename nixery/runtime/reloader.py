"""
Handles SIGHUP: look at files that may have changed without a restart, or end the process.

Each callback reloads files of one component. If a changed file cannot be used, the log says so and
the values of before stay in force: an editing mistake does not end a running daemon.

The signal has two meanings: it asks a daemon to reload, and it tells a program in a terminal that
the terminal was closed. :func:`hangup_ends` tells them apart.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from types import FrameType
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

from nixery.errors import NixeryError

__all__ = ["Reloader", "hangup_ends"]

_STDIN = 0


def hangup_ends() -> bool:
    """
    Tell whether SIGHUP means that this process has lost its terminal, and is to end.

    It means that only if standard input is the process's controlling terminal, the process is in
    that terminal's foreground group, it is not process 1 (a container's, which has the terminal of
    ``docker run -it``), and the signal is not ignored, as by ``nohup``. Must be called before a
    handler is set.
    """
    if os.getpid() == 1 or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return False
    try:
        # Fails if stdin is no terminal, and if the terminal is not the controlling one.
        return os.tcgetpgrp(_STDIN) == os.getpgrp()
    except OSError:
        return False


class Reloader(Service):
    """
    Calls the callbacks, one after the other, when the process gets the signal.

    All signals that come meanwhile cause one more round. In the foreground of a terminal the signal
    ends the process instead.

    :param reactor: runs the callbacks on its thread; a signal can come at any moment.
    :param end: begins to end the process in good order.
    :param callbacks: by the names of what they reload, for the log: ``passwords``.  One that fails
        must leave the values of before in force.
    :param on_reload: called with true when a reload begins, and with false when it has ended.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorFromThreads,
        end: Callable[[], None],
        callbacks: Mapping[str, Callable[[], Awaitable[object]]],
        on_reload: Callable[[bool], None] = lambda _begun: None,
    ) -> None:
        self._reactor = reactor
        self._end = end
        self._hung_up = False
        self._callbacks = callbacks
        self._on_reload = on_reload
        self._running: Deferred[None] | None = None
        self._again = False
        # Any: signal.signal() returns a handler, or a number that means one.
        self._before: Any = None

    def startService(self) -> None:
        """Set the signal handler; must be called on the main thread."""
        super().startService()
        if hangup_ends():
            self._before = signal.signal(signal.SIGHUP, self._hangup_signalled)
            self._log.info(
                "Closing the terminal (SIGHUP) stops the registry: it runs in the foreground."
            )
        else:
            self._before = signal.signal(signal.SIGHUP, self._signalled)
            self._log.info("SIGHUP reloads: {what}.", what=", ".join(self._callbacks) or "nothing")

    def stopService(self) -> Deferred[None] | None:
        """Remove the signal handler; fires when no reload is running any more."""
        super().stopService()
        if self._before is not None:
            # The kernel and the shell both send it when a terminal is closed: the second one
            # must not cut short what the first one began.
            signal.signal(signal.SIGHUP, signal.SIG_IGN if self._hung_up else self._before)
            self._before = None
        self._again = False
        running = self._running
        if running is not None:
            running.cancel()
        return running

    def reload(self) -> None:
        """Run all callbacks again; returns at once."""
        if self._running is not None:
            self._again = True
            return
        self._on_reload(True)
        running = self._running = Deferred.fromCoroutine(self._reload())
        running.addBoth(self._ended)

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self._reactor.callFromThread(self.reload)

    def _hangup_signalled(self, _number: int, _frame: FrameType | None) -> None:
        if not self._hung_up:
            self._hung_up = True
            self._reactor.callFromThread(self._end_process)

    def _end_process(self) -> None:
        self._log.info("The terminal was closed, or SIGHUP was sent: shutting down.")
        # The process may be ending already, for another reason.
        with contextlib.suppress(ReactorNotRunning):
            self._end()

    async def _reload(self) -> None:
        self._log.info("Reloading: {what}.", what=", ".join(self._callbacks) or "nothing")
        for what, callback in self._callbacks.items():
            try:
                await callback()
            except CancelledError:
                return
            except NixeryError as error:
                self._log.error(
                    "Cannot reload the {what}; the previous values stay in use: {reason}",
                    what=what,
                    reason=error.message,
                )
            except Exception:  # noqa: BLE001  # a part may fail in any way
                self._log.failure(
                    "Cannot reload the {what}; the previous values stay in use.", what=what
                )
            else:
                self._log.info("Reloaded: {what}.", what=what)

    def _ended(self, _result: object) -> None:
        self._running = None
        self._on_reload(False)
        if self._again and self.running:
            self._again = False
            self.reload()
