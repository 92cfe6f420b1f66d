"""
Measure how fast the manifest of a known image is answered, against docker-registry.

    python -m tests.benchmarks.manifests [--rounds N] [--quick] [--json]

The demo package set is put into the Nix store and is therefore pinned: a pull by tag
needs no evaluation.  Another daemon has it at a path, watches it and finds no change.
docker-registry is given the same manifest.  The daemons run as they do by default, their logs in
files.
"""

from __future__ import annotations

import statistics
import sys

from tests.benchmarks.client import Load, fetch, hammer
from tests.benchmarks.measure import Figure, Options, median_ratio, run
from tests.benchmarks.peers import (
    Daemon,
    DockerRegistry,
    manifest_request,
    pinned_set,
    processor_seconds,
)
from tests.end_to_end.package_sets import demo_set

__all__ = ["measure"]

NAME = "shell/git/htop"
PEER = "docker-registry, by tag"
PATH = "by tag, package set at a path"


def measure(options: Options) -> list[Figure]:
    count = 200 if options.quick else 10_000
    daemon = Daemon(pinned_set(demo_set()), name="manifests").start()
    watching = Daemon(demo_set(), name="watched-manifests").start()
    peer = DockerRegistry()
    try:
        return _compare(daemon, watching, peer, options.rounds, count)
    finally:
        daemon.stop()
        watching.stop()
        peer.stop()


def _compare(
    daemon: Daemon, watching: Daemon, peer: DockerRegistry, rounds: int, count: int
) -> list[Figure]:
    port = daemon.registry.port
    by_tag = manifest_request(NAME, "latest")
    head, body = fetch(port, by_tag)
    headers = dict(line.split(b": ", 1) for line in head.strip().split(b"\r\n")[1:])
    digest = headers[b"Docker-Content-Digest"].decode()
    peer.push_manifest(NAME, "latest", headers[b"Content-Type"].decode(), body, port)

    fetch(watching.registry.port, by_tag)
    runs = {
        "by tag": (port, daemon.pid, by_tag),
        "by digest": (port, daemon.pid, manifest_request(NAME, digest)),
        "HEAD by tag": (port, daemon.pid, manifest_request(NAME, "latest", method="HEAD")),
        PATH: (watching.registry.port, watching.pid, by_tag),
        PEER: (peer.port, peer.pid, by_tag),
    }
    loads: dict[tuple[str, int], list[Load]] = {}
    costs: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for name, (at, pid, request) in runs.items():
            # One connection is for the time that an answer takes, which a tenth of the
            # requests tells as well.
            for connections, requests in ((16, count), (1, count // 10)):
                busy = processor_seconds(pid)
                load = hammer(at, request, count=requests, connections=connections)
                loads.setdefault((name, connections), []).append(load)
                cost = (processor_seconds(pid) - busy) / requests
                costs.setdefault((name, connections), []).append(cost)

    def ratio(name: str, connections: int) -> float:
        return median_ratio(
            [load.rate for load in loads[name, connections]],
            [load.rate for load in loads[PEER, connections]],
        )

    figures = [Figure(name="size of the manifest", value=len(body), unit="bytes")]
    for (name, connections), each in loads.items():
        label = f"{name}, {connections} connection" + "s" * (connections > 1)
        ours = name != PEER
        figures += [
            Figure(
                name=f"{label}: rate",
                value=statistics.median(load.rate for load in each),
                unit="requests/s",
            ),
            Figure(
                name=f"{label}: median",
                value=1e3 * statistics.median(load.median for load in each),
                unit="ms",
                at_most=2 if ours and connections == 1 else None,
            ),
            Figure(
                name=f"{label}: 99th percentile",
                value=1e3 * statistics.median(load.percentile(0.99) for load in each),
                unit="ms",
                at_most=10 if name == PATH and connections == 1 else None,
            ),
            Figure(
                name=f"{label}: processor time",
                value=1e6 * statistics.median(costs[name, connections]),
                unit="us a request",
            ),
        ]
    return figures + [
        Figure(
            name=f"{name} / docker-registry, {connections} connections",
            value=ratio(name, connections),
            unit="times",
            at_least=4 if connections == 16 and name == "by tag" else None,
        )
        for name in runs
        for connections in (16, 1)
        if name != PEER
    ]


if __name__ == "__main__":
    run({"manifests": measure}, "tests.benchmarks.manifests", sys.argv[1:])
