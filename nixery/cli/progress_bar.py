"""Shows the progress of a long command on standard error: a bar for people, lines for logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Never, TextIO

from tqdm import tqdm

__all__ = ["ProgressBar"]

LOG_INTERVAL_SECONDS = 10.0
"""Seconds between lines where there is no terminal."""


class ProgressBar:
    """
    Shows the progress of one operation.

    :param label: names the operation.
    :param stream: the stream that it is shown on.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    """

    def __init__(self, label: str, stream: TextIO, seconds: Callable[[], float]) -> None:
        self._label = label
        self._stream = stream
        self._seconds = seconds
        self._printed_at = seconds()
        self._last: tuple[int, int] | None = None
        self._printed: tuple[int, int] | None = None
        self._bar: tqdm[Never] | None = None
        if stream.isatty():
            # It would start a thread that watches bars without updates.
            tqdm.monitor_interval = 0
            self._bar = tqdm(desc=label, file=stream, unit="", dynamic_ncols=True)

    def update(self, done: int, expected: int) -> None:
        """Show ``done`` of ``expected``; the expected number may grow."""
        self._last = (done, expected)
        if self._bar is not None:
            self._bar.total = expected
            self._bar.update(done - self._bar.n)
        elif self._seconds() - self._printed_at >= LOG_INTERVAL_SECONDS:
            self._print()

    def close(self) -> None:
        """End the display; the last state stays visible."""
        if self._bar is not None:
            self._bar.close()
        elif self._last is not None and self._last != self._printed:
            self._print()

    def _print(self) -> None:
        if self._last is not None:
            done, expected = self._last
            self._stream.write(f"{self._label}: {done} of {expected}\n")
            self._stream.flush()
        self._printed = self._last
        self._printed_at = self._seconds()
