"""
Runs a Python command on a wall clock of its own, which can be set while it runs.

Called as ``jumping.py FILE -c COMMAND ...``; the file holds the seconds by which the clock
is ahead of the machine's, as a native double: see
:class:`tests.end_to_end.test_clock.JumpingClock`.  The functions of ``time`` are replaced
before the command imports anything, since Twisted keeps references to them.  ``datetime``
reads the machine's clock by itself; the daemon never asks it for the time of day.
"""

from __future__ import annotations

import mmap
import sys
import time
from typing import SupportsIndex


def install(file: str) -> None:
    """Have ``time`` tell the time of the clock whose offset is in a file."""
    with open(file, "r+b") as opened:
        # Eight aligned bytes: a reading never sees half of a step.
        ahead = memoryview(mmap.mmap(opened.fileno(), 8)).cast("d")
    machine_time, machine_time_ns = time.time, time.time_ns
    machine_gmtime, machine_localtime = time.gmtime, time.localtime

    def now() -> float:
        return machine_time() + ahead[0]

    def gmtime(seconds: float | SupportsIndex | None = None, /) -> time.struct_time:
        return machine_gmtime(now() if seconds is None else seconds)

    def localtime(seconds: float | SupportsIndex | None = None, /) -> time.struct_time:
        return machine_localtime(now() if seconds is None else seconds)

    time.time = now
    time.time_ns = lambda: machine_time_ns() + int(ahead[0] * 1e9)
    time.gmtime, time.localtime = gmtime, localtime


def main(file: str, option: str, command: str, *arguments: str) -> None:
    assert option == "-c"
    install(file)
    # As `python -c` has them.
    sys.argv = [option, *arguments]
    sys.path[0] = ""
    exec(compile(command, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main(*sys.argv[1:])
