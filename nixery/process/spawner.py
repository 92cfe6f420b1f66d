"""
Run child processes through Twisted's process protocols, with one type of result.

There is no policy here: a command is a value with the program, its environment, its
timeout and the most it may print; a run ends in a :class:`ProcessResult` or in a typed
error with a :class:`nixery.process.errors.CommandOutput`.  Four hazards are dealt with here, once:

- A child whose output is not read blocks for ever: both pipes are always drained,
  even if the data is not used.
- Signals have to reach the children of a child too, and Twisted starts them all
  in our own process group: each is started through ``setsid`` (util-linux), and
  a group is signalled only when it is the child's own.
- A process that outlives the child may hold the pipes open: they are closed
  ``drain`` seconds after the child has ended.
- A daemon that is killed cannot stop its children, and what a build makes for a
  daemon that is gone is never cleaned up: the kernel signals the children when the
  daemon dies (``setpriv``, util-linux too; without it they run to their end).
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from attrs import field, frozen
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import ProcessProtocol

from nixery.process.errors import (
    CommandMissing,
    CommandOutput,
    OutputTooLarge,
    ProcessFailed,
    ProcessTimedOut,
)
from nixery.process.protocol import ChildProtocol, Exit, StdioHandler
from nixery.runtime.terminal import plain_text

__all__ = ["Command", "ProcessReactor", "ProcessResult", "ProcessSpawner", "Spawner"]


@frozen(kw_only=True)
class Command:
    """
    A child process to be run.

    :param argv: the program, found on the PATH of ``environment``, and its
        arguments.
    :param environment: all of its environment.
    :param timeout: seconds after which it is stopped; ``None`` for no limit.
    :param stdout_limit: the most bytes that it may print.
    :param on_stderr_line: called on the reactor thread with each line of standard
        error, without its end.
    :param parent_death_signal: the signal that it gets when this process dies before it:
        SIGTERM lets it end its own children, SIGKILL cannot be ignored.
    :param low_priority: whether it gets what others leave of the processors.
    :param stdio_handler: writes to and reads from the child while it runs; its standard output
        is then not part of the result.  Without one, its standard input is empty.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)  # it may hold access tokens
    timeout: float | None = None
    stdout_limit: int = 256 * 1024 * 1024
    on_stderr_line: Callable[[bytes], None] | None = None
    parent_death_signal: signal.Signals = signal.SIGTERM
    low_priority: bool = False
    stdio_handler: StdioHandler | None = field(default=None, repr=False)


@frozen(kw_only=True)
class ProcessResult:
    """
    The output of a child that ended with status 0.

    :param stdout: all of its standard output.
    :param stderr: the tail of its standard error, as in
        :attr:`nixery.process.errors.CommandOutput.stderr`.
    """

    stdout: bytes = field(repr=False)
    stderr: str


class Spawner(Protocol):
    """Runs children."""

    async def run(self, command: Command) -> ProcessResult:
        """
        Run a child and wait for its end.

        Cancelling stops the child, SIGTERM first and SIGKILL later, and takes
        effect when it has ended, so that nothing it uses is removed while it runs.
        Cancelling once more kills it at once.

        :raises CommandMissing: the program is not on PATH.
        :raises ProcessFailed: it ended with a signal or a status other than 0, or
            could not be started.
        :raises ProcessTimedOut: it was stopped at its deadline.
        :raises OutputTooLarge: it was stopped because it printed too much.
        """


class ProcessReactor(Protocol):
    """The part of :class:`twisted.internet.interfaces.IReactorProcess` that is used."""

    def spawnProcess(
        self,
        protocol: ProcessProtocol,
        executable: str,
        args: Sequence[str],
        env: Mapping[str, str],
        /,
        *,
        childFDs: Mapping[int, str],  # noqa: N803  # Twisted's name
    ) -> object:
        """See :class:`twisted.internet.interfaces.IReactorProcess`."""


