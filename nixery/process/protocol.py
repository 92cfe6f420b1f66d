"""
Twisted process protocol of one child.

It forwards and records events, and decides nothing: :mod:`nixery.process.spawner` decides
when a child is stopped and turns its exit into a result or an error.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from twisted.internet.process import Process

__all__ = ["ChildProtocol", "StdioHandler", "Exit", "Stdin"]

STDERR_TAIL_BYTES = 16 * 1024
"""Bytes of a child's standard error that are kept for error reports."""

MAX_LINE_BYTES = 1024 * 1024
"""Maximum length of a line of standard error, in bytes; longer ones are cut."""


@frozen(kw_only=True)
class Exit:
    """
    The exit status or the signal with which a child ended.

    :param status: its exit status, ``None`` when a signal ended it.
    :param signal: the signal that ended it, if one did.
    """

    status: int | None
    signal: int | None = None


class Stdin(Protocol):
    """
    The standard input of a child; data written after the child has ended is dropped.

    :ivar pid: the process id of the child, ``None`` once it has ended.
    """

    pid: int | None

    def write(self, data: bytes, /) -> None:
        """Send ``data``, in order, as soon as the child reads it."""

    def closeStdin(self) -> None:  # noqa: N802  # Twisted's name
        """Close it after all written data has been sent."""


class StdioHandler(Protocol):
    """Writes to and reads from a child while it runs.  Called on the reactor thread."""

    def started(self, stdin: Stdin, /) -> None:
        """Take the standard input of a child that has been started."""

    def data_received(self, data: bytes, /) -> None:
        """Take the next bytes of its standard output, split at arbitrary places."""


class ChildProtocol(ProcessProtocol):
    """
    Records the events of one child, and fires the Deferreds that wait for its end.

    :param name: the program, for the log.
    :param stdout_limit: the most bytes of standard output that are kept; if there are
        more, none are kept.
    :param on_stderr_line: called with each line of standard error.
    :param stdio_handler: gets the standard input and the standard output; without one, the input
        is closed and the output is kept.
    """

    _log = Logger()

    def __init__(
        self,
        name: str,
        stdout_limit: int,
        on_stderr_line: Callable[[bytes], None] | None,
        stdio_handler: StdioHandler | None = None,
    ) -> None:
        self._name = name
        self._stdout_limit = stdout_limit
        self._on_stderr_line = on_stderr_line
        self._stdio_handler = stdio_handler
        self._pid: int | None = None
        self._exit: Exit | None = None
        self._exit_waiters: list[Deferred[Exit]] = []
        self._stderr_tail = bytearray()
        self._stderr_line = bytearray()
        self._stdout_bytes = 0
        self.stdout: list[bytes] = []
        self.timed_out = False
        self.on_overflow: Callable[[], None] = _do_nothing
        self.on_exit: Callable[[], None] = _do_nothing

    @property
    def overflowed(self) -> bool:
        return self._stdout_bytes > self._stdout_limit

    @property
    def stderr(self) -> bytes:
        return bytes(self._stderr_tail[-STDERR_TAIL_BYTES:])

    def wait_until_exited(self) -> Deferred[Exit]:
        """Return a Deferred that fires with the exit, once the child's pipes are drained."""
        waiter: Deferred[Exit] = Deferred()
        if self._exit is not None:
            waiter.callback(self._exit)
        else:
            self._exit_waiters.append(waiter)
        return waiter

    def signal(self, number: int) -> None:
        """Signal the child, and its whole process group if it already has one of its own."""
        if self._pid is None:
            return
        with suppress(ProcessLookupError):
            if os.getpgid(self._pid) == self._pid:
                _signal_group(self._pid, number)
            else:
                os.kill(self._pid, number)

    def close_pipes(self) -> None:
        """Close the pipes, which a process other than the child still holds open."""
        self._process().loseConnection()

    # -- called by Twisted ------------------------------------------------------

    def connectionMade(self) -> None:
        self._pid = self._process().pid
        if self._stdio_handler is None:
            self._process().closeStdin()
        else:
            self._stdio_handler.started(self._process())

    def outReceived(self, data: bytes) -> None:
        was_within_limit = not self.overflowed
        self._stdout_bytes += len(data)
        if not self.overflowed:
            self._handle_stdout(data)
        elif was_within_limit:
            self.stdout.clear()
            self.on_overflow()

    def errReceived(self, data: bytes) -> None:
        self._stderr_tail += data
        if len(self._stderr_tail) > 2 * STDERR_TAIL_BYTES:
            del self._stderr_tail[:-STDERR_TAIL_BYTES]
        if self._on_stderr_line is None:
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._stderr_line += line
            self._finish_stderr_line()
        self._stderr_line += rest
        if len(self._stderr_line) > MAX_LINE_BYTES:
            self._finish_stderr_line()

    def processExited(self, reason: Failure) -> None:  # noqa: ARG002  # Twisted's signature
        # Kill the remaining processes of its group: nothing else would stop them.  The
        # child was reaped just now: its PID is still that of its group, or unused.
        pid, self._pid = self._pid, None
        if pid is not None:
            _signal_group(pid, signal.SIGKILL)
        self.on_exit()

    def processEnded(self, reason: Failure) -> None:
        if self._stderr_line:
            self._finish_stderr_line()
        error = reason.value
        self._exit = (
            Exit(status=error.exitCode, signal=error.signal)
            if isinstance(error, ProcessTerminated)
            else Exit(status=0)
        )
        waiters, self._exit_waiters = self._exit_waiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(self._exit)

    def _process(self) -> Process:
        return cast("Process", self.transport)

    def _handle_stdout(self, data: bytes) -> None:
        if self._stdio_handler is None:
            self.stdout.append(data)
            return
        try:
            self._stdio_handler.data_received(data)
        except Exception:  # noqa: BLE001  # as in _end_line
            self._log.failure("a dialogue with {program} failed", program=self._name)

    def _finish_stderr_line(self) -> None:
        line, self._stderr_line = bytes(self._stderr_line), bytearray()
        try:
            if self._on_stderr_line is not None:
                self._on_stderr_line(line)
        except Exception:  # noqa: BLE001  # no listener keeps the pipe from being drained
            self._log.failure("a listener to {program} failed", program=self._name)


def _signal_group(group: int, number: int) -> None:
    """Signal a process group, unless it is our own; a group that is gone is no error."""
    if group != os.getpgrp():
        with suppress(ProcessLookupError):
            os.killpg(group, number)


def _do_nothing() -> None:
    """Do nothing; the default of a child's callbacks."""
