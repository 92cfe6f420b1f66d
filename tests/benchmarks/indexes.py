"""
Measure what a tag of two platforms costs, against the tag of one.

    python -m tests.benchmarks.indexes [--rounds N] [--quick] [--json]

Of the demo package set, for amd64 and arm64, all of it in the Nix store.  Each cold pull is the
first one of a daemon that has come to rest on an empty storage: of the index, and of each platform
by its name.  Two platforms have nothing in common but the package set, so that the processors have
twice the work: an index saves the time in which one platform leaves a processor idle.  A known
index is answered from memory, like a known manifest.
"""

from __future__ import annotations

import statistics
import sys

from tests.benchmarks.client import Load, fetch, hammer
from tests.benchmarks.measure import Figure, Options, median_ratio, run, timed
from tests.benchmarks.peers import Daemon, manifest_request, processor_seconds, settle
from tests.end_to_end.package_sets import demo_set

__all__ = ["measure"]

PLATFORMS = "x86_64-linux,aarch64-linux"
MEDIUM = "shell/git/htop"
INDEX, AMD64, ARM64 = "index", "amd64", "arm64"


def measure(options: Options) -> list[Figure]:
    packages = "hello" if options.quick else MEDIUM
    daemon = Daemon(demo_set(), name="indexes", options=["--platforms", PLATFORMS]).start()
    requests = {
        INDEX: manifest_request(packages, "latest"),
        AMD64: manifest_request(f"amd64/{packages}", "latest"),
        ARM64: manifest_request(f"arm64/{packages}", "latest"),
    }
    try:
        fetch(daemon.registry.port, requests[INDEX])  # Builds what is not built yet.
        return [
            *_cold(daemon, requests, options.rounds),
            *_warm(daemon, requests, options.rounds, 200 if options.quick else 10_000),
        ]
    finally:
        daemon.stop()


def _cold(daemon: Daemon, requests: dict[str, bytes], rounds: int) -> list[Figure]:
    samples: dict[str, list[float]] = {name: [] for name in requests}
    for number in range(rounds):
        for name, request in requests.items():
            daemon.stop()
            # Moved, and not removed: see tests.benchmarks.cold.
            daemon.storage.rename(daemon.directory / f"storage-{name}-{number}")
            daemon.start()
            settle(daemon.pid)

            def pull(request: bytes = request) -> object:
                return fetch(daemon.registry.port, request)

            samples[name].append(timed(pull))
    one = [statistics.mean(pair) for pair in zip(samples[AMD64], samples[ARM64], strict=True)]
    both = [sum(pair) for pair in zip(samples[AMD64], samples[ARM64], strict=True)]
    return [
        *(
            Figure(name=f"cold {name}", value=statistics.median(each), unit="s")
            for name, each in samples.items()
        ),
        Figure(
            name="cold index / one platform, their mean",
            value=median_ratio(samples[INDEX], one),
            unit="times",
            at_most=1.9,
        ),
        Figure(
            name="cold index / both platforms one after the other",
            value=median_ratio(samples[INDEX], both),
            unit="times",
        ),
    ]


def _warm(daemon: Daemon, requests: dict[str, bytes], rounds: int, count: int) -> list[Figure]:
    loads: dict[str, list[Load]] = {INDEX: [], AMD64: []}
    costs: dict[str, list[float]] = {INDEX: [], AMD64: []}
    for name in loads:
        fetch(daemon.registry.port, requests[name])
    for _ in range(max(rounds, 3)):
        for name, each in loads.items():
            busy = processor_seconds(daemon.pid)
            each.append(hammer(daemon.registry.port, requests[name], count=count, connections=1))
            costs[name].append((processor_seconds(daemon.pid) - busy) / count)
    return [
        *(
            Figure(
                name=f"warm {name}, median",
                value=1e3 * statistics.median(load.median for load in each),
                unit="ms",
            )
            for name, each in loads.items()
        ),
        Figure(
            name="warm index / warm manifest",
            value=median_ratio(
                [load.median for load in loads[INDEX]], [load.median for load in loads[AMD64]]
            ),
            unit="times",
            at_most=1.05,
        ),
        Figure(
            name="warm index / warm manifest, processor time",
            value=median_ratio(costs[INDEX], costs[AMD64]),
            unit="times",
        ),
    ]


if __name__ == "__main__":
    run({"indexes": measure}, "tests.benchmarks.indexes", sys.argv[1:])
