"""
All benchmarks, one after the other.

    python -m tests.benchmarks [--only NAME] [--rounds N] [--images N] [--quick] [--json [FILE]]

What they compare with has to be installed: docker-registry, nginx, pigz, zstd and tar
from Debian.
Each of them runs alone, too, as ``python -m tests.benchmarks.NAME``.  A benchmark that
cannot run says why, and the others go on.
"""

from __future__ import annotations

import sys

from tests.benchmarks import (
    blobs,
    cold,
    compression,
    documents,
    evaluation,
    hardware_limits,
    indexes,
    manifests,
    memory,
    near_names,
    package_search,
    packing,
    pages,
    partial_pulls,
    records,
    scale,
    soak,
    stalled,
    start,
)
from tests.benchmarks.measure import run

if __name__ == "__main__":
    run(
        {
            "hardware_limits": hardware_limits.measure,
            "packing": packing.measure,
            "compression": compression.measure,
            "scale": scale.measure,
            "start": start.measure,
            "manifests": manifests.measure,
            "blobs": blobs.measure,
            "cold": cold.measure,
            "indexes": indexes.measure,
            "evaluation": evaluation.measure,
            "memory": memory.measure,
            "documents": documents.measure,
            "near_names": near_names.measure,
            "package_search": package_search.measure,
            "stalled": stalled.measure,
            "pages": pages.measure,
            "partial_pulls": partial_pulls.measure,
            "records": records.measure,
            "soak": soak.measure,
        },
        "tests.benchmarks",
        sys.argv[1:],
    )
