"""A command that is typed into a terminal, and ended there with ctrl-C."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from typing import IO

from tests.clean_roots.root import CleanRoot, Run
from tests.end_to_end.processes import at_end, wait_until

__all__ = ["Terminal"]

# Its input is the keyboard, its output the screen; the terminal is one of the root's own.
# Tests that a shell started in the background ignore ctrl-C, and so would the command.
_SPAWN = """
import os, pty, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])) % 256)
"""


class Terminal:
    """A terminal in a root, in which a command runs."""

    def __init__(self, root: CleanRoot, *argv: str) -> None:
        self._argv = argv
        self._process = subprocess.Popen(
            root.command("python3", "-c", _SPAWN, *argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._keyboard = self._process.stdin
        self._screen: list[bytes] = []
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,))
        self._reader.daemon = True
        self._reader.start()
        at_end(self._process.kill)

    @property
    def output(self) -> str:
        """The text on the screen."""
        return b"".join(self._screen).decode(errors="replace").replace("\r\n", "\n")

    def wait_until(self, true: Callable[[], bool], what: str, seconds: float) -> None:
        """:raises AssertionError: the command ended first, or it took too long."""
        try:
            wait_until(lambda: self._process.poll() is not None or true(), what, seconds=seconds)
            if self._process.poll() is not None:
                raise AssertionError(f"the command ended before {what}")
        except AssertionError as error:
            self._process.kill()
            raise AssertionError(f"{error}\n{' '.join(self._argv)}\n{self.output}") from None

    def interrupt(self, seconds: float = 60) -> Run:
        """
        Type ctrl-C, and wait for the end.

        :raises AssertionError: that took too long.
        """
        self._keyboard.write(b"\x03")
        self._keyboard.flush()
        return self.ended(seconds)

    def ended(self, seconds: float) -> Run:
        """
        Wait for the end.

        :raises AssertionError: that took too long.
        """
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"it did not end:\n{self.output}") from None
        self._reader.join()
        self._keyboard.close()
        return Run(argv=self._argv, status=status, output=self.output)

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := stream.read1(65536):  # type: ignore[attr-defined]  # it is buffered
                self._screen.append(chunk)
