"""Reports the state of the daemon to systemd: ready, busy, reloading, stopping."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from attrs import define, field

from nixery.builds.builder import Builder
from nixery.builds.tracker import BuildTracker
from nixery.config.config import Config
from nixery.runtime.startup import Component
from nixery.runtime.systemd.sd_notify import NotifySocket
from nixery.runtime.systemd.watchdog import ServiceNotifier, watchdog_interval
from nixery.runtime.workers import Workers

__all__ = ["SystemdParts"]

STOP_TIMEOUT_SECONDS = 15.0
"""Seconds that stopping may take in addition to the builds that may finish."""


@define(kw_only=True, eq=False)
class SystemdParts:
    """
    The notifications of one daemon to the service manager; none, if there is no service manager.

    :param files: the pool that must answer; otherwise watchdog pings stop.
    """

    config: Config
    files: Workers
    reactor: Any  # the global reactor, which has no type
    environ: Mapping[str, str]
    book: BuildTracker
    builder: Builder
    _doing: str = field(default="Starting", init=False)
    _notices: NotifySocket = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._notices = NotifySocket(self.environ)

    def watchdog(self) -> Component:
        """Return the component that must start first and stop last."""
        watchdog = ServiceNotifier(
            notices=self._notices,
            clock=self.reactor,
            workers=self.files,
            status=self.status,
            watchdog=watchdog_interval(self.environ, os.getpid()),
        )
        return Component(name="signs of life", start=watchdog.start, stop=watchdog.stop)

    def readiness(self) -> Component:
        """Return the component that must start last and stop first."""

        async def start() -> None:
            self._doing = ""
            self._notices.tell(READY=1, STATUS=self.status())

        async def stop() -> None:
            self._doing = "Stopping"
            extended = self.config.shutdown_timeout + STOP_TIMEOUT_SECONDS
            self._notices.tell(
                STOPPING=1, STATUS=self.status(), EXTEND_TIMEOUT_USEC=round(extended * 1e6)
            )

        return Component(name="readiness", start=start, stop=stop)

    def reloading(self, begun: bool) -> None:
        """Report that a reload has begun, or ended."""
        if self._doing:
            return  # Only a daemon that is ready may report so after a reload.
        if begun:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._notices.tell(RELOADING=1, MONOTONIC_USEC=now)
        else:
            self._notices.tell(READY=1)

    def status(self) -> str:
        """Return the status line: ``building git/htop (2 running, 1 waiting)``."""
        names = self.book.active_names()
        queues = self.builder.queues.values()
        running = sum(queue.running for queue in queues)
        waiting = sum(queue.waiting for queue in queues)
        work = f"building {names[0]} ({running} running, {waiting} waiting)" if names else ""
        return ": ".join(filter(None, [self._doing, work])) or "Serving; nothing is being built"
