"""
Start the process of the next evaluation before it is requested.

A Nix process takes about as long to start as to evaluate a few packages.  One idle process
is kept for the package set that was used last: it has read its settings, opened the
store and checked that the package set exists, and reads none of it until it gets a request.

Only its successful results are used.  After any failure, the same request is evaluated by a
new process, whose errors are reported.
"""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from nixery.errors import NixeryError, UnexpectedOutput
from nixery.nix.context import NixContext
from nixery.process.interactive import InteractiveProcess
from nixery.process.spawner import Command, Spawner
from nixery.runtime.deferreds import gather

__all__ = ["MAX_AGE_SECONDS", "START_DELAY_SECONDS", "PrewarmedEvaluator", "IdleEvaluator"]

START_DELAY_SECONDS = 1.0
"""
Seconds between an evaluation and the start of the next process: until then, the processors
are needed for the image that is being made, and for other requests.
"""

MAX_AGE_SECONDS = 300.0
"""
Seconds after which an unused process is replaced: Nix reads its settings and the current
time when it starts.
"""

_END_REQUEST = b"{ found = null; }\n"


@define(eq=False)
class PrewarmedEvaluator:
    """
    Keeps one idle evaluator process ready.

    :param context: the processes run in it.
    """

    _context: NixContext

    _command: Command | None = field(default=None, init=False)
    _idle: IdleEvaluator | None = field(default=None, init=False)
    _next_start: IDelayedCall | None = field(default=None, init=False)
    _running: set[IdleEvaluator] = field(factory=set, init=False)

    def prewarm_evaluation(self, command: Command, delay: float = START_DELAY_SECONDS) -> None:
        """
        Keep a process ready for a command, in place of any other.

        :param command: a command of :func:`nixery.nix.resolve_arguments.prewarm`.
        :param delay: seconds from now.
        """
        if self._is_ready(command):
            return
        self._end_idle()
        self._command = command
        self._start_in(delay)

    def take(self, command: Command) -> IdleEvaluator | None:
        """Hand over the process that waits for a command, if there is one."""
        if not self._is_ready(command):
            return None
        process, self._idle = self._idle, None
        self._cancel_next_start()
        return process

    async def stop(self) -> None:
        """Stop all processes, and wait until they have ended."""
        self._cancel_next_start()
        self._idle = None
        running = tuple(self._running)
        for process in running:
            process.kill()
        await gather(process.wait_until_exited() for process in running)

    def _is_ready(self, command: Command) -> bool:
        return (
            self._idle is not None
            and not self._idle.has_exited
            and self._command is not None
            and self._command.argv == command.argv
        )

    def _start_in(self, delay: float) -> None:
        self._cancel_next_start()
        self._next_start = self._context.clock.callLater(delay, self._start)

    def _start(self) -> None:
        self._end_idle()
        if self._command is not None:
            process = self._idle = IdleEvaluator(self._context.spawner, self._command)
            self._running.add(process)
            process.start(lambda: self._running.discard(process))
            self._start_in(MAX_AGE_SECONDS)

    def _end_idle(self) -> None:
        process, self._idle = self._idle, None
        if process is not None:
            process.send(_END_REQUEST)
            process.close_stdin()

    def _cancel_next_start(self) -> None:
        if self._next_start is not None and self._next_start.active():
            self._next_start.cancel()
        self._next_start = None


class IdleEvaluator(InteractiveProcess):
    """A process that waits for one request."""

    def __init__(self, spawner: Spawner, command: Command) -> None:
        super().__init__(spawner, command)
        self._output = bytearray()
        self._fault: NixeryError | None = None

    async def evaluate(self, request: bytes) -> bytes:
        """
        Send the request, and wait for the result.

        Cancelling stops the process, and takes effect when it has ended.

        :return: the output of the process.
        :raises NixeryError: the process failed.
        """
        self.send(request)
        self.close_stdin()
        try:
            await self.wait_until_exited()
        except CancelledError:
            self.kill()
            await self.wait_until_exited()
            raise
        if self._fault is not None:
            raise self._fault
        return bytes(self._output)

    def data_received(self, data: bytes) -> None:
        self._output += data

    def exited(self, outcome: object) -> None:
        if isinstance(outcome, Failure):
            error = outcome.value
            self._fault = error if isinstance(error, NixeryError) else _stopped()


def _stopped() -> UnexpectedOutput:
    return UnexpectedOutput(what="the end of an evaluation", excerpt="it was stopped")
