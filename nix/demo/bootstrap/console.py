"""Writes messages and progress on standard error, for a terminal and for a log."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["Console"]

LOG_INTERVAL_SECONDS = 10.0
"""Seconds between two lines of progress if there is no terminal."""

LOG_WIDTH = 80
"""Maximum length of a line of progress in a log."""


class Console:
    """
    Writes messages, and the progress of the step that is running.

    A terminal shows progress in one line that is overwritten; a file or a pipe gets a line
    every :data:`LOG_INTERVAL_SECONDS`.

    :param name: the program's, before each line.
    :param stream: standard error, if not given.
    :param monotonic: the clock, in seconds.
    """

    def __init__(
        self,
        name: str,
        stream: TextIO | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._stream = sys.stderr if stream is None else stream
        self._monotonic = monotonic
        self._step = ""
        self._began = 0.0
        self._logged = 0.0
        self._overwritten = False

    def say(self, text: str) -> None:
        """Write a message of one or more lines."""
        self._clear()
        for line in text.splitlines():
            self._stream.write(f"{self._name}: {line}\n")
        self._stream.flush()

    def quote(self, text: str) -> None:
        """Write another program's output unchanged."""
        self._clear()
        self._stream.write(text if text.endswith("\n") or not text else f"{text}\n")
        self._stream.flush()

    def begin(self, step: str) -> None:
        """Write that a step begins; later calls of :meth:`progress` belong to it."""
        self._step = step
        self._began = self._logged = self._monotonic()
        self.say(step)

    def progress(self, detail: str) -> None:
        """Show the progress of the step; may be called as often as it changes."""
        if not self._step:
            return
        now = self._monotonic()
        if self._stream.isatty():
            text = f"{self._name}:   {now - self._began:.0f} s  {detail}"
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{text[:width]}")
            self._stream.flush()
            self._overwritten = True
        elif now - self._logged >= LOG_INTERVAL_SECONDS:
            self._logged = now
            self.say(f"  {now - self._began:.0f} s  {detail[:LOG_WIDTH]}".rstrip())

    def end(self) -> None:
        """Remove the progress from the terminal; the step has ended, or its next part begins."""
        self._clear()
        self._stream.flush()

    def _clear(self) -> None:
        if self._overwritten:
            self._stream.write("\r\x1b[K")
            self._overwritten = False
