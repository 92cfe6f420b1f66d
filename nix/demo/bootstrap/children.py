"""
Runs other programs, shows their progress, and ends them when this program is interrupted.

Each child has a session of its own. A terminal sends ctrl-C to all processes in its foreground, and
dpkg must not be stopped in the middle of a package: here the signal reaches this program alone,
which decides whether to end the child.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

from bootstrap.console import Console

__all__ = ["Children", "Finished", "Interrupted"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TICK_SECONDS = 1.0


class Interrupted(Exception):
    """
    A signal asked this program to end.

    :param number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


@dataclass(frozen=True)
class Finished:
    """
    The result of a child that has ended.

    :param status: its exit status; negative, the signal that ended it.
    :param output: all that it printed on either stream, without lines of progress.
    """

    status: int
    output: str

    def tail(self, lines: int = 40) -> str:
        """Return the last lines of the output."""
        return "\n".join(self.output.splitlines()[-lines:])


class Children:
    """
    Runs one program after the other; a context manager that handles signals meanwhile.

    A signal that was ignored at the start (``nohup``) stays so.

    :param console: shows progress.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._child: subprocess.Popen[bytes] | None = None
        self._interruptible = True
        self._received: list[int] = []
        # Any: signal.signal() returns a handler, or a number that means one.
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def check(self) -> None:
        """:raises Interrupted: a signal has come."""
        if self._received:
            raise Interrupted(self._received[0])

    def wait(self, attempt: Callable[[], bool], seconds: float | None = None) -> bool:
        """
        Call a function until it succeeds.

        :param seconds: the longest time; ``None`` for as long as it takes.
        :return: true if it succeeded.
        :raises Interrupted: a signal came first.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            self.check()
            if attempt():
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(0.2)

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        detail: Callable[[str], str | None] = lambda _line: None,
        interruptible: bool = True,
    ) -> Finished:
        """
        Run a program to its end.

        :param detail: turns a line of output into a text for progress; such lines are not kept.
        :param interruptible: true if a signal ends it; otherwise it is waited for.
        :raises Interrupted: a signal came before or meanwhile; the child has ended.
        :raises OSError: it cannot be started.
        """
        self.check()
        self._interruptible = interruptible
        with subprocess.Popen(
            [str(item) for item in argv],
            env=environ,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as child:
            self._child = child
            # A signal that came during the start could not be forwarded to the child.
            if self._received:
                self._end_child(signal.SIGTERM)
            try:
                output = self._read(child, detail)
                status = child.wait()
            finally:
                self._child = None
                self._console.end()
        self.check()
        return Finished(status, output)

    def _read(self, child: subprocess.Popen[bytes], detail: Callable[[str], str | None]) -> str:
        """Read until the child has ended: a service that it started may keep the pipe open."""
        assert child.stdout is not None
        pipe = child.stdout.fileno()
        os.set_blocking(pipe, False)
        ended = os.pidfd_open(child.pid)
        kept: list[str] = []
        shown, rest = "", b""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(pipe, selectors.EVENT_READ)
                selector.register(ended, selectors.EVENT_READ)
                running, closed, told = True, False, False
                while running:
                    ready = {key.fd for key, _ in selector.select(_TICK_SECONDS)}
                    running = ended not in ready
                    if not closed and (pipe in ready or not running):
                        chunk, closed = _available(pipe)
                        if closed:
                            selector.unregister(pipe)
                        *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
                        for line in lines:
                            text = line.decode("utf-8", "replace")
                            progress = detail(text)
                            if progress is None:
                                kept.append(text)
                            else:
                                shown = progress
                    if self._received and not told:
                        told = True
                        self._console.say(
                            "interrupted: removing what was begun"
                            if self._interruptible
                            else "interrupted: this ends when what runs now has ended"
                        )
                    self._console.progress(shown)
        finally:
            os.close(ended)
        if rest:
            kept.append(rest.decode("utf-8", "replace"))
        return "\n".join(kept)

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        # Nothing is written here: the signal may have interrupted a write.
        self._end_child(signal.SIGKILL if self._received else signal.SIGTERM)
        self._received.append(number)

    def _end_child(self, number: signal.Signals) -> None:
        if self._child is None or not self._interruptible:
            return
        # The process group has the child's number, which is not reused before the child is waited
        # for.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, number)


def _available(pipe: int) -> tuple[bytes, bool]:
    """Return all that can be read at once, and whether the pipe has been closed."""
    chunks: list[bytes] = []
    while True:
        try:
            chunk = os.read(pipe, 65536)
        except BlockingIOError:
            return b"".join(chunks), False
        if not chunk:
            return b"".join(chunks), True
        chunks.append(chunk)
