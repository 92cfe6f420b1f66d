"""
The next evaluation, started before anybody asks for it.

Starting takes a Nix process about as long as evaluating a few packages does.  One process
stands by, for the package set that was used last: it has read its settings, opened the
store and looked whether the package set is there, and reads nothing of it until it is asked.

Only what it answers well counts.  Whatever else becomes of it is no news: the same
question is put to a process of its own, whose words are then told.
"""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from nixery.errors import NixeryError, UnexpectedOutput
from nixery.process.interactive import InteractiveProcess
from nixery.process.spawner import Command, Spawner
from nixery.runtime.deferreds import gather

__all__ = ["AGE", "IDLE", "PrewarmedEvaluator", "IdleEvaluator"]

IDLE = 1.0
"""
Seconds after an evaluation before the next process is started: the processors belong to
the image that is being made, and to those who ask for more.
"""

AGE = 300.0
"""
Seconds after which a process is replaced that was not used: Nix's settings are read, and
the time of day is taken, when it starts.
"""

_DISMISSAL = b"{ found = null; }\n"


@define(kw_only=True, eq=False)
class PrewarmedEvaluator:
    """
    Keeps one process ready.

    :param spawner: runs the processes.
    :param clock: measures how long they wait.
    """

    spawner: Spawner
    clock: IReactorTime

    _expected: Command | None = field(default=None, init=False)
    _waiting: IdleEvaluator | None = field(default=None, init=False)
    _next: IDelayedCall | None = field(default=None, init=False)
    _running: set[IdleEvaluator] = field(factory=set, init=False)

    def expect(self, command: Command, delay: float = IDLE) -> None:
        """
        Have a process ready for a command, in place of any other.

        :param command: as :func:`nixery.nix.resolve_arguments.stand_by` has it.
        :param delay: seconds from now.
        """
        if self._is_ready(command):
            return
        self._dismiss()
        self._expected = command
        self._start_in(delay)

    def take(self, command: Command) -> IdleEvaluator | None:
        """The process that waits for a command, if there is one; it is the caller's now."""
        if not self._is_ready(command):
            return None
        waiting, self._waiting = self._waiting, None
        self._forget_next()
        return waiting

    async def stop(self) -> None:
        """Let no process wait any more, and wait until none is there."""
        self._forget_next()
        self._waiting = None
        running = tuple(self._running)
        for waiting in running:
            waiting.kill()
        await gather(waiting.ended() for waiting in running)

    def _is_ready(self, command: Command) -> bool:
        return (
            self._waiting is not None
            and not self._waiting.over
            and self._expected is not None
            and self._expected.argv == command.argv
        )

    def _start_in(self, delay: float) -> None:
        self._forget_next()
        self._next = self.clock.callLater(delay, self._start)

    def _start(self) -> None:
        self._dismiss()
        if self._expected is not None:
            waiting = self._waiting = IdleEvaluator(self.spawner, self._expected)
            self._running.add(waiting)
            waiting.start(lambda: self._running.discard(waiting))
            self._start_in(AGE)

    def _dismiss(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.send(_DISMISSAL)
            waiting.end()

    def _forget_next(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None


class IdleEvaluator(InteractiveProcess):
    """A process that waits for one question."""

    def __init__(self, spawner: Spawner, command: Command) -> None:
        super().__init__(spawner, command)
        self._printed = bytearray()
        self._fault: NixeryError | None = None

    async def ask(self, question: bytes) -> bytes:
        """
        Put the question.

        Cancelling stops the process, and takes effect when it has ended.

        :return: all that it has printed.
        :raises NixeryError: it did not end well.
        """
        self.send(question)
        self.end()
        try:
            await self.ended()
        except CancelledError:
            self.kill()
            await self.ended()
            raise
        if self._fault is not None:
            raise self._fault
        return bytes(self._printed)

    def heard(self, data: bytes) -> None:
        self._printed += data

    def left(self, outcome: object) -> None:
        if isinstance(outcome, Failure):
            error = outcome.value
            self._fault = error if isinstance(error, NixeryError) else _stopped()


def _stopped() -> UnexpectedOutput:
    return UnexpectedOutput(what="the end of an evaluation", excerpt="it was stopped")
