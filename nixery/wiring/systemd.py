"""Reports the state of the daemon to systemd: ready, busy, reloading, stopping."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field, frozen

from nixery.builds.builder import Builder
from nixery.builds.tracker import BuildTracker
from nixery.config.declarations.builds import BuildConfig
from nixery.runtime.startup import Component
from nixery.runtime.systemd.sd_notify import NotifySocket
from nixery.runtime.systemd.watchdog import ServiceNotifier, watchdog_interval
from nixery.runtime.workers import Workers

__all__ = ["SystemdSubsystem", "make_systemd"]

STOP_TIMEOUT_SECONDS = 15.0
"""Seconds that stopping may take in addition to the builds that may finish."""


@frozen(kw_only=True)
class SystemdSubsystem:
    """
    The notifications to the service manager; none, if there is no service manager.

    :param on_reload: to be called with true when a reload begins, and with false when it has
        ended.
    :param watchdog: must start first and stop last.
    :param readiness: must start last and stop first.
    """

    on_reload: Callable[[bool], None]
    watchdog: Component
    readiness: Component


def make_systemd(
    config: BuildConfig,
    files: Workers,
    reactor: Any,  # the global reactor, which has no type
    environ: Mapping[str, str],
    *,
    builder: Builder,
    tracker: BuildTracker,
) -> SystemdSubsystem:
    """
    Make the notifications.

    :param files: the pool that must answer; otherwise watchdog pings stop.
    :param environ: the environment of this process, which names the service manager's socket.
    """
    socket = NotifySocket(environ)
    status = DaemonStatus(
        socket=socket,
        builder=builder,
        tracker=tracker,
        stop_timeout=config.shutdown_timeout + STOP_TIMEOUT_SECONDS,
    )
    notifier = ServiceNotifier(
        notices=socket,
        clock=reactor,
        workers=files,
        status=status.line,
        watchdog=watchdog_interval(environ, os.getpid()),
    )
    return SystemdSubsystem(
        on_reload=status.reloading,
        watchdog=Component(name="watchdog", start=notifier.start, stop=notifier.stop),
        readiness=Component(name="readiness", start=status.ready, stop=status.stopping),
    )


@define(kw_only=True, eq=False)
class DaemonStatus:
    """
    The status of the daemon, as the service manager shows it.

    :param socket: sends it.
    :param stop_timeout: seconds that stopping may take.
    """

    socket: NotifySocket
    builder: Builder
    tracker: BuildTracker
    stop_timeout: float
    _phase: str = field(default="Starting", init=False)

    def line(self) -> str:
        """Return the status line: ``building git/htop (2 running, 1 waiting)``."""
        names = self.tracker.active_names()
        queues = self.builder.queues.values()
        running = sum(queue.running for queue in queues)
        waiting = sum(queue.waiting for queue in queues)
        work = f"building {names[0]} ({running} running, {waiting} waiting)" if names else ""
        return ": ".join(filter(None, [self._phase, work])) or "Serving; nothing is being built"

    async def ready(self) -> None:
        """Report that the daemon is ready."""
        self._phase = ""
        self.socket.notify(READY=1, STATUS=self.line())

    async def stopping(self) -> None:
        """Report that the daemon stops."""
        self._phase = "Stopping"
        self.socket.notify(
            STOPPING=1,
            STATUS=self.line(),
            EXTEND_TIMEOUT_USEC=round(self.stop_timeout * 1e6),
        )

    def reloading(self, begun: bool) -> None:
        """Report that a reload has begun, or ended."""
        if self._phase:
            return  # Only a daemon that is ready may report so after a reload.
        if begun:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self.socket.notify(RELOADING=1, MONOTONIC_USEC=now)
        else:
            self.socket.notify(READY=1)
