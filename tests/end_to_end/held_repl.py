"""
A ``nix repl`` that waits before it hears a question, when a test wants that.

:class:`tests.end_to_end.fault_injection.HeldCommands` puts it in the place of Nix's own.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

_QUESTION = re.compile(rb'"(\w+)" \+ "(\d+):" .*\(lookup ')


def main(directory: str, *argv: str) -> None:
    """
    Run ``nix repl``.

    :param directory: has the journal, what is held, the lock, which is locked from a question to
        its answer, and the numbers of the processes.
    :param argv: Nix's own command.
    """
    child = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    stdin, stdout = child.stdin, child.stdout
    assert stdin is not None and stdout is not None
    Path(directory, "repls", str(child.pid)).touch()
    questions = _Questions(Path(directory))

    def copy_answers() -> None:
        questions.copy_answers(stdout)
        # It may have been killed, while nothing more is asked.
        os._exit(0 if child.wait() == 0 else 1)

    copying = threading.Thread(target=copy_answers)
    copying.start()
    with suppress(BrokenPipeError):
        for line in sys.stdin.buffer:
            questions.hear(line)
            stdin.write(line)
            stdin.flush()
        stdin.close()
    copying.join()


class _Questions:
    """Tells a test of questions and answers."""

    def __init__(self, directory: Path) -> None:
        self._journal = directory / "journal"
        self._held = directory / "held" / "nix repl"
        self._lock = (directory / "lock").open()
        self._end = b""

    def hear(self, line: bytes) -> None:
        """Take note of a question, and wait as long as questions are held."""
        question = _QUESTION.match(line)
        if question is None:
            return
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        self._end = b"".join(question.groups()) + b"."
        self._note("nix repl")
        while self._held.exists():
            time.sleep(0.02)
        self._note("nix repl goes on")

    def copy_answers(self, stdout: IO[bytes]) -> None:
        """Print what is printed, and take note of the ends of answers."""
        printed = b""
        while data := stdout.read1(65536):  # type: ignore[attr-defined]
            printed = printed[-100:] + data
            if self._end and self._end in printed:
                self._end = b""
                fcntl.flock(self._lock, fcntl.LOCK_UN)
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def _note(self, text: str) -> None:
        with self._journal.open("a") as journal:
            journal.write(f"{text}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
