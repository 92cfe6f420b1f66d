"""
Show the log of a build: in parts on its page, a fold for each derivation, and as plain text.

A log may have a million lines.  A page has :data:`LINES_PER_PAGE` of them at most, with links to
the others; the text is sent piece by piece, and no faster than the client takes it.  Numbers of
lines begin with 1 where people read them: ``#L1`` is line 0 of a
:class:`~nixery.builds.views.LogPart`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from attrs import field, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request

from nixery.builds.views import BuildView, DerivationState, DerivationView, LogPart
from nixery.http.back_pressure import BackPressure, SendLimits
from nixery.http.responses import set_headers
from nixery.http.ui.query import number

__all__ = ["LINES_PER_PAGE", "BuildLogs", "LogPage", "log_page", "part_to_show", "send_log"]

LINES_PER_PAGE = 1000
"""The most lines of a log that a page has."""

MAX_PAGE_CHARACTERS = 512 * 1024
"""The most characters of them: a page that is larger is slow on a phone."""

LINES_AT_ONCE = 1000
"""The number of lines that are read and sent together as text."""


class BuildLogs(Protocol):
    """Supplies the logs of builds."""

    async def read_log(self, build_id: str, after: int, limit: int) -> LogPart:
        """Return at most ``limit`` lines of a build's log, from number ``after`` on."""

    def derivations(
        self, build_id: str, numbers: Iterable[int] | None = None
    ) -> Sequence[DerivationView]:
        """Return derivations of a build by their numbers, or all, in the order of their begin."""


@frozen(kw_only=True)
class LogLine:
    """
    A line on the page.

    :param number: counted from 1.
    :param page: the ``after`` of the page that has the line, whatever is added to the log.
    """

    number: int
    seconds: float
    text: str

    @property
    def page(self) -> int:
        return (self.number - 1) // LINES_PER_PAGE * LINES_PER_PAGE


@frozen(kw_only=True)
class LogFold:
    """
    The lines of one derivation on the page.

    :param derivation: ``None``: the lines of none.
    :param is_open: whether they are shown at once.
    """

    derivation: DerivationView | None
    lines: list[LogLine] = field(factory=list)
    is_open: bool = True


@frozen(kw_only=True)
class LogPage:
    """
    A part of a log, as the page of a build shows it.

    :param part: the lines.
    :param total: the number of all lines, those that are not kept included.
    :param folds: the lines by derivation: those that failed first, then in the order of the lines.
    """

    part: LogPart
    total: int
    folds: tuple[LogFold, ...]

    @property
    def is_last(self) -> bool:
        """True if no line follows."""
        return self.part.after >= self.total

    @property
    def previous(self) -> int | None:
        """The ``after`` of the page before."""
        return max(self.part.first - LINES_PER_PAGE, 0) if self.part.first else None

    @property
    def following(self) -> int | None:
        """The ``after`` of the page behind."""
        return None if self.is_last else self.part.after


def part_to_show(request: Request, build: BuildView) -> int:
    """
    Return the number of the first line to show: ``after``, or else the end of what failed, or of
    the whole log.
    """
    wanted = number(request, b"after", -1)
    if wanted >= 0:
        return wanted
    failed = [each for each in build.derivations if each.state is DerivationState.FAILED]
    end = max((each.last + 1 for each in failed if each.lines), default=build.log_lines)
    return max(end - LINES_PER_PAGE, 0)


async def log_page(logs: BuildLogs, build: BuildView, after: int) -> LogPage:
    """Return the part of a build's log that begins with line ``after``."""
    part = _shortened(await logs.read_log(build.id, after, LINES_PER_PAGE))
    derivations = {each.number: each for each in logs.derivations(build.id, part.derivations)}
    folds: dict[int, LogFold] = {}
    failed = build.failure is not None
    for index, (text, seconds, origin) in enumerate(
        zip(part.lines, part.seconds, part.derivations, strict=True)
    ):
        fold = folds.get(origin)
        if fold is None:
            derivation = derivations.get(origin)
            fold = folds[origin] = LogFold(
                derivation=derivation,
                is_open=not failed
                or derivation is None
                or derivation.state is DerivationState.FAILED,
            )
        fold.lines.append(LogLine(number=part.first + index + 1, seconds=seconds, text=text))
    return LogPage(
        part=part,
        total=max(build.log_lines, part.after),
        folds=tuple(sorted(folds.values(), key=lambda fold: not _has_failed(fold))),
    )


def _has_failed(fold: LogFold) -> bool:
    return fold.derivation is not None and fold.derivation.state is DerivationState.FAILED


def _shortened(part: LogPart) -> LogPart:
    size = 0
    for count, line in enumerate(part.lines):
        size += len(line)
        if size > MAX_PAGE_CHARACTERS:
            return LogPart(
                first=part.first,
                lines=part.lines[:count],
                seconds=part.seconds[:count],
                derivations=part.derivations[:count],
            )
    return part


async def send_log(request: Request, logs: BuildLogs, build_id: str, clock: IReactorTime) -> None:
    """
    Send all lines that are kept of a build's log so far, as plain text.

    ``derivation`` in the query is the number of the derivation whose lines are sent; by default
    all are.  The caller must cancel this when the client disconnects.
    """
    wanted = number(request, b"derivation", 0)
    set_headers(
        request,
        {
            b"Content-Type": b"text/plain; charset=utf-8",
            b"Cache-Control": b"no-store",
            b"X-Content-Type-Options": b"nosniff",
        },
    )
    if request.method == b"HEAD":
        return
    back_pressure = BackPressure(request, clock, SendLimits(), lambda: None)
    request.registerProducer(back_pressure, True)
    try:
        after = 0
        while (part := await logs.read_log(build_id, after, LINES_AT_ONCE)).lines:
            lines = [
                line
                for line, origin in zip(part.lines, part.derivations, strict=True)
                if wanted in (0, origin)
            ]
            if part.first > after and not wanted:
                lines.insert(0, f"[{part.first - after} lines were not kept]")
            # In a chunked response, an empty chunk would end it.
            if lines:
                request.write("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
            after = part.after
            await back_pressure.passage()
    finally:
        back_pressure.close()
    request.unregisterProducer()
