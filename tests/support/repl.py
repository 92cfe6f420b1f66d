"""A ``nix repl`` that a test plays."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred

from nixery.process.spawner import Command, ProcessResult
from tests.support.nix import literals

__all__ = ["FakeRepl", "FakeReplSpawner", "asked_names", "printed_string"]

_NAMES = re.compile(r"\(lookup \{ names = (?P<names>\".*\"); guard = \"true\"; \}\)\.found")


def printed_string(text: str, *, newer: bool = False) -> bytes:
    """
    Print a string as ``nix repl`` does.

    :param newer: as versions do that escape what begins an antiquotation.
    """
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    inside = "".join(escapes.get(char, char) for char in text)
    if newer:
        inside = inside.replace("${", "\\${")
    return f'\x1b[35;1m"{inside}"\x1b[0m\n'.encode(errors="surrogateescape")


def asked_names(expression: str) -> tuple[str, ...]:
    """Return the names that a look-up asks for."""
    found = _NAMES.fullmatch(expression)
    assert found is not None, expression
    _, [names] = literals(found["names"])
    return tuple(item["name"] for item in json.loads(names))


@define(eq=False)
class FakeRepl:
    """
    A child process that is told expressions, and prints what the test wants.

    It answers by itself what is no look-up, and the end of each question.

    :ivar bound: the lines that are no questions.
    :ivar asked: the look-ups, in order.
    :ivar piece_bytes: the most bytes that the other side reads at once.
    :ivar on_look_up: answers a look-up; the default leaves it to the test.
    """

    command: Command
    on_look_up: Callable[[FakeRepl, str], None] | None = None
    understands: bool = True
    pid: int | None = None
    piece_bytes: int = 65536
    bound: list[str] = field(factory=list)
    asked: list[str] = field(factory=list)
    stdin_closed: bool = False
    killed: bool = False
    result: Deferred[ProcessResult] = field(factory=Deferred)
    _heard: bytes = b""
    _token: str = ""

    @property
    def ended(self) -> bool:
        return self.result.called or self.killed

    def write(self, data: bytes, /) -> None:
        assert not self.stdin_closed
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            self._read(line.decode(errors="surrogateescape"))

    def closeStdin(self) -> None:  # noqa: N802  # Twisted's name
        self.stdin_closed = True
        if not self._token:
            self.exit()

    def answer(self, text: str | None) -> None:
        """
        Answer the look-up.

        :param text: the JSON; ``None`` for an error, which is printed elsewhere.
        """
        token, self._token = self._token, ""
        assert token
        if text is not None:
            self.print(printed_string(f"{token}:{text}"), b"\n")
        self.print(f'nix-repl> "{token[:32]}" + "{token[32:]}."\n'.encode())
        self.print(printed_string(f"{token}."), b"\nnix-repl> ")
        if self.stdin_closed:
            self.exit()

    def print(self, *data: bytes) -> None:
        assert self.command.stdio_handler is not None
        for each in data:
            for start in range(0, len(each), self.piece_bytes):
                self.command.stdio_handler.data_received(each[start : start + self.piece_bytes])

    def exit(self, error: Exception | None = None) -> None:
        if not self.result.called:
            if error is not None:
                self.result.errback(error)
            else:
                self.result.callback(ProcessResult(stdout=b"", stderr=""))

    def _read(self, line: str) -> None:
        question = re.fullmatch(r'"([0-9a-f]{32})" \+ "(\d+):" \+ builtins\.toJSON \((.*)\)', line)
        if question is None:
            if not re.fullmatch(r'"[0-9a-f]{32}" \+ "\d+\."', line):
                self.bound.append(line)
            return
        mark, number, expression = question.groups()
        self.print(f"nix-repl> {line}\n".encode(errors="surrogateescape"))
        self._token = mark + number
        if expression.startswith('"'):
            _, [text, *_] = literals(expression)
            self.answer(json.dumps(text) if self.understands else "null")
            return
        self.asked.append(expression)
        if self.on_look_up is not None:
            self.on_look_up(self, expression)


@define(eq=False)
class FakeReplSpawner:
    """
    Implements :class:`nixery.process.spawner.Spawner` for ``nix repl``.

    :ivar repls: in the order in which they were started.
    :ivar understands: whether new ones answer as they should.
    """

    repls: list[FakeRepl] = field(factory=list)
    on_look_up: Callable[[FakeRepl, str], None] | None = None
    understands: bool = True
    failure: Exception | None = None
    pid: int | None = None

    async def run(self, command: Command) -> ProcessResult:
        if self.failure is not None:
            raise self.failure
        assert command.stdio_handler is not None
        repl = FakeRepl(command, self.on_look_up, self.understands, self.pid)
        self.repls.append(repl)
        command.stdio_handler.started(repl)
        try:
            return await repl.result
        except CancelledError:
            repl.killed = True
            raise
