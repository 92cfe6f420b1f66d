"""
Evaluate expressions one after the other in a ``nix repl``, which keeps all that it has evaluated.

The output of a ``nix repl`` is made for people: it echoes what it reads, colours strings, and
prints errors elsewhere.  So each question is two lines that print strings,

    "MARK" + "7:" + builtins.toJSON (EXPRESSION)
    "MARK" + "7."

where MARK is random.  The echo does not have ``MARK7:``, and neither can a package set, which
cannot know the mark.  The second line is answered even if the first one fails.  Both are
expressions that end with their line, for the repl would wait for the rest of one that does not.

Nothing that is not understood is guessed at: the caller asks in another way.
"""

from __future__ import annotations

import re
from signal import SIGKILL
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nixery.errors import NixeryError, UnexpectedOutput
from nixery.process.interactive import InteractiveProcess
from nixery.process.spawner import Command, Spawner

__all__ = ["MAX_ANSWER_BYTES", "Repl", "parse_string"]

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""The most bytes that may be printed for one question; the names of nixpkgs are 0.5 MB."""

# All that is escaped in JSON, in strings of the Nix language, or in what some version prints, and
# what is empty only if evaluation is restricted.
_CHECK = r'"quote \" backslash \\ dollar \${ end \n \r \t" + builtins.getEnv "HOME"'
_CHECK_AS_JSON = rb'"quote \" backslash \\ dollar ${ end \n \r \t"'

# JSON has no control characters, which alone are escaped by a letter.
_ESCAPE = re.compile(rb"\\(.)")


class Repl(InteractiveProcess):
    """
    One ``nix repl``, which is asked one question at a time.

    :param command: a ``nix repl`` with its options.
    """

    def __init__(self, spawner: Spawner, command: Command) -> None:
        super().__init__(spawner, command)
        self._mark = uuid4().hex
        self._count = 0
        self._buffer = bytearray()
        self._answer: Deferred[bytes | None] | None = None
        self._fault: NixeryError = UnexpectedOutput(what="the end of nix repl", excerpt="it ended")

    async def check(self) -> None:
        """
        Check that this is a repl whose answers are understood, and which is restricted.

        :raises NixeryError: it has ended, or answers otherwise.
        """
        printed = await self.ask(_CHECK)
        if printed is None or parse_string(printed) != _CHECK_AS_JSON:
            raise UnexpectedOutput(what="an answer of nix repl", excerpt=repr(printed)[:400])

    def bind(self, line: str) -> None:
        """
        Bind a name, before anything is asked.

        :param line: ``name = expression``; it is not evaluated yet.
        """
        self._send_lines(line)

    async def ask(self, expression: str) -> bytes | None:
        """
        Evaluate an expression in full.

        A question that was cancelled leaves a process that cannot be asked again: kill it.

        :param expression: within one line.
        :return: its JSON as it was printed, for :func:`parse_string`; ``None`` if an error was
            printed instead.
        :raises NixeryError: the process has ended, or printed too much.
        """
        if self.has_exited:
            raise self._fault
        self._count += 1
        self._buffer.clear()
        self._answer = Deferred()
        self._send_lines(
            f'"{self._mark}" + "{self._count}:" + builtins.toJSON ({expression})',
            f'"{self._mark}" + "{self._count}."',
        )
        return await self._answer

    def kill(self) -> None:
        # One that waits for input ends with it, and ignores SIGTERM.
        self.close_stdin()
        super().kill()
        if self._command.parent_death_signal is SIGKILL:
            super().kill()

    def data_received(self, data: bytes) -> None:
        end = self._token(".")
        # The end may be split between two pieces.
        searched = max(0, len(self._buffer) - len(end))
        self._buffer += data
        if self._answer is None or self._answer.called:
            self._buffer.clear()
        elif len(self._buffer) > MAX_ANSWER_BYTES:
            self._fail(UnexpectedOutput(what="an answer of nix repl", excerpt="too long"))
        elif self._buffer.find(end, searched) >= 0:
            _, begun, rest = self._buffer.partition(self._token(":"))
            printed = bytes(rest.partition(b"\n")[0]) if begun else None
            self._buffer.clear()
            self._answer.callback(printed)

    def exited(self, outcome: object) -> None:
        # One that was cancelled was stopped on purpose, and has the default error.
        if isinstance(outcome, Failure) and isinstance(outcome.value, NixeryError):
            self._fault = outcome.value
        self._fail(self._fault)

    def _fail(self, error: NixeryError) -> None:
        if self._answer is not None and not self._answer.called:
            self._answer.errback(Failure(error))

    def _token(self, end: str) -> bytes:
        return f"{self._mark}{self._count}{end}".encode()

    def _send_lines(self, *lines: str) -> None:
        # The arguments of commands are encoded in the same way.
        self.send("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))


def parse_string(printed: bytes) -> bytes:
    """
    Read a string of JSON as ``nix repl`` prints it.

    This takes some ten milliseconds for the names of a large package set: call it on a worker
    thread.

    :param printed: the line of the string, behind its opening quote.
    """
    return _ESCAPE.sub(rb"\1", printed[: max(0, printed.rfind(b'"'))])
