"""Shows the progress of a long command on standard error: a bar for people, lines for logs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Never, TextIO

from tqdm import tqdm

__all__ = ["ProgressBar", "progress_bar"]

LOG_INTERVAL_SECONDS = 10.0
"""Seconds between lines where there is no terminal."""


class ProgressBar:
    """
    Shows the progress of one operation.

    :param label: names the operation.
    :param stream: the stream that it is shown on.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param unit: the unit of the numbers; those of bytes, ``B``, are shortened.
    :param lines: whether lines are printed where there is no terminal, and the bar stays at the
        end; for commands that take hours.
    """

    def __init__(
        self,
        label: str,
        stream: TextIO,
        seconds: Callable[[], float],
        *,
        unit: str = "",
        lines: bool = False,
    ) -> None:
        self._label = label
        self._stream = stream
        self._seconds = seconds
        self._lines = lines
        self._printed_at = seconds()
        self._last: tuple[int, int] | None = None
        self._printed: tuple[int, int] | None = None
        self._bar: tqdm[Never] | None = None
        if stream.isatty():
            # It would start a thread that watches bars without updates.
            tqdm.monitor_interval = 0
            self._bar = tqdm(
                desc=label,
                file=stream,
                unit=unit,
                unit_scale=unit == "B",
                dynamic_ncols=True,
                leave=lines,
            )

    def start(self, label: str) -> None:
        """Begin another part of the operation."""
        self._label = label
        self._last = None
        if self._bar is not None:
            self._bar.set_description(label, refresh=False)
            self._bar.reset()

    def update(self, done: int, expected: int | None) -> None:
        """Show ``done`` of ``expected``, which may grow; ``None``: it is not known."""
        if expected is not None:
            self._last = (done, expected)
        if self._bar is not None:
            self._bar.total = expected
            self._bar.update(done - self._bar.n)
        elif self._lines and self._seconds() - self._printed_at >= LOG_INTERVAL_SECONDS:
            self._print()

    def advance(self, expected: int) -> None:
        """Show that one more of ``expected`` is done."""
        self.update((self._last[0] if self._last else 0) + 1, expected)

    def close(self) -> None:
        """End the display."""
        if self._bar is not None:
            self._bar.close()
        elif self._lines and self._last is not None and self._last != self._printed:
            self._print()

    def _print(self) -> None:
        if self._last is not None:
            done, expected = self._last
            self._stream.write(f"{self._label}: {done} of {expected}\n")
            self._stream.flush()
        self._printed = self._last
        self._printed_at = self._seconds()


@contextmanager
def progress_bar(label: str, *, unit: str = "", lines: bool = False) -> Iterator[ProgressBar]:
    """Show progress on standard error, as :class:`ProgressBar` does."""
    bar = ProgressBar(label, sys.stderr, monotonic, unit=unit, lines=lines)
    try:
        yield bar
    finally:
        bar.close()
