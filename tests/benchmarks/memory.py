"""
How much memory the daemon takes while it packs a large image and serves downloads.

    python -m tests.benchmarks.memory [--quick] [--json]

The large image of the demo package set is pulled for the first time, and sixteen clients
download a large blob meanwhile, again and again.
"""

from __future__ import annotations

import sys
import threading

from tests.benchmarks.blobs import store_blob
from tests.benchmarks.client import download, fetch
from tests.benchmarks.cold import LARGE
from tests.benchmarks.measure import Figure, Options, run
from tests.benchmarks.peers import Daemon, manifest_request, peak_memory
from tests.end_to_end.sets import demo_set

__all__ = ["measure"]

CLIENTS = 16


def measure(options: Options) -> list[Figure]:
    daemon = Daemon(demo_set(), name="memory").start()
    try:
        return _measure(daemon, "hello" if options.quick else LARGE, 1 if options.quick else 128)
    finally:
        daemon.stop()


def _measure(daemon: Daemon, name: str, megabytes: int) -> list[Figure]:
    port, size = daemon.registry.port, megabytes << 20
    digest, _ = store_blob(daemon.storage, size)
    started = peak_memory(daemon.pid)
    made = threading.Event()

    def pull() -> None:
        try:
            fetch(port, manifest_request(name, "latest"))
        finally:
            made.set()

    thread = threading.Thread(target=pull)
    thread.start()
    sent = 0
    while not made.is_set() or not sent:
        download(port, f"/v2/{name}/blobs/{digest}", size, connections=CLIENTS)
        sent += size * CLIENTS
    thread.join()
    return [
        Figure(name="peak, just started", value=started / 1e6, unit="MB"),
        Figure(name="sent meanwhile", value=sent / 1e6, unit="MB"),
        Figure(
            name=f"peak, with {name} packed and {CLIENTS} downloads",
            value=peak_memory(daemon.pid) / 1e6,
            unit="MB",
            at_most=250,
        ),
    ]


if __name__ == "__main__":
    run({"memory": measure}, "tests.benchmarks.memory", sys.argv[1:])
