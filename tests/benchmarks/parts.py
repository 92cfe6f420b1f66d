"""
Measure the parts of a cold pull, each alone: the work of Nix, and packing.

    python -m tests.benchmarks.parts PACKAGE_SET NAME

Prints, as JSON, seconds, and how much there is to pack.  A process of its own, because
a reactor runs once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attrs import asdict, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from nixery.image.names import parse_image_name
from nixery.layers.grouping import LayerSettings, Popularity, plan_layers
from nixery.layers.tarball import Compression, pack_store_paths
from nixery.nix.progress import Phase
from tests.end_to_end.processes import private_directory
from tests.integration.nixenv import make_nix, path_set

__all__ = ["EVALUATIONS", "Parts", "measure_parts"]

EVALUATIONS = 5
"""Measurements of the evaluation alone: it is short, and differences are shorter."""


@frozen(kw_only=True)
class Parts:
    """
    The parts of a cold pull.

    :param evaluation: seconds that Nix takes to evaluate, each time that it is asked.
    :param nix: seconds that Nix takes to evaluate, to find everything built, and to
        tell the closure, one after the other.
    :param packing: seconds that two threads take to pack the store paths.
    :param size: of the archives, in bytes.
    :param layers: how many there are.
    """

    evaluation: Sequence[float]
    nix: float
    packing: float
    size: int
    layers: int


def measure_parts(package_set: Path, name: str) -> Parts:
    """Measure in another process."""
    child = subprocess.run(
        [sys.executable, "-m", __name__, str(package_set), name],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return Parts(**json.loads(child.stdout))


class _Silence:
    """Progress that is discarded."""

    def phase(self, _phase: Phase, /) -> None: ...

    def count(self, _phase: Phase, _done: int, _expected: int, _unit: str, /) -> None: ...

    def derivation(self, _derivation: str, /) -> None: ...

    def derivation_phase(self, _derivation: str, _phase: str, /) -> None: ...

    def derivation_ended(self, _derivation: str, _succeeded: bool, /) -> None: ...

    def log(self, _line: str, _derivation: str, /) -> None: ...


async def _measure(package_set: Path, name: str) -> Parts:
    nix = make_nix(private_directory("parts"))
    image = parse_image_name(name, "x86_64-linux")
    seconds_each = []
    for _ in range(EVALUATIONS):
        begun = time.perf_counter()
        await nix.evaluate(path_set(package_set), image.system, image.package_requests)
        seconds_each.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    evaluation = await nix.evaluate(path_set(package_set), image.system, image.package_requests)
    realisation = await nix.realise(evaluation.packages, _Silence())
    graph = await nix.closure(realisation.outputs)
    seconds = time.perf_counter() - begun
    await nix.release(realisation)

    plan = plan_layers(graph, Popularity(), LayerSettings())
    groups = sorted(plan, key=lambda group: group.nar_size, reverse=True)
    begun = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        packed = list(
            pool.map(
                lambda group: pack_store_paths(
                    [path.path for path in group.paths], len, compression=Compression()
                ),
                groups,
            )
        )
    return Parts(
        evaluation=seconds_each,
        nix=seconds,
        packing=time.perf_counter() - begun,
        size=sum(layer.uncompressed_size for layer in packed),
        layers=len(packed),
    )


def _main(_reactor: Any, package_set: str, name: str) -> Deferred[None]:
    measured = Deferred.fromCoroutine(_measure(Path(package_set), name))
    return measured.addCallback(lambda parts: print(json.dumps(asdict(parts))))


if __name__ == "__main__":
    arguments: Sequence[str] = sys.argv[1:]
    react(_main, arguments)