class ProcessSpawner:
    """
    The :class:`Spawner` that runs real children.

    :param reactor: spawns them.
    :param clock: measures deadlines.
    :param kill_delay: seconds between SIGTERM and SIGKILL.
    :param drain_timeout: seconds between the end of a child and the end of its pipes.
    """

    def __init__(
        self,
        reactor: ProcessReactor,
        clock: IReactorTime,
        *,
        kill_delay: float = 5.0,
        drain_timeout: float = 5.0,
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._kill_delay = kill_delay
        self._drain_timeout = drain_timeout

    async def run(self, command: Command) -> ProcessResult:
        """See :meth:`Spawner.run`."""
        setsid = _find_program("setsid", command.environment)
        # Each of these executes the next: there is one process, our own child.
        argv = [setsid, *_parent_death_argv(command), *_priority_argv(command)]
        program = _find_program(command.argv[0], command.environment)
        child = ChildProtocol(
            command.argv[0], command.stdout_limit, command.on_stderr_line, command.stdio_handler
        )
        timers: list[IDelayedCall] = []

        def terminate() -> None:
            child.signal(signal.SIGTERM)
            timers.append(
                self._clock.callLater(self._kill_delay, lambda: child.signal(signal.SIGKILL))
            )

        def expire() -> None:
            child.timed_out = True
            terminate()

        child.on_overflow = terminate
        child.on_exit = lambda: timers.append(
            self._clock.callLater(self._drain_timeout, child.close_pipes)
        )
        try:
            self._reactor.spawnProcess(
                child,
                setsid,
                [*argv, program, *command.argv[1:]],
                dict(command.environment),
                childFDs={0: "w", 1: "r", 2: "r"},
            )
        except OSError as error:
            # No process, no memory, no descriptors, or too long an argument list.
            raise ProcessFailed(
                output=CommandOutput(argv=command.argv, stderr=f"it cannot be started: {error}")
            ) from error
        if command.timeout is not None:
            timers.append(self._clock.callLater(command.timeout, expire))
        try:
            child_exit = await child.wait_until_exited()
        except CancelledError:
            terminate()
            await _wait_until_exited(child)
            raise
        finally:
            for timer in timers:
                if timer.active():
                    timer.cancel()
        return _to_result(command, child, child_exit)


async def _wait_until_exited(child: ChildProtocol) -> None:
    """Wait for the end of a child that is being stopped; kill it when cancelled again."""
    while True:
        try:
            await child.wait_until_exited()
        except CancelledError:
            child.signal(signal.SIGKILL)
        else:
            return


def _find_program(program: str, environment: Mapping[str, str]) -> str:
    path = shutil.which(program, path=environment.get("PATH", os.defpath))
    if path is None:
        raise CommandMissing(command=program)
    return path


def _parent_death_argv(command: Command) -> tuple[str, ...]:
    """Return the argv prefix that has the kernel signal a command when its parent dies."""
    name = command.parent_death_signal.name.removeprefix("SIG")
    try:
        return (_find_program("setpriv", command.environment), "--pdeathsig", name, "--")
    except CommandMissing:
        return ()


def _priority_argv(command: Command) -> tuple[str, ...]:
    """Return the argv prefix that runs a command at the priority that it is to have."""
    if not command.low_priority:
        return ()
    try:
        nice = _find_program("nice", command.environment)
        shell = _find_program("sh", command.environment)
    except CommandMissing:
        return ()
    return (shell, "-c", _LOW_PRIORITY, nice)


# The kernel may share the processors between sessions first, and setsid has begun a new one; the
# priority of a process counts within its session only then.
_LOW_PRIORITY = '{ echo 19 >/proc/self/autogroup; } 2>/dev/null; exec "$0" -n 19 "$@"'


def _to_result(command: Command, child: ChildProtocol, child_exit: Exit) -> ProcessResult:
    """
    Convert the exit of a child into its result.

    :raises NixeryError: the child failed, expired or printed too much.
    """
    stderr = plain_text(child.stderr)
    output = CommandOutput(
        argv=command.argv, status=child_exit.status, signal=child_exit.signal, stderr=stderr
    )
    if child.overflowed:
        raise OutputTooLarge(output=output, limit=command.stdout_limit)
    if child_exit.status == 0:
        # A success counts even if the child was about to be stopped.
        return ProcessResult(stdout=b"".join(child.stdout), stderr=stderr)
    if child.timed_out and command.timeout is not None:
        raise ProcessTimedOut(output=output, seconds=command.timeout)
    raise ProcessFailed(output=output)
