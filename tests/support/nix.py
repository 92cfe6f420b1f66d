"""FakeSpawner that a test plays, and the strings of the Nix language as Nix reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from nixery.nix.arguments import NixSettings
from nixery.nix.context import NixContext
from nixery.process.errors import CommandMissing
from nixery.process.spawner import Command, ProcessResult, Spawner
from nixery.testing.fakes import InlineWorkers


@define(eq=False)
class FakeProcess:
    """A child process whose output the test writes."""

    command: Command
    stdin: bytes = b""
    stdin_closed: bool = False
    stopped: bool = False
    exit_delay: Deferred[None] | None = None
    pid: int | None = None
    result: Deferred[ProcessResult] = field(factory=Deferred)

    def write(self, data: bytes, /) -> None:
        self.stdin += data

    def closeStdin(self) -> None:  # noqa: N802  # Twisted's name
        self.stdin_closed = True

    def print(self, *data: bytes) -> None:
        assert self.command.stdio_handler is not None
        for each in data:
            self.command.stdio_handler.data_received(each)

    def exit(self, stdout: bytes = b"") -> None:
        self.result.callback(ProcessResult(stdout=stdout, stderr=""))


@define(eq=False)
class FakeSpawner:
    """Implements :class:`nixery.process.spawner.Spawner`."""

    processes: list[FakeProcess] = field(factory=list)
    missing: bool = False

    async def run(self, command: Command) -> ProcessResult:
        if self.missing:
            raise CommandMissing(command=command.argv[0])
        child = FakeProcess(command)
        self.processes.append(child)
        if command.stdio_handler is not None:
            command.stdio_handler.started(child)
        try:
            return await child.result
        except CancelledError:
            child.stopped = True
            if child.exit_delay is not None:
                await child.exit_delay
            raise


def literals(expression: str) -> tuple[str, list[str]]:
    """
    Take the double-quoted strings out of an expression, as Nix's lexer does.

    :return: the expression with empty strings in their places, and what each string
        means, in order.
    :raises AssertionError: a string is not closed, or has something evaluated in it.
    """
    around, values = "", []
    rest = iter(expression)
    for char in rest:
        around += char
        if char == '"':
            values.append(_literal(rest))
            around += '"'
    return around, values


def _literal(rest: Iterator[str]) -> str:
    value, before = "", ""
    for char in rest:
        if char == '"':
            return value
        if char == "\\":
            escaped = next(rest, None)
            assert escaped is not None, "a string ends within an escape"
            value += {"n": "\n", "r": "\r", "t": "\t"}.get(escaped, escaped)
            before = ""
            continue
        assert before + char != "${", "a string has something evaluated in it"
        # An end of line is one character, however it is written.
        if char == "\r":
            value += "\n"
        elif before + char != "\r\n":
            value += char
        before = char
    raise AssertionError("a string is not closed")


def nix_context(spawner: Spawner, clock: Clock) -> NixContext:
    """Make a context without an environment, whose directories do not exist."""
    return NixContext(
        spawner=spawner,
        clock=clock,
        workers=InlineWorkers(),
        settings=NixSettings(state_directory=Path("/state"), home=Path("/home")),
        environ={},
    )
