"""
Measure the growth of a build's stages with the closure: 100, 1,000 and 5,000 store paths.

    python -m tests.benchmarks.scale [--rounds N] [--quick] [--json]

Nothing is built: closures are generated, with names, sizes and references like those
of a package set, always the same.  What matters is that no stage grows faster than
n log n; that factor is taken out of the last figures, which would be 1 then.
"""

from __future__ import annotations

import hashlib
import math
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred

from nixery.builds.cache_keys import layer_key
from nixery.builds.image_cache import ImageCache
from nixery.builds.layer_cache import LAYERS, LayerRecord
from nixery.builds.packer import Packer
from nixery.image.closure import parse_db_dump
from nixery.image.manifests import Image, ImageLayer, build_image
from nixery.image.names import Digest
from nixery.image.packages import Output, Package
from nixery.layers.grouping import LayerSettings, Popularity, plan_layers
from nixery.layers.rootfs import plan_root
from nixery.layers.tarball import FORMAT, Compression, pack_store_paths, pack_tree
from nixery.runtime.deferreds import gather
from nixery.testing.fakes import InlineWorkers
from nixery.testing.memory_storage import MemoryStorage
from tests.benchmarks.measure import Figure, Options, median_ratio, run, timed
from tests.end_to_end.processes import private_directory

__all__ = ["generate_dump", "measure"]

SIZES = (100, 1_000, 5_000)
QUICK_SIZES = (10, 40, 80)
ROOT_FILES = 20
"""Files of a package that the root of an image links to."""


def measure(options: Options) -> list[Figure]:
    sizes = QUICK_SIZES if options.quick else SIZES
    stages = {size: _stages(size) for size in sizes}
    seconds: dict[tuple[str, int], list[float]] = {}
    # Size by size within a round: the machine's speed changes from one to the next.
    for _ in range(options.rounds):
        for size in sizes:
            for name, stage in stages[size].items():
                seconds.setdefault((name, size), []).append(timed(stage))
    medians = {key: statistics.median(times) for key, times in seconds.items()}
    figures = [
        Figure(name=f"{name}, {size:,} paths", value=1e3 * medians[name, size], unit="ms")
        for name, size in medians
    ]
    small, large = sizes[1:]
    expected = large * math.log(large) / (small * math.log(small))
    return figures + [
        Figure(
            name=f"{name}, {small:,} to {large:,} paths, against n log n",
            value=median_ratio(seconds[name, large], seconds[name, small]) / expected,
            unit="times",
            # Of which a part is noise and what larger data do to a processor's caches.
            at_most=1.5,
        )
        for name in dict.fromkeys(name for name, _ in medians)
    ]


