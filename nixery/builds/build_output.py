"""
Keep what the derivations of a build print: the newest lines in memory, older ones in a file.

Each line has a number, counted from 0 over the whole build, the time at which it came, and the
derivation that printed it.  Derivations are built side by side, so that their lines alternate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

from attrs import define, field

from nixery.builds.output_file import OutputFile
from nixery.builds.views import DerivationState, DerivationView, LogPart

__all__ = ["BuildOutput"]

MAX_LOG_LINES = 1000
"""The number of lines of a build's log that are kept in memory."""

MAX_LOG_CHARACTERS = 256 * 1024
"""The number of characters of a build's log that are kept in memory."""

LINES_AT_ONCE = 500
"""The number of lines that are moved to the file together."""

MAX_DERIVATIONS = 4000
"""The number of derivations that are told apart; lines of further ones belong to none."""

MAX_VIEWED = 50
"""The most derivations in the view of a build."""


class _Line(NamedTuple):
    """
    A line.

    :param seconds: the time since the build began.
    :param derivation: the number of its derivation; 0: it has none.
    """

    text: str
    seconds: float
    derivation: int

    def encode(self) -> bytes:
        return b"%d %d %s\n" % (
            int(self.seconds * 1000),
            self.derivation,
            self.text.replace("\n", " ").encode("utf-8", "replace"),
        )

    @classmethod
    def decode(cls, data: bytes) -> _Line:
        milliseconds, derivation, text = data.split(b" ", 2)
        return cls(text.decode("utf-8", "replace"), int(milliseconds) / 1000, int(derivation))


@define(kw_only=True, eq=False)
class _Derivation:
    """A derivation, and the numbers of the first and the last of its lines."""

    number: int
    path: str
    begun: float
    state: DerivationState = DerivationState.BUILDING
    ended: float | None = None
    lines: int = 0
    first: int = 0
    last: int = 0

    def count_line(self, number: int) -> None:
        if not self.lines:
            self.first = number
        self.lines += 1
        self.last = number

    def view(self) -> DerivationView:
        return DerivationView(
            number=self.number,
            path=self.path,
            state=self.state,
            begun=self.begun,
            ended=self.ended,
            lines=self.lines,
            first=self.first,
            last=self.last,
        )


@define(kw_only=True, eq=False)
class BuildOutput:
    """
    The output of a build, and the derivations that it is from.

    :param seconds: returns the seconds since the build began.
    :param file: gets the lines that are not kept in memory; ``None``: these are dropped.
    """

    seconds: Callable[[], float]
    file: OutputFile | None = None
    _lines: deque[_Line] = field(factory=deque, init=False)
    _size: int = field(default=0, init=False)
    # The number of the first line in memory.
    _first: int = field(default=0, init=False)
    _derivations: dict[str, _Derivation] = field(factory=dict, init=False)
    _by_number: list[_Derivation] = field(factory=list, init=False)

    @property
    def line_count(self) -> int:
        """The number of lines so far, those that are not kept any more included."""
        return self._first + len(self._lines)

    @property
    def memory_size(self) -> int:
        """The number of characters that are kept in memory."""
        return self._size

    @property
    def size(self) -> int:
        """The approximate number of bytes that are kept."""
        return self._size + (self.file.size if self.file is not None else 0)

    def begin(self, path: str) -> None:
        """Note that the build of a derivation begins, perhaps again."""
        known = self._derivations.get(path)
        if known is not None:
            known.state, known.ended = DerivationState.BUILDING, None
        elif len(self._derivations) < MAX_DERIVATIONS:
            derivation = _Derivation(
                number=len(self._derivations) + 1, path=path, begun=self.seconds()
            )
            self._derivations[path] = derivation
            self._by_number.append(derivation)

    def end(self, path: str, state: DerivationState) -> None:
        """Note that the build of a derivation has ended."""
        known = self._derivations.get(path)
        if known is not None and known.ended is None:
            known.state, known.ended = state, self.seconds()

    def finish(self, failed: str | None) -> None:
        """
        Note that the build has ended.

        :param failed: the derivation for whose failure it has.
        """
        for path, derivation in self._derivations.items():
            self.end(path, DerivationState.STOPPED)
            if path == failed:
                derivation.state = DerivationState.FAILED

    def add(self, text: str, path: str) -> None:
        """
        Add a line.

        :param path: of the derivation that printed it; empty: none did.
        """
        derivation = self._derivations.get(path)
        if derivation is not None:
            derivation.count_line(self.line_count)
        number = 0 if derivation is None else derivation.number
        self._lines.append(_Line(text, self.seconds(), number))
        self._size += len(text) + 1
        while len(self._lines) > MAX_LOG_LINES or self._size > MAX_LOG_CHARACTERS:
            # Without a file no more than necessary is dropped.
            self._move(1 if self.file is None else min(LINES_AT_ONCE, len(self._lines)))

    def tail(self, after: int, limit: int) -> LogPart:
        """Return lines from number ``after`` on, or from the first in memory."""
        skipped = max(after - self._first, 0)
        return _part(self._first + skipped, islice(self._lines, skipped, skipped + limit))

    async def read(self, after: int, limit: int) -> LogPart:
        """Return lines from number ``after`` on, or from the first that is kept."""
        if self.file is not None and after < self._first:
            first, found = await self.file.read(after)
            if found:
                lines = list(map(_Line.decode, found[:limit]))
                # Blocks follow each other, but for lines that were dropped.
                while len(lines) < limit:
                    begin, found = await self.file.read(first + len(lines))
                    if not found or begin != first + len(lines):
                        break
                    lines += map(_Line.decode, found[: limit - len(lines)])
                after = first + len(lines)
                if len(lines) < limit and after >= self._first:
                    rest = islice(self._lines, after - self._first, None)
                    lines += islice(rest, limit - len(lines))
                return _part(first, lines)
        return self.tail(after, limit)

    def derivations(self, numbers: Iterable[int] | None = None) -> tuple[DerivationView, ...]:
        """
        Return derivations, in the order in which their builds began.

        :param numbers: their numbers, of which 0 is none; ``None``: all of them.
        """
        if numbers is None:
            return tuple(each.view() for each in self._by_number)
        return tuple(self._by_number[each - 1].view() for each in sorted({*numbers} - {0}))

    def main_derivations(self) -> tuple[DerivationView, ...]:
        """Return the derivations whose builds have failed, and those that are being built."""
        chosen = [
            each
            for state in (DerivationState.FAILED, DerivationState.BUILDING)
            for each in self._derivations.values()
            if each.state is state
        ]
        return tuple(each.view() for each in chosen[:MAX_VIEWED])

    def discard_memory(self) -> None:
        """Drop the lines that are in memory, and keep their number."""
        self._move(len(self._lines))

    def discard(self) -> None:
        """Drop all lines."""
        if self.file is not None:
            self.file.discard()
            self.file = None
        self.discard_memory()

    def _move(self, count: int) -> None:
        """Move the oldest lines to the file; drop them if there is none."""
        first = self._first
        lines = [self._take_oldest() for _ in range(count)]
        if self.file is not None:
            self.file.append(first, [line.encode() for line in lines])

    def _take_oldest(self) -> _Line:
        line = self._lines.popleft()
        self._size -= len(line.text) + 1
        self._first += 1
        return line


def _part(first: int, lines: islice[_Line] | list[_Line]) -> LogPart:
    kept = tuple(lines)
    return LogPart(
        first=first,
        lines=tuple(line.text for line in kept),
        seconds=tuple(line.seconds for line in kept),
        derivations=tuple(line.derivation for line in kept),
    )
