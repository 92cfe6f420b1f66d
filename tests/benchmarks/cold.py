"""
Measure the time to the manifest of an image: of its first pull, and of the next ones.

    python -m tests.benchmarks.cold [--rounds N] [--quick] [--json]

Of the demo package set, as a directory.  Everything is built already, so that Nix only has to find
that out; each cold pull is the first one of a daemon that has been started, and come to rest, on an
empty storage.  In the same rounds Nix does its part alone, one command after the other, and two
threads pack the same store paths and throw the bytes away: a cold manifest should take little
longer than packing, for the daemon keeps the package set evaluated.  A manifest that is known
should take no evaluation at all.
"""

from __future__ import annotations

import statistics
import sys

from tests.benchmarks.client import fetch
from tests.benchmarks.measure import Figure, Options, median_ratio, run, timed
from tests.benchmarks.parts import EVALUATIONS, Parts, measure_parts
from tests.benchmarks.peers import Daemon, manifest_request, settle
from tests.end_to_end.package_sets import demo_set

__all__ = ["LARGE", "measure"]

LARGE = "ffmpeg"
MEDIUM = "shell/git/htop"
NAMES = ("hello", MEDIUM, LARGE)


def measure(options: Options) -> list[Figure]:
    figures = []
    for name in NAMES[:1] if options.quick else NAMES:
        figures += _image(name, options.rounds)
    return figures


def _image(name: str, rounds: int) -> list[Figure]:
    package_set = demo_set()
    daemon = Daemon(package_set, name="cold").start()
    request = manifest_request(name, "latest")
    fetch(daemon.registry.port, request)  # Builds what is not built yet.
    cold, warm, parts = [], [], list[Parts]()
    for number in range(rounds):
        daemon.stop()
        # Moved, and not removed: some file systems are slow to give out again what was
        # freed a moment ago.
        daemon.storage.rename(daemon.directory / f"storage-{number}")
        daemon.start()
        settle(daemon.pid)
        cold.append(timed(lambda: fetch(daemon.registry.port, request)))
        warm += [timed(lambda: fetch(daemon.registry.port, request)) for _ in range(EVALUATIONS)]
        parts.append(measure_parts(package_set, name))
    daemon.stop()
    bounds = [max(part.nix, part.packing) for part in parts]
    return [
        Figure(name=f"{name}: to be packed", value=parts[0].size / 1e6, unit="MB"),
        Figure(name=f"{name}: layers", value=parts[0].layers + 1, unit="layers"),
        Figure(name=f"{name}: cold manifest", value=statistics.median(cold), unit="s"),
        Figure(name=f"{name}: warm manifest", value=1e3 * statistics.median(warm), unit="ms"),
        Figure(
            name=f"{name}: evaluation alone",
            value=statistics.median(seconds for part in parts for seconds in part.evaluation),
            unit="s",
        ),
        Figure(
            name=f"{name}: Nix alone",
            value=statistics.median(part.nix for part in parts),
            unit="s",
        ),
        Figure(
            name=f"{name}: packing alone, two threads",
            value=statistics.median(part.packing for part in parts),
            unit="s",
        ),
        Figure(
            name=f"{name}: cold manifest / the longer of Nix and packing",
            value=median_ratio(cold, bounds),
            unit="times",
            at_most=1.5,
        ),
        Figure(
            name=f"{name}: cold manifest / packing",
            value=median_ratio(cold, [part.packing for part in parts]),
            unit="times",
            at_most=1.15 if name == MEDIUM else None,
        ),
    ]


if __name__ == "__main__":
    run({"cold": measure}, "tests.benchmarks.cold", sys.argv[1:])
