"""
Measure the daemon's memory while downloads over TLS stall.

    python -m tests.benchmarks.stalled [--quick] [--json FILE]

A thousand clients request a large blob and read nothing.
"""

from __future__ import annotations

import sys

from tests.benchmarks.measure import Figure, Options, run
from tests.end_to_end.fairness import peak_memory, resident_memory
from tests.end_to_end.stalled import BYTES_PER_DOWNLOAD, StallingRegistry

__all__ = ["measure"]

CLIENTS = 1000


def measure(options: Options) -> list[Figure]:
    clients = 100 if options.quick else CLIENTS
    registry = StallingRegistry()
    try:
        # What the daemon needs once for all of them is no memory of each.
        for _ in range(2):
            with registry.stalled(10):
                pass
        idle = resident_memory(registry.daemon.pid)
        with peak_memory(registry.daemon.pid) as peak, registry.stalled(clients):
            pass
    finally:
        registry.daemon.stop()
    return [
        Figure(name="idle", value=idle / 1e6, unit="MB"),
        Figure(
            name=f"peak above idle, {clients} downloads over TLS stalled",
            value=(peak[0] - idle) / 1e6,
            unit="MB",
            at_most=clients * BYTES_PER_DOWNLOAD / 1e6,
        ),
    ]


if __name__ == "__main__":
    run({"stalled": measure}, "tests.benchmarks.stalled", sys.argv[1:])
