"""
What the service manager is told while the daemon runs: what it is doing, and that it lives.

A reactor that stands still tells nothing, and is ended and started again after
``WatchdogSec=``.  Nor does one whose file system has stopped answering: a sign of life is
the answer of a thread that was asked for one.  That goes for the pool that waits for disks
only.  The pool for packing may rightly be busy for as long as its largest layers take; what
holds it up for ever is ended by the deadline of the build.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from nixery.errors import ShuttingDown
from nixery.runtime.systemd.sd_notify import NotifySocket
from nixery.runtime.workers import Workers

__all__ = ["BEAT", "ServiceNotifier", "watchdog_interval"]

BEAT = 1.0
"""Seconds between two looks at what there is to tell."""

SIGNS = 3
"""How many signs of life are due in the time after which the lack of them is death."""


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """
    Seconds after which the service manager wants to have heard from this process;
    ``None``: it does not care.
    """
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) > 0 else None


class ServiceNotifier:
    """
    Tells the service manager, every second, what is new.

    :param notices: tells it.
    :param clock: when.
    :param workers: the pool that has to answer.
    :param status: what is being done, in one line.  Takes microseconds.
    :param watchdog: seconds, as :func:`watchdog_interval` gives them.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        notices: NotifySocket,
        clock: IReactorTime,
        workers: Workers,
        status: Callable[[], str],
        watchdog: float | None,
    ) -> None:
        self._notices = notices
        self._clock = clock
        self._workers = workers
        self._status = status
        self._watchdog = watchdog
        self._told = ""
        self._asked: float | None = None
        self._asking: Deferred[None] | None = None
        self._warned = False
        self._beating = LoopingCall(self._beat)
        self._beating.clock = clock

    async def start(self) -> None:
        """Begin to tell."""
        if self._notices.heard:
            self._beating.start(BEAT)

    async def stop(self) -> None:
        """Fall silent."""
        if self._beating.running:
            self._beating.stop()
        if self._asking is not None:
            self._asking.cancel()

    def _beat(self) -> None:
        status = self._status()
        if status != self._told:
            self._told = status
            self._notices.tell(STATUS=status)
        if self._watchdog is None:
            return
        now = self._clock.seconds()
        since = None if self._asked is None else now - self._asked
        if self._asking is None:
            if since is None or since >= self._watchdog / SIGNS:
                self._asked = now
                self._warned = False
                asking = self._asking = Deferred.fromCoroutine(self._ask())
                asking.addBoth(self._answered)
        elif since is not None and since >= self._watchdog / SIGNS and not self._warned:
            self._warned = True
            self._log.error(
                "The threads for storage have not answered for {seconds} s: the service manager"
                " is about to end the daemon.",
                seconds=round(since),
            )

    async def _ask(self) -> None:
        try:
            await self._workers.run(_nothing)
        except CancelledError:
            return
        except ShuttingDown:
            pass  # The threads have ended in good order, before us.
        self._notices.tell(WATCHDOG=1)

    def _answered(self, _result: object) -> None:
        self._asking = None


def _nothing() -> None:
    """What a thread has to do to show that it can."""
