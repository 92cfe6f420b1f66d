"""
Sends the service manager the status line and the watchdog pings while the daemon runs.

A daemon whose reactor is blocked sends nothing, and is restarted after ``WatchdogSec=``. Neither
does one whose file system has stopped answering: a ping is sent when a worker thread has returned.
This covers only the pool that waits for disks. The pool for packing may rightly be busy for as long
as its largest layers take; the deadline of the build ends a job that would block it for ever.
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

__all__ = ["STATUS_INTERVAL_SECONDS", "ServiceNotifier", "watchdog_interval"]

STATUS_INTERVAL_SECONDS = 1.0
"""Seconds between two looks at the status."""

PINGS_PER_INTERVAL = 3
"""Watchdog pings per WatchdogSec interval."""


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """
    Return the seconds within which the service manager expects a ping; ``None`` if the watchdog is
    off.
    """
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) > 0 else None


class ServiceNotifier:
    """
    Sends the service manager, every second, what has changed.

    :param notices: sends the notifications.
    :param clock: schedules them.
    :param workers: the pool that has to answer.
    :param status: returns what is being done, in one line. Takes microseconds.
    :param watchdog: the interval in seconds, as :func:`watchdog_interval` returns it.
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
        """Begin to send notifications."""
        if self._notices.is_available:
            self._beating.start(STATUS_INTERVAL_SECONDS)

    async def stop(self) -> None:
        """Stop sending notifications."""
        if self._beating.running:
            self._beating.stop()
        if self._asking is not None:
            self._asking.cancel()

    def _beat(self) -> None:
        status = self._status()
        if status != self._told:
            self._told = status
            self._notices.notify(STATUS=status)
        if self._watchdog is None:
            return
        now = self._clock.seconds()
        since = None if self._asked is None else now - self._asked
        if self._asking is None:
            if since is None or since >= self._watchdog / PINGS_PER_INTERVAL:
                self._asked = now
                self._warned = False
                asking = self._asking = Deferred.fromCoroutine(self._ask())
                asking.addBoth(self._answered)
        elif (
            since is not None and since >= self._watchdog / PINGS_PER_INTERVAL and not self._warned
        ):
            self._warned = True
            self._log.error(
                "The threads for storage have not answered for {seconds} s: the service manager"
                " will stop the daemon.",
                seconds=round(since),
            )

    async def _ask(self) -> None:
        try:
            await self._workers.run(_nothing)
        except CancelledError:
            return
        except ShuttingDown:
            pass  # The threads were stopped in good order, before this service.
        self._notices.notify(WATCHDOG=1)

    def _answered(self, _result: object) -> None:
        self._asking = None


def _nothing() -> None:
    """Do nothing; runs on a worker thread to show that the thread works."""
