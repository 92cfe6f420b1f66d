"""
Measure how fast layers are packed, against the hardware's limits and other programs.

    python -m tests.benchmarks.packing [--rounds N] [--quick] [--json]

Copies this machine's libraries and programs into a scratch store of eight store paths,
so that all runs read the same files out of the page cache, and makes another one of
50,000 small files.  Two threads need two processors that nothing else uses.

``tar | gzip -6`` are two processes on two processors, of which gzip's is the one
that is busy; pigz uses all processors that there are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from isal import isal_zlib

from nixery.layers.compression import PIECE_BYTES
from nixery.layers.tarball import Compression, pack_store_paths
from tests.benchmarks.measure import Figure, Options, median_ratio, run, timed
from tests.end_to_end.processes import private_directory

__all__ = ["measure"]

COMPRESSION = Compression()
SMALL_FILES = 50_000
TARFILE_FILES = 5_000
GROUPS = 8
MEGABYTES = 200
SOURCES = ("/usr/lib/llvm-*", "/usr/lib/jvm", "/usr/lib/x86_64-linux-gnu", "/usr/share")

OURS = "nixery, one thread"
OURS_TWICE = "nixery, two threads"
GZIP = "tar | gzip -6"
PIGZ = "tar | pigz -6"
ISAL = "ISA-L and both hashes, in memory"
SHA = "SHA-256 alone, in memory"
SMALL = "nixery, small files"
TARFILE = "tarfile without compression, small files"


def measure(options: Options) -> list[Figure]:
    megabytes, small_files = (2, 200) if options.quick else (MEGABYTES, SMALL_FILES)
    scratch = private_directory("packing")
    store, small = scratch / "store", scratch / "small"
    sources = [path for pattern in SOURCES for path in sorted(Path("/").glob(pattern[1:]))]
    files = make_store(store, sources, megabytes * 1_000_000)
    make_small_files(small, small_files)
    tarfile_files = min(TARFILE_FILES, small_files)

    archives = [isal_zlib.decompress(packed, 31) for packed in pack_to_memory(store)]
    total = sum(map(len, archives))
    compressed = sum(map(len, pack_to_memory(store)))
    runs: dict[str, Callable[[], object]] = {
        OURS: lambda: pack_all(store, threads=1),
        OURS_TWICE: lambda: pack_all(store, threads=2),
        ISAL: lambda: deflate_and_hash(archives),
        SHA: lambda: [hashlib.sha256(archive).digest() for archive in archives],
        GZIP: lambda: tar_through("gzip -6", store),
        PIGZ: lambda: tar_through("pigz -6", store),
        SMALL: lambda: pack_all(small, threads=1),
        TARFILE: lambda: pack_with_tarfile(small, tarfile_files),
    }
    if shutil.which("pigz") is None:
        del runs[PIGZ]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, work in runs.items():
            busy = time.process_time()
            seconds[name].append(timed(work))
            processor[name].append(time.process_time() - busy)

    return [
        Figure(name="archives", value=total / 1e6, unit="MB"),
        Figure(name="files in them", value=files, unit="files"),
        Figure(name="compressed", value=total / compressed, unit="to 1"),
        *(
            Figure(name=name, value=total / statistics.median(times) / 1e6, unit="MB/s")
            for name, times in seconds.items()
            if name not in {SMALL, TARFILE}
        ),
        Figure(
            name=SMALL,
            value=statistics.median(seconds[SMALL]) / small_files * 1e6,
            unit="us an entry",
            at_most=20,
        ),
        Figure(
            name=TARFILE,
            value=statistics.median(seconds[TARFILE]) / tarfile_files * 1e6,
            unit="us an entry",
        ),
        Figure(
            name="one thread / (tar | gzip -6)",
            value=median_ratio(seconds[GZIP], seconds[OURS]),
            unit="times",
            at_least=8,
        ),
        Figure(
            name="one thread / (ISA-L and both hashes)",
            value=median_ratio(seconds[ISAL], seconds[OURS]),
            unit="times",
            at_least=0.85,
        ),
        Figure(
            name="the same in processor time",
            value=median_ratio(processor[ISAL], processor[OURS]),
            unit="times",
        ),
        Figure(
            name="two threads / one",
            value=median_ratio(seconds[OURS], seconds[OURS_TWICE]),
            unit="times",
            at_least=1.7,
        ),
    ]


def tar_through(compressor: str, store: Path) -> None:
    """Run ``tar`` through a compressor in a shell, and discard the result."""
    subprocess.run(
        f"tar --create --sort=name . | {compressor} > /dev/null", shell=True, check=True, cwd=store
    )


def make_store(store: Path, sources: Sequence[Path], limit: int) -> int:
    """Copy regular files, ``limit`` bytes of them, into store paths of like size."""
    filled = [0] * GROUPS
    count = 0
    for path, size in regular_files(sources):
        if sum(filled) + size > limit:
            continue
        group = filled.index(min(filled))
        target = store / f"group-{group}" / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        filled[group] += size
        count += 1
    return count


def regular_files(sources: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    for source in sources:
        for directory, subdirectories, names in os.walk(source.absolute()):
            subdirectories.sort()
            for name in sorted(names):
                path = Path(directory, name)
                if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                    yield path, path.stat().st_size


def make_small_files(store: Path, count: int) -> None:
    for number in range(count):
        path = store / f"group-{number % GROUPS}" / f"directory-{number // 100}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the contents of file {number}\n" * (number % 40))


def store_paths(store: Path) -> list[str]:
    return [f"/nix/store/{path.name}" for path in sorted(store.iterdir())]


def pack_all(store: Path, *, threads: int) -> None:
    """One layer for each store path, its bytes thrown away."""
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(
            lambda path: pack_store_paths([path], len, compression=COMPRESSION, store=str(store)),
            store_paths(store),
        ):
            pass


def pack_to_memory(store: Path) -> Iterator[bytes]:
    for path in store_paths(store):
        layer = bytearray()
        pack_store_paths([path], layer.extend, compression=COMPRESSION, store=str(store))
        yield bytes(layer)


def deflate_and_hash(archives: Sequence[bytes]) -> None:
    """Do the least work of packing: no files, no headers and no copies."""
    for archive in archives:
        compressor = isal_zlib.compressobj(COMPRESSION.level, isal_zlib.DEFLATED, 31)
        uncompressed, compressed = hashlib.sha256(), hashlib.sha256()
        view = memoryview(archive)
        for start in range(0, len(view), PIECE_BYTES):
            piece = view[start : start + PIECE_BYTES]
            uncompressed.update(piece)
            compressed.update(compressor.compress(piece))
        compressed.update(compressor.flush())


def pack_with_tarfile(store: Path, count: int) -> None:
    """The first of the small files, as the standard library does it."""
    with open(os.devnull, "wb") as sink, tarfile.open(fileobj=sink, mode="w") as archive:
        for path in islice(store.rglob("*.txt"), count):
            archive.add(path)


if __name__ == "__main__":
    run({"packing": measure}, "tests.benchmarks.packing", sys.argv[1:])
