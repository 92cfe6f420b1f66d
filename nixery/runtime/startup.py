"""
Starts and stops the components of the daemon in order.

If a Twisted service fails while it starts asynchronously, the failure is not reported, and its
siblings run on. Here the components start one after the other, each when the one before it is
ready; if a component cannot start, the log says so once and the daemon ends. They stop in the
reverse order, each when the one after it has stopped: no request comes in any more when builds are
cancelled, and no build needs a thread any more when the pools stop.
"""

from __future__ import annotations

import atexit
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence

from attrs import frozen
from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorCore
from twisted.logger import Logger

import twisted
from nixery.errors import NixeryError
from nixery.version import VERSION

__all__ = ["OrderedService", "Component", "exit_with_failure"]


async def _nothing() -> None:
    """Do nothing: the start or stop of a component that has no work there."""


@frozen(kw_only=True)
class Component:
    """
    A component that must start before the ones after it can run.

    :param name: its name in the log.
    :param start: makes it ready.  Called once per start of the daemon.
    :param stop: called if ``start`` was called, whether it succeeded or not.
    """

    name: str
    start: Callable[[], Awaitable[object]] = _nothing
    stop: Callable[[], Awaitable[object]] = _nothing

    @classmethod
    def of_service(cls, name: str, service: IService) -> Component:
        """Make a component of a Twisted service that is ready when ``startService`` returns."""

        async def start() -> None:
            service.startService()

        async def stop() -> None:
            await maybeDeferred(service.stopService)

        return cls(name=name, start=start, stop=stop)


class OrderedService(Service):
    """
    Runs all components of the daemon as one service.

    :param parts: in the order in which they start.
    :param give_up: ends the process as failed; called once, with the reason, if a component cannot
        start.
    """

    _log = Logger()

    def __init__(
        self, parts: Sequence[Component], give_up: Callable[[BaseException], None]
    ) -> None:
        self._parts = tuple(parts)
        self._give_up = give_up
        self._started: list[Component] = []
        self._starting: Deferred[None] | None = None
        self._stopping = False

    def startService(self) -> None:
        """Begin to start the components."""
        super().startService()
        self._log.info(
            "Nixery {version} starts, with Python {python} and Twisted {twisted}.",
            version=VERSION,
            python=platform.python_version(),
            twisted=twisted.__version__,
        )
        self._stopping = False
        self._starting = Deferred.fromCoroutine(self._start())

    def stopService(self) -> Deferred[None]:
        """Stop the components; fires when the last one has stopped."""
        super().stopService()
        self._stopping = True
        return Deferred.fromCoroutine(self._stop())

    async def _start(self) -> None:
        for part in self._parts:
            self._started.append(part)
            failed: Exception | None = None
            reason = ""
            try:
                await part.start()
            except CancelledError:
                return
            except NixeryError as error:
                failed, reason = error, error.message
            except Exception as error:  # noqa: BLE001  # a part may fail in any way
                failed = error
                self._log.failure("The {part} failed to start.", part=part.name)
                reason = "an unexpected error, which is logged above"
            # An error of a component that is stopped while it starts is not a fault.
            if self._stopping:
                return
            if failed is not None:
                self._log.critical("Cannot start: {reason}", reason=reason, part=part.name)
                self._give_up(failed)
                return

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await self._starting
        while self._started:
            part = self._started.pop()
            try:
                await part.stop()
            except Exception:  # noqa: BLE001
                # The components below it must stop all the same.
                self._log.failure("The {part} failed to stop.", part=part.name)


def exit_with_failure(reactor: IReactorCore, status: int) -> None:
    """
    Stop the reactor in good order, and end the process with a status that is not 0.

    twistd ends with status 0 after ``reactor.stop()``, for any reason, and catches what is raised
    inside the reactor; a service manager would take a daemon that never worked for one that has
    done its work. So the status is set when the interpreter ends: by then twistd has stopped the
    services, removed its PID file and closed its log.
    """
    atexit.register(_exit, status)
    # Services are started before the reactor runs, and it cannot be stopped yet.
    reactor.callWhenRunning(reactor.stop)


def _exit(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(status)
