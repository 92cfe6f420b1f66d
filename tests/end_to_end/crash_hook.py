"""
Runs a Python command that ends, or waits, before a given step of its own.

The interpreter tells of its system calls by name before it makes them (PEP 578);
nothing in the command has to know.  Called as ``sabotaged.py DIRECTORY -c COMMAND
...``; what is in the directory is :class:`tests.end_to_end.fault_injection.Saboteur`'s matter.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from threading import Lock


class Hook:
    """Is told of every system call that the interpreter is about to make."""

    def __init__(self, directory: Path) -> None:
        self._steps = [tuple(step) for step in json.loads((directory / "steps").read_text())]
        self._order = directory / "order"
        self._gate = directory / "gate"
        self._journal = os.open(directory / "journal", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._lock = Lock()

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        # For every event of the interpreter: most are none of these.
        for name, place in self._steps:
            if event == name:
                # What a link says is no place, only where it is made.
                target = arguments[event == "os.symlink"]
                text = os.fsdecode(target) if isinstance(target, bytes) else str(target)
                if text.startswith(place):
                    self._step(f"{event} {text}")
                    return

    def _step(self, step: str) -> None:
        with self._lock:
            what, at = self._order.read_text().split()
            os.write(self._journal, f"{step}\n".encode())
            size = os.fstat(self._journal).st_size
            here = os.pread(self._journal, size, 0).count(b"\n") == int(at)
            if here and what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        while here and what == "wait" and not self._gate.exists():
            time.sleep(0.02)


def main(directory: str, option: str, command: str, *arguments: str) -> None:
    assert option == "-c"
    # As `python -c` has them.
    sys.argv = [option, *arguments]
    sys.path[0] = ""
    sys.addaudithook(Hook(Path(directory)))
    exec(compile(command, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main(*sys.argv[1:])
