"""
Measure whether the daemon grows: a thousand cold images, one after the other.

    python -m tests.benchmarks.soak [--images N] [--quick] [--json FILE]

Each is an image of one tiny package that no other image has, made from evaluation to
manifest.  What the process holds is sampled on the way; the first part of it is when
caches fill that are bounded, and is left out.  What counts is the slope of the rest, as
a least squares line, because a single sample says when memory was last given back.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from nixery.wiring.storage import STORAGE_THREADS
from tests.benchmarks.client import fetch
from tests.benchmarks.generated import tiny_set
from tests.benchmarks.measure import Figure, Options, run
from tests.benchmarks.peers import Daemon, manifest_request

__all__ = ["Sample", "measure", "slope"]

SAMPLES = 50
WARM_UP = 0.4
"""The share of the images left out, while build tracker, manifests and allocator fill."""


PACKING = 2
"""The maximum sizes of the daemon's thread pools."""


@frozen(kw_only=True)
class Sample:
    """
    The resources that a process held.

    :param image: after how many images.
    :param resident: in bytes.
    :param descriptors: open files and sockets.
    """

    image: int
    resident: int
    descriptors: int
    threads: int


def measure(options: Options) -> list[Figure]:
    images = 10 if options.quick else options.images
    settings = [
        # Limits are on, and this client may have that many.
        f"--builds-per-client-per-hour={images}",
        f"--cpu-workers={PACKING}",
    ]
    daemon = Daemon(tiny_set(images), name="soak", options=settings).start()
    try:
        begun = time.perf_counter()
        samples = _soak(daemon, images)
        seconds = time.perf_counter() - begun
    finally:
        daemon.stop()
    counted = samples[int(len(samples) * WARM_UP) :]
    resident = [sample.resident for sample in counted]
    growth = slope([sample.image for sample in counted], resident)
    return [
        Figure(name="images", value=images, unit="images"),
        Figure(name="time of an image", value=1e3 * seconds / images, unit="ms"),
        Figure(name="resident, just started", value=samples[0].resident / 1e6, unit="MB"),
        Figure(name="resident, when caches are full", value=resident[0] / 1e6, unit="MB"),
        Figure(name="resident, at the end", value=resident[-1] / 1e6, unit="MB", at_most=250),
        Figure(
            name="growth from then on, of an image",
            value=growth / 1e3,
            unit="kB",
            # A manifest that is remembered takes some kB, up to the bound of its cache.
            at_most=10,
        ),
        Figure(
            name="more descriptors at the end",
            value=counted[-1].descriptors - counted[0].descriptors,
            unit="files",
            at_most=2,
        ),
        Figure(
            name="threads at the end",
            value=counted[-1].threads,
            unit="threads",
            # Pools fill when there is a use for it, and no further: these and the reactor's.
            at_most=PACKING + STORAGE_THREADS + 1,
        ),
    ]


def slope(places: Sequence[float], values: Sequence[float]) -> float:
    """Return the growth of values from one place to the next, by least squares."""
    return statistics.linear_regression(places, values).slope if len(places) > 1 else 0.0


def _soak(daemon: Daemon, images: int) -> list[Sample]:
    samples = [_sample(daemon.pid, 0)]
    step = max(1, images // SAMPLES)
    for number in range(images):
        fetch(daemon.registry.port, manifest_request(f"tiny{number}", "latest"))
        if (number + 1) % step == 0:
            samples.append(_sample(daemon.pid, number + 1))
    return samples


def _sample(pid: int, image: int) -> Sample:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return Sample(
        image=image,
        resident=int(status["VmRSS"].split()[0]) * 1024,
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=int(status["Threads"]),
    )


if __name__ == "__main__":
    run({"soak": measure}, "tests.benchmarks.soak", sys.argv[1:])
