"""
Measure pulls and updates with each kind of compression, and requests of many ranges.

    python -m tests.benchmarks.partial_pulls [--rounds N] [--quick] [--json FILE]

An image of three packages is pulled, and pulled again after the package at its top has changed,
and after the one that all others refer to.  gzip and zstd transfer whole layers, zstd-chunked
files and chunks, by a client that does what podman does.  Transfers are computed for 1 Gbit/s, at
94 % of the nominal rate.  The time on the loopback interface is that of the tests' client, which is
slow where it makes archives of chunks and checks them: podman does that in some milliseconds.  What
clients do with whole layers is the subject of ``tests.benchmarks.compression``.

Requests of 1,024 ranges are compared with the same bytes in one range; then clients send such
requests and read nothing.
"""

from __future__ import annotations

import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.benchmarks.blobs import store_blob
from tests.benchmarks.client import request_for
from tests.benchmarks.compression import NETWORKS
from tests.benchmarks.measure import Figure, Options, median_ratio, percentile, run, timed
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.fairness import peak_memory, resident_memory
from tests.end_to_end.package_sets import PartialSet
from tests.end_to_end.partial_node import PartialNode

__all__ = ["measure"]

KINDS = ("gzip", "zstd", "zstd-chunked")

CHANGES = {"first pull": {}, "top changed": {"leaf": "2"}, "bottom changed": {"bottom": "2"}}

RANGES = 1024
"""The most ranges of one request."""

RANGE_BYTES = 1000
DISTANCE = 8192
"""Between the starts of two ranges."""

STALLED = 100

NETWORK = "1 Gbit/s"


def measure(options: Options) -> list[Figure]:
    rounds = 1 if options.quick else options.rounds
    return [*_updates(rounds), *_ranges(rounds)]


def _updates(rounds: int) -> list[Figure]:
    sent: dict[tuple[str, str], int] = {}
    seconds: dict[tuple[str, str], list[float]] = {}
    sizes: dict[str, int] = {}
    for _ in range(rounds):
        packages = PartialSet()
        daemons = {
            kind: Daemon(
                packages.path, name=f"bench-{kind}", options=["--compression", kind]
            ).start()
            for kind in KINDS
        }
        nodes = {kind: PartialNode(daemon.registry) for kind, daemon in daemons.items()}
        for change, settings in CHANGES.items():
            packages.change(**settings)
            for kind, node in nodes.items():
                # Built and packed, so that transfers alone are measured.
                node.registry.manifest("leaf").json()
                begun = time.perf_counter()
                sizes[kind], sent[kind, change] = node.pull("leaf")
                seconds.setdefault((kind, change), []).append(time.perf_counter() - begun)
        for daemon in daemons.values():
            daemon.stop()
    figures = [
        Figure(name=f"{kind}: layers", value=size / 1e6, unit="MB") for kind, size in sizes.items()
    ]
    for (kind, change), size in sent.items():
        figures += [
            Figure(name=f"{kind}, {change}: sent", value=size / 1e6, unit="MB"),
            Figure(
                name=f"{kind}, {change}: the tests' client, on the loopback interface",
                value=1e3 * statistics.median(seconds[kind, change]),
                unit="ms",
            ),
            Figure(
                name=f"{kind}, {change}: transfer by {NETWORK}",
                value=1e3 * size / NETWORKS[NETWORK],
                unit="ms",
            ),
        ]
    chunked = "zstd-chunked"
    figures.append(
        Figure(
            name=f"{chunked}, top changed: sent / size of the image",
            value=sent[chunked, "top changed"] / sizes[chunked],
            unit="times",
            at_most=0.1,
        )
    )
    return figures


def _ranges(rounds: int) -> list[Figure]:
    packages = PartialSet()
    daemon = Daemon(packages.path, name="bench-ranges").start()
    digest, _ = store_blob(daemon.storage, RANGES * DISTANCE)
    path = f"/v2/some/image/blobs/{digest}"
    starts = range(0, RANGES * DISTANCE, DISTANCE)
    spans = ",".join(f"{start}-{start + RANGE_BYTES - 1}" for start in starts)
    many = request_for(path, headers={"Range": f"bytes={spans}"})
    one = request_for(path, headers={"Range": f"bytes=0-{RANGES * RANGE_BYTES - 1}"})
    port = daemon.registry.port
    first: list[float] = []
    whole: dict[bytes, list[float]] = {many: [], one: []}
    for _ in range(20 * rounds):
        for request, times in whole.items():
            with socket.create_connection(("127.0.0.1", port)) as client:
                begun = time.perf_counter()
                client.sendall(request)
                client.recv(1)
                if request is many:
                    first.append(time.perf_counter() - begun)
                received = 1
                while received < RANGES * RANGE_BYTES:
                    received += len(client.recv(1 << 20))
                times.append(time.perf_counter() - begun)
    idle = resident_memory(daemon.pid)
    with peak_memory(daemon.pid) as peak, _stalled(port, many, STALLED):
        # A thread has to read them, and there are fewer threads than clients.
        answered = timed(lambda: daemon.registry.get(path, range="bytes=0-9"))
    daemon.stop()
    return [
        Figure(
            name=f"{RANGES} ranges: first byte, 95th percentile",
            value=1e3 * percentile(first, 0.95),
            unit="ms",
            at_most=20,
        ),
        Figure(
            name=f"{RANGES} ranges / the same bytes in one range: time",
            value=median_ratio(whole[many], whole[one]),
            unit="times",
        ),
        Figure(
            name=f"{STALLED} clients that read nothing of it: memory",
            value=(peak[0] - idle) / 1e6,
            unit="MB",
            at_most=STALLED * 0.25,
        ),
        Figure(
            name="ten bytes of the blob beside them, read by a thread",
            value=1e3 * answered,
            unit="ms",
            at_most=20,
        ),
    ]


@contextmanager
def _stalled(port: int, request: bytes, count: int) -> Iterator[None]:
    """Keep clients that have sent a request, and read one byte of its answer."""
    with ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(request)
            client.recv(1)
        yield


if __name__ == "__main__":
    run({"partial_pulls": measure}, "tests.benchmarks.partial_pulls", sys.argv[1:])
