"""
Fuzzing, guided by what the code does with its input.

    python -m tests.fuzz                        each target, for a few seconds
    python -m tests.fuzz requests -runs=1000000
    python -m tests.fuzz config -max_total_time=3600 DIRECTORY

What follows a target are options of libFuzzer, and directories of inputs to go on from.  An
input that fails is written to the current directory; the name of its file, given as an
argument, runs it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO

import atheris

RUNS = 5_000
"""Inputs of each target, when all are run."""

LONGEST = 20
"""Seconds after which an input counts as one that has no end."""

SECONDS = 2
"""For all inputs of a target, when all are run."""


CHILD = "NIXERY_FUZZ_CHILD"
"""Set in the processes that fuzz."""


def main(arguments: list[str]) -> int:
    """Run one target, or all; the exit status."""
    if CHILD in os.environ:
        _fuzz(arguments[0], arguments[1:])
        return 0
    if arguments and not arguments[0].startswith("-"):
        return _start(arguments)
    # Not instrumented here: the children are.
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415

    failed = []
    # Each is a process that one processor runs, for the most part while it loads the code.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = pool.map(partial(_run, options=arguments), TARGETS)
        for name, (status, said) in zip(TARGETS, results, strict=True):
            print(f"{name}: {'failed' if status else 'well'}", flush=True)
            if status:
                print(said[-6000:], flush=True)
                failed.append(name)
    return 1 if failed else 0


def _run(target: str, options: Sequence[str]) -> tuple[int, str]:
    """Run a target on a few inputs; its exit status, and what it printed."""
    limits = [f"-runs={RUNS}", "-seed=1", f"-max_total_time={SECONDS}", "-verbosity=0"]
    with tempfile.TemporaryFile("w+") as output:
        status = _start([target, *limits, *options], output)
        output.seek(0)
        return status, output.read()


def _start(arguments: list[str], output: IO[str] | None = None) -> int:
    """
    Run a target in a process of its own; its exit status.

    libFuzzer ends the process that it runs in without letting it clean up: this one
    removes the child's temporary files.

    :param output: gets what it prints; by default, that is shown.
    """
    with tempfile.TemporaryDirectory(prefix="nixery-fuzzing-") as directory:
        return subprocess.run(
            [sys.executable, "-m", "tests.fuzz", *arguments],
            env={**os.environ, CHILD: "1", "TMPDIR": directory},
            check=False,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
        ).returncode


def _fuzz(name: str, options: list[str]) -> None:
    """Does not return: libFuzzer ends the process."""
    # Whatever is imported here reports which way the code goes.
    with atheris.instrument_imports(include=["nixery"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415

    if name not in TARGETS:
        sys.exit(f"there is no target {name}; there are {', '.join(TARGETS)}")
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="nixery-seeds-") as directory:
        for index, seed in enumerate(target.seeds):
            Path(directory, f"seed-{index:03}").write_bytes(seed)

        def run(data: bytes) -> None:
            target.run(data)

        atheris.Setup(
            ["tests.fuzz", f"-timeout={LONGEST}", "-max_len=4096", *options, directory], run
        )
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