def _stages(size: int) -> dict[str, Callable[[], object]]:
    """Return the stages of a build with a closure of so many paths, by name."""
    dump = generate_dump(size)
    graph = parse_db_dump(dump)
    settings = LayerSettings()
    # Far more than a name of 255 characters can ask for.
    packages, store = _make_packages(size // 4)
    plan = plan_layers(graph, Popularity(), settings)
    layers = [
        ImageLayer(
            digest=_digest(f"layer {index}"),
            size=1000,
            diff_id=_digest(f"diff {index}"),
            uncompressed_size=3000,
            contents=tuple(group.names),
        )
        for index, group in enumerate(plan)
    ]

    def build() -> Image:
        return build_image(
            layers=layers,
            packages=packages,
            system="x86_64-linux",
            has_shell=True,
            has_ca_bundle=True,
        )

    storage = MemoryStorage()
    compression = Compression()
    for layer, group in zip(layers, plan, strict=True):
        storage.keep(layer.digest, bytes(layer.size), "")
        record = LayerRecord(
            digest=layer.digest, size=layer.size, diff_id=layer.diff_id, uncompressed_size=3000
        )
        key = layer_key(group.paths, compression.label, FORMAT)
        _finish(storage.set_record(LAYERS, key, record.encode()))

    def look_layers_up() -> None:
        packer = Packer(
            storage=storage, cpu=InlineWorkers(), max_batches=1, compression=compression
        )
        _finish(gather(packer.get_layer(group.paths, group.nar_size) for group in plan))

    cache = ImageCache(storage=storage, seconds=lambda: 0.0)
    image = build()

    def publish() -> None:
        _finish(cache.add("key", image))

    publish()

    def look_up() -> None:
        for _ in range(1000):
            _finish(cache.get("key"))

    outputs = [output.path for package in packages for output in package.outputs]
    closure = [f"/nix/store/{path.name}" for path in store.iterdir()]
    root = plan_root(packages, closure=closure, store=str(store))
    return {
        "reading the graph": lambda: parse_db_dump(dump),
        "planning layers": lambda: plan_layers(graph, Popularity(), settings),
        "planning the root": lambda: plan_root(packages, closure=closure, store=str(store)),
        "looking layers up": look_layers_up,
        f"packing a quarter of the paths, {ROOT_FILES} files each": lambda: pack_store_paths(
            outputs, len, compression=compression, store=str(store)
        ),
        "packing the root": lambda: pack_tree(root.entries, len, compression=compression),
        "making config and manifests": build,
        "publishing": publish,
        "1,000 warm look-ups": look_up,
    }


def generate_dump(size: int) -> str:
    """
    The text of ``nix-store --dump-db`` for a closure of ``size`` paths.

    Most paths refer to few others, preferring those that many refer to already, as in
    a real package set; sizes have a long tail.
    """
    chance = random.Random(size)  # The same closure each time.
    paths: list[str] = []
    popular: list[str] = []
    records: list[tuple[str, int, list[str]]] = []
    for number in range(size):
        name = f"{_hash32(f'{size}-{number}')}-package-{number}-{number % 9}.{number % 7}"
        path = f"/nix/store/{name}"
        wanted = min(len(paths), 1 + int(chance.expovariate(0.3)))
        references = sorted(
            {chance.choice(popular if chance.random() < 0.7 else paths) for _ in range(wanted)}
        )
        if number == size - 1:
            # What was asked for needs all of it, directly or not.
            references = sorted({*references, *_unreferenced(paths, records)})
        popular += [path, *references]
        paths.append(path)
        nar_size = int(chance.lognormvariate(12, 2))
        records.append((path, nar_size, references))
    return "".join(
        f"{path}\nsha256:{'0' * 64}\n{nar_size}\n\n{len(references)}\n"
        + "".join(f"{reference}\n" for reference in references)
        for path, nar_size, references in records
    )


def _unreferenced(paths: list[str], records: list[tuple[str, int, list[str]]]) -> set[str]:
    return set(paths) - {reference for *_, references in records for reference in references}


def _make_packages(count: int) -> tuple[list[Package], Path]:
    """Packages whose outputs have some files, in a store of their own."""
    store = private_directory("scale")
    packages = []
    for number in range(count):
        name = f"{_hash32(str(number))}-tool-{number}"
        for file in range(ROOT_FILES):
            path = store / name / ("bin" if file % 2 else f"share/topic-{file % 5}") / f"{file}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f"file-{number}-{file}").touch()
        packages.append(
            Package(
                requested=(f"tool-{number}",),
                attribute=f"tool-{number}",
                name=f"tool-{number}",
                pname="tool",
                version=str(number),
                description="A tool",
                priority=5,
                derivation=f"/nix/store/{name}.drv",
                outputs=(Output(name="out", path=f"/nix/store/{name}"),),
            )
        )
    return packages, store


def _digest(text: str) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")


def _hash32(text: str) -> str:
    """32 letters such as Nix's hashes are made of, which have no e."""
    return hashlib.sha256(text.encode()).hexdigest()[:32].replace("e", "z")


def _finish(coroutine: object) -> None:
    """Run a coroutine that waits for nothing."""
    failures: list[object] = []
    Deferred.fromCoroutine(coroutine).addErrback(failures.append)  # type: ignore[arg-type]  # any callable is one
    if failures:
        raise AssertionError(failures)


if __name__ == "__main__":
    run({"scale": measure}, "tests.benchmarks.scale", sys.argv[1:])
