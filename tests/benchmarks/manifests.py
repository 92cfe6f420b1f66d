"""
Measure how fast the manifest of a known image is answered, against docker-registry.

    python -m tests.benchmarks.manifests [--rounds N] [--quick] [--json]

The demo package set is put into the Nix store and is therefore pinned: a pull by tag
needs no evaluation.  Another daemon has it at a path, watches it and finds no change, and a third
one signs its images.  docker-registry is given the same manifest.  The daemons run as they do by
default, their logs in files.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

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
from tests.end_to_end.processes import private_directory

__all__ = ["measure"]

NAME = "shell/git/htop"
PEER = "docker-registry, by tag"
PATH = "by tag, package set at a path"
SIGNED = "by tag, signed"


def measure(options: Options) -> list[Figure]:
    count = 200 if options.quick else 10_000
    daemon = Daemon(pinned_set(demo_set()), name="manifests").start()
    watching = Daemon(demo_set(), name="watched-manifests").start()
    signing = Daemon(
        pinned_set(demo_set()), name="signed-manifests", signing_key=_make_key()
    ).start()
    peer = DockerRegistry()
    try:
        return _compare(daemon, {PATH: watching, SIGNED: signing}, peer, options.rounds, count)
    finally:
        daemon.stop()
        signing.stop()
        watching.stop()
        peer.stop()


def _compare(
    daemon: Daemon,
    others: Mapping[str, Daemon],
    peer: DockerRegistry,
    rounds: int,
    count: int,
) -> list[Figure]:
    port = daemon.registry.port
    by_tag = manifest_request(NAME, "latest")
    head, body = fetch(port, by_tag)
    headers = dict(line.split(b": ", 1) for line in head.strip().split(b"\r\n")[1:])
    digest = headers[b"Docker-Content-Digest"].decode()
    peer.push_manifest(NAME, "latest", headers[b"Content-Type"].decode(), body, port)

    for other in others.values():
        fetch(other.registry.port, by_tag)
    runs = {
        "by tag": (port, daemon.pid, by_tag),
        "by digest": (port, daemon.pid, manifest_request(NAME, digest)),
        "HEAD by tag": (port, daemon.pid, manifest_request(NAME, "latest", method="HEAD")),
        **{name: (other.registry.port, other.pid, by_tag) for name, other in others.items()},
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


def _make_key() -> Path:
    path = private_directory("key") / "key.pem"
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


if __name__ == "__main__":
    run({"manifests": measure}, "tests.benchmarks.manifests", sys.argv[1:])
