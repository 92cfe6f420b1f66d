"""
Measure the throughput of large blobs, against nginx with sendfile and one worker.

    python -m tests.benchmarks.blobs [--rounds N] [--quick] [--json]

Both send the same file of the daemon's storage: out of the page cache, to one client
and to sixteen, and with the page cache dropped, to one client.  While sixteen clients
download, another client asks for ``/v2/`` all the time.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
from pathlib import Path

from nixery.image.names import Digest
from nixery.storage.filesystem.blobs import Blobs
from tests.benchmarks.client import download, probing
from tests.benchmarks.measure import Figure, Options, median_ratio, percentile, run
from tests.benchmarks.peers import Daemon, Nginx, processor_seconds
from tests.end_to_end.processes import private_directory

__all__ = ["measure", "store_blob"]

MEGABYTES = 256
CLIENTS = 16

ONE, MANY, COLD = "one client", f"{CLIENTS} clients", "one client, cold"
OURS, NGINX = "nixery", "nginx"


def measure(options: Options) -> list[Figure]:
    directory = private_directory("blobs") / "set"
    directory.mkdir()
    (directory / "default.nix").write_text("{ }\n")
    daemon = Daemon(directory, name="blobs").start()
    size = (1 if options.quick else MEGABYTES) << 20
    digest, file = store_blob(daemon.storage, size)
    nginx = Nginx(daemon.storage)
    try:
        paths = {
            OURS: (daemon.registry.port, f"/v2/some/image/blobs/{digest}", daemon.pid),
            NGINX: (nginx.port, f"/{file.relative_to(daemon.storage)}", nginx.pid),
        }
        return _compare(paths, file, size, options.rounds)
    finally:
        daemon.stop()
        nginx.stop()


def _compare(
    paths: dict[str, tuple[int, str, int]], file: Path, size: int, rounds: int
) -> list[Figure]:
    rates: dict[tuple[str, str], list[float]] = {}
    costs: dict[tuple[str, str], list[float]] = {}
    pings: dict[str, list[float]] = {OURS: [], NGINX: []}
    for _ in range(rounds):
        for server, (port, path, pid) in paths.items():
            # One client is done so soon that it downloads several times.
            for kind, clients, times in ((COLD, 1, 1), (ONE, 1, 4), (MANY, CLIENTS, 1)):
                if kind == COLD:
                    _forget(file)
                busy = processor_seconds(pid)
                seconds = sum(download(port, path, size, connections=clients) for _ in range(times))
                gigabytes = size * clients * times / 1e9
                rates.setdefault((server, kind), []).append(gigabytes / seconds)
                costs.setdefault((server, kind), []).append(
                    (processor_seconds(pid) - busy) / gigabytes
                )
        for server, (port, path, _) in paths.items():
            with probing(port, "/v2/" if server == OURS else "/ready") as latencies:
                download(port, path, size, connections=CLIENTS)
            pings[server] += latencies

    figures = []
    for (server, kind), each in rates.items():
        figures += [
            Figure(name=f"{server}, {kind}: rate", value=statistics.median(each), unit="GB/s"),
            Figure(
                name=f"{server}, {kind}: processor time",
                value=statistics.median(costs[server, kind]),
                unit="s/GB",
            ),
        ]
    for server, latencies in pings.items():
        figures.append(
            Figure(
                name=f"{server}, small answers beside {MANY}: 99th percentile",
                value=1e3 * percentile(latencies, 0.99),
                unit="ms",
                at_most=20 if server == OURS else None,
            )
        )
    for kind in (ONE, MANY, COLD):
        figures.append(
            Figure(
                name=f"nixery / nginx, {kind}: rate",
                value=median_ratio(rates[OURS, kind], rates[NGINX, kind]),
                unit="times",
                at_least=None if kind == COLD else 0.6,
            )
        )
    for kind in (ONE, MANY):
        # Ticks of a processor's clock are hundredths of a second.
        floor = [max(cost, 0.01) for cost in costs[NGINX, kind]]
        figures.append(
            Figure(
                name=f"nixery / nginx, {kind}: processor time",
                value=median_ratio(costs[OURS, kind], floor),
                unit="times",
                at_most=2,
            )
        )
    return figures


def store_blob(storage: Path, size: int) -> tuple[Digest, Path]:
    """A blob of random bytes, and the file that it is in."""
    blobs = Blobs(str(storage / "blobs" / "sha256"), str(storage / "tmp"))
    draft, hashed = blobs.create(), hashlib.sha256()
    for _ in range(0, size, 1 << 20):
        piece = os.urandom(1 << 20)
        hashed.update(piece)
        draft.write(piece)
    digest = Digest(f"sha256:{hashed.hexdigest()}")
    blobs.commit(draft, digest, size, "application/vnd.oci.image.layer.v1.tar")
    hexadecimal = hashed.hexdigest()
    return digest, storage / "blobs" / "sha256" / hexadecimal[:2] / hexadecimal


def _forget(file: Path) -> None:
    """Drop a file from the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    run({"blobs": measure}, "tests.benchmarks.blobs", sys.argv[1:])
