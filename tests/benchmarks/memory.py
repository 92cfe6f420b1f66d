"""
Measure the daemon's memory while it packs a large image and serves downloads.

    python -m tests.benchmarks.memory [--quick] [--json FILE]

An image of 2 GB, half of it noise, is pulled for the first time, and sixteen clients
download a large blob meanwhile, again and again.
"""

from __future__ import annotations

import sys
import threading

from tests.benchmarks.blobs import store_blob
from tests.benchmarks.client import download, fetch
from tests.benchmarks.generated import LARGE, large_set
from tests.benchmarks.measure import Figure, Options, run, timed
from tests.benchmarks.peers import Daemon, manifest_request, peak_memory

__all__ = ["measure"]

CLIENTS = 16
SIZE = 2_000_000_000


def measure(options: Options) -> list[Figure]:
    size = 8_000_000 if options.quick else SIZE
    daemon = Daemon(large_set(size), name="memory").start()
    try:
        return _measure(daemon, size, 1 if options.quick else 128)
    finally:
        daemon.stop()


def _measure(daemon: Daemon, size: int, megabytes: int) -> list[Figure]:
    port, blob_size = daemon.registry.port, megabytes << 20
    digest, _ = store_blob(daemon.storage, blob_size)
    started = peak_memory(daemon.pid)
    made = threading.Event()
    seconds: list[float] = []

    def pull() -> None:
        try:
            seconds.append(timed(lambda: fetch(port, manifest_request(LARGE, "latest"))))
        finally:
            made.set()

    thread = threading.Thread(target=pull)
    thread.start()
    sent = 0
    while not made.is_set() or not sent:
        download(port, f"/v2/{LARGE}/blobs/{digest}", blob_size, connections=CLIENTS)
        sent += blob_size * CLIENTS
    thread.join()
    return [
        Figure(name="peak, just started", value=started / 1e6, unit="MB"),
        Figure(name="files of the image", value=size / 1e6, unit="MB"),
        # Without it nothing was measured.
        Figure(name="until its manifest", value=seconds[0], unit="s"),
        Figure(name="sent meanwhile", value=sent / 1e6, unit="MB"),
        Figure(
            name=f"peak, with the image packed and {CLIENTS} downloads",
            value=peak_memory(daemon.pid) / 1e6,
            unit="MB",
            at_most=250,
        ),
    ]


if __name__ == "__main__":
    run({"memory": measure}, "tests.benchmarks.memory", sys.argv[1:])
