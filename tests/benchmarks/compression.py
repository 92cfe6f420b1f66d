"""
Compare the cost of pulls by kind of compression, on a LAN of 1 and of 10 Gbit/s.

    python -m tests.benchmarks.compression [--rounds N] [--quick] [--json FILE]

Closures of the demo package set are cut into layers as the daemon cuts them.  Packing
is measured on one and on two threads, unpacking as engines do it: one layer after the
other, each through a program that expands it (``gzip -dc``, which is about as fast as
Go's gzip in podman and skopeo; ``pigz -dc``, which Docker and containerd call where it
is installed; ``zstd -dc``), into tar, onto the disk.  Sending is computed, at 94 % of
the nominal rate, so that no card is needed.

What a pull costs follows from these three.  When it is cold, all layers are packed
before the manifest is answered, and then sent and unpacked, one after the other at
worst, side by side at best; when it is warm, packing is left out.

What came out, and why gzip at level 1 is the default nevertheless: zstd at its level 1
packs nearly as fast, makes layers some 6 % smaller, and is expanded for a third of the
processor time that gzip takes, or less.  Since unpacking and not the network is what a
pull waits for, even at 1 Gbit/s, pulls gain from it.  But Docker before 23, which Debian
12 has, cannot read it at all, so that it is for operators who know their clients.  From
level 3 on, zstd packs too slowly for what it saves.  Without compression, packing is
three times as fast, and pulls are no faster once a disk is written to; storage and
network carry two or three times as much.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attrs import frozen

from nixery.image.closure import parse_db_dump
from nixery.layers.compression_levels import Compression
from nixery.layers.grouping import LayerSettings, Popularity, plan_layers
from nixery.layers.tarball import PackedLayer, pack_store_paths
from tests.benchmarks.measure import Figure, Options, Unavailable, median_ratio, run, timed
from tests.end_to_end.daemon import single_user_nix
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.processes import private_directory
from tests.end_to_end.processes import run as run_program

__all__ = ["Costs", "measure", "pull_seconds"]

NAMES = ("ffmpeg", "jdk")

KINDS = (
    Compression(kind="gzip", level=0),
    Compression(kind="gzip", level=1),
    Compression(kind="gzip", level=3),
    Compression(kind="zstd", level=1),
    Compression(kind="zstd", level=3),
    Compression(kind="zstd", level=6),
    Compression(kind="zstd-chunked", level=1),
    Compression(kind="zstd-chunked", level=3),
    Compression(kind="none"),
)

EXPANDERS = {
    "gzip": ("gzip -dc", "pigz -dc"),
    "zstd": ("zstd -q -dc",),
    "zstd-chunked": ("zstd -q -dc",),
    "none": ("cat",),
}

NETWORKS = {"1 Gbit/s": 0.94e9 / 8, "10 Gbit/s": 9.4e9 / 8}
"""Throughput of layers on a network, in bytes per second."""


@frozen(kw_only=True)
class Costs:
    """
    The three parts of a pull.

    :param pack: seconds that packing takes with two threads.
    :param size: what is sent, in bytes.
    :param unpack: seconds that the client takes for unpacking.
    """

    pack: float
    size: int
    unpack: float


def pull_seconds(costs: Costs, rate: float) -> dict[str, float]:
    """
    Compute the duration of a pull, in seconds.

    :param rate: of the network, in bytes per second.
    """
    send = costs.size / rate
    return {
        "cold, one after the other": costs.pack + send + costs.unpack,
        "cold, unpacking while receiving": costs.pack + max(send, costs.unpack),
        "warm, unpacking while receiving": max(send, costs.unpack),
    }


def measure(options: Options) -> list[Figure]:
    missing = [name for name in ("pigz", "zstd") if shutil.which(name) is None]
    if missing:
        raise Unavailable(f"not installed: apt-get install {' '.join(missing)}")
    figures = []
    for name in ("hello",) if options.quick else NAMES:
        figures += _closure(name, options.rounds)
    return figures


def _closure(name: str, rounds: int) -> list[Figure]:
    layers = _layers(name)
    scratch = private_directory("compression")
    packed = {kind: _pack_to(scratch / kind.label, layers, kind) for kind in KINDS}
    total = sum(layer.uncompressed_size for layer in packed[KINDS[0]])
    works: dict[tuple[Compression, str], Callable[[], object]] = {}
    for kind in KINDS:
        for threads in (1, 2):
            works[kind, f"packing, threads: {threads}"] = _packing(layers, kind, threads)
        for expander in EXPANDERS[kind.kind]:
            works[kind, expander] = _unpacking(expander, scratch / kind.label, scratch / "tree")
    seconds: dict[tuple[Compression, str], list[float]] = {key: [] for key in works}
    # One kind is compared with another by the processor's time, which other programs change less.
    busy: dict[tuple[Compression, str], list[float]] = {key: [] for key in works}
    for _ in range(rounds):
        for key, work in works.items():
            begun = time.process_time()
            seconds[key].append(timed(work))
            busy[key].append(time.process_time() - begun)
            shutil.rmtree(scratch / "tree", ignore_errors=True)
    shutil.rmtree(scratch)
    medians = {key: statistics.median(times) for key, times in seconds.items()}

    figures = [Figure(name=f"{name}: to be packed", value=total / 1e6, unit="MB")]
    for kind in KINDS:
        size = sum(layer.size for layer in packed[kind])
        title = f"{name}, {kind.label}"
        figures.append(Figure(name=f"{title}: ratio", value=total / size, unit="to 1"))
        figures += [
            Figure(name=f"{title}: {what}", value=total / medians[each, what] / 1e6, unit="MB/s")
            for each, what in works
            if each == kind
        ]
        # A client with what expands fastest, and one with what is always there.
        for expander in EXPANDERS[kind.kind]:
            costs = Costs(
                pack=medians[kind, "packing, threads: 2"],
                size=size,
                unpack=medians[kind, expander],
            )
            for network, rate in NETWORKS.items():
                figures += [
                    Figure(name=f"{title}, {expander}, {network}: {what}", value=value, unit="s")
                    for what, value in pull_seconds(costs, rate).items()
                ]
    return [*figures, *_price_of_chunks(name, packed, busy)]


def _price_of_chunks(
    name: str,
    packed: Mapping[Compression, Sequence[PackedLayer]],
    busy: Mapping[tuple[Compression, str], Sequence[float]],
) -> list[Figure]:
    """Compare chunked layers with plain zstd of the same level."""
    figures = []
    for chunked in KINDS:
        if chunked.kind != "zstd-chunked":
            continue
        plain = Compression(kind="zstd", level=chunked.level)
        title = f"{name}, {chunked.label} / {plain.label}"
        sizes = [sum(layer.size for layer in packed[kind]) for kind in (chunked, plain)]
        threads = "packing, threads: 1"
        figures += [
            Figure(
                name=f"{title}: size",
                value=sizes[0] / sizes[1],
                unit="times",
                at_most=1.17 if chunked.level == 1 else None,
            ),
            Figure(
                name=f"{title}: speed of packing, by the processor's time",
                value=median_ratio(busy[plain, threads], busy[chunked, threads]),
                unit="times",
                at_least=0.7,
            ),
        ]
    return figures


def _layers(name: str) -> list[list[str]]:
    """The store paths of the layers of a package, the largest layer first."""
    environ = {**os.environ, **single_user_nix()}

    def call(*argv: str) -> str:
        return run_program(argv, environ=environ, seconds=1800).checked().stdout

    outputs = call("nix-build", "--no-out-link", str(demo_set()), "-A", name).split()
    closure = call("nix-store", "-qR", *outputs).split()
    graph = parse_db_dump(call("nix-store", "--dump-db", *closure).encode())
    plan = plan_layers(graph, Popularity(), LayerSettings())
    groups = sorted(plan, key=lambda group: group.nar_size, reverse=True)
    return [[path.path for path in group.paths] for group in groups]


def _pack_to(
    directory: Path, layers: Sequence[Sequence[str]], kind: Compression
) -> list[PackedLayer]:
    directory.mkdir()
    packed = []
    for number, paths in enumerate(layers):
        with (directory / f"{number:03}").open("wb") as file:
            packed.append(pack_store_paths(paths, file.write, compression=kind))
    return packed


def _packing(
    layers: Sequence[Sequence[str]], kind: Compression, threads: int
) -> Callable[[], object]:
    def pack() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda paths: pack_store_paths(paths, len, compression=kind), layers):
                pass

    return pack


def _unpacking(expander: str, layers: Path, tree: Path) -> Callable[[], object]:
    command = f"for layer in {layers}/*; do {expander} < $layer | tar --extract || exit 1; done"

    def unpack() -> None:
        tree.mkdir()
        subprocess.run(command, shell=True, check=True, cwd=tree)

    return unpack


if __name__ == "__main__":
    run({"compression": measure}, "tests.benchmarks.compression", sys.argv[1:])
