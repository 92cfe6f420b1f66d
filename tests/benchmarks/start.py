"""
Measure the time from ``twistd -n nixery`` to the first answer.

    python -m tests.benchmarks.start [--rounds N] [--quick] [--json]
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.client import fetch, request_for
from tests.benchmarks.measure import Figure, Options, run
from tests.benchmarks.peers import processor_seconds
from tests.end_to_end.daemon import checkout, private_environment, single_user_nix
from tests.end_to_end.processes import free_port, private_directory

__all__ = ["measure"]


def measure(options: Options) -> list[Figure]:
    directory = private_directory("start")
    package_set = directory / "set"
    package_set.mkdir()
    (package_set / "default.nix").write_text("{ }\n")
    # The first one compiles what has changed, and is no example.
    starts = [_start(directory, package_set) for _ in range(options.rounds + 1)][1:]
    return [
        Figure(
            name="from twistd to the first answer",
            value=statistics.median(seconds for seconds, _ in starts),
            unit="s",
            at_most=1,
        ),
        Figure(
            name="the daemon's processor time until then",
            value=statistics.median(busy for _, busy in starts),
            unit="s",
        ),
    ]


def _start(directory: Path, package_set: Path) -> tuple[float, float]:
    """The time until the first answer, and the processor time until then, in seconds."""
    port = free_port()
    begun = time.perf_counter()
    with (
        (directory / "log").open("ab") as log,
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from twisted.scripts.twistd import run; run()",
                "-n",
                "--pidfile=",
                "nixery",
                "--listen",
                f"tcp:{port}:interface=127.0.0.1",
            ],
            env={
                **os.environ,
                **private_environment(directory),
                **checkout(),
                **single_user_nix(),
                "NIXERY_PKGS_PATH": str(package_set),
                "STATE_DIRECTORY": str(directory / "state"),
                "CACHE_DIRECTORY": str(directory / "cache"),
            },
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as daemon,
    ):
        try:
            while not _listens(port):
                if daemon.poll() is not None or time.perf_counter() - begun > 60:
                    raise AssertionError((directory / "log").read_text())
                time.sleep(0.002)
            fetch(port, request_for("/v2/"))
            seconds = time.perf_counter() - begun
            return seconds, processor_seconds(daemon.pid)
        finally:
            daemon.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    run({"start": measure}, "tests.benchmarks.start", sys.argv[1:])
