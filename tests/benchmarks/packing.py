"""
How fast layers are packed, against what the hardware and others can do.

    python -m tests.benchmarks.packing [DIR ...] [--megabytes N] [--rounds N] [--json]

Copies files from the directories (from this machine's libraries, where none is
named) into a scratch store of eight store paths, so that all runs read the same
files out of the page cache, and makes another one of 50,000 small files.  Every
round runs everything once, one after the other; what is reported are medians, and
medians of the ratios within a round, which survive a noisy machine better than
times do.  Two threads need two processors that nobody else uses.

``tar | gzip -6`` are two processes on two processors, of which gzip's is the one
that is busy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from isal import isal_zlib

from nixery.compression import PIECE
from nixery.tarball import Compression, pack_store_paths

COMPRESSION = Compression()
SMALL_FILES = 50_000
TARFILE_FILES = 5_000
GROUPS = 8
DEFAULT_SOURCES = ("/usr/lib/llvm-*", "/usr/lib/jvm", "/usr/lib/x86_64-linux-gnu", "/usr/share")

OURS = "nixery, one thread"
OURS_TWICE = "nixery, two threads"
GZIP = "tar | gzip -6"
ISAL = "ISA-L and both hashes, in memory"
SHA = "SHA-256 alone, in memory"
SMALL = "nixery, small files"
TARFILE = "tarfile without compression, small files"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.packing")
    parser.add_argument("directories", nargs="*", metavar="DIR", type=Path)
    parser.add_argument("--megabytes", type=int, default=200, help="how much of them (200)")
    parser.add_argument("--rounds", type=int, default=3, help="how many times (3)")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="nixery-packing-") as scratch:
        store, small = Path(scratch, "store"), Path(scratch, "small")
        sources = options.directories or [
            path for pattern in DEFAULT_SOURCES for path in sorted(Path("/").glob(pattern[1:]))
        ]
        files = make_store(store, sources, options.megabytes * 1_000_000)
        make_small_files(small)
        report = measure(store, small, options.rounds)
    report["files"] = files
    print(json.dumps(report, indent=2) if options.json else as_table(report))


def measure(store: Path, small: Path, rounds: int) -> dict[str, object]:
    """All times in seconds, the rates by their medians, and the ratios that matter."""
    archives = [isal_zlib.decompress(packed, 31) for packed in pack_to_memory(store)]
    total = sum(map(len, archives))
    compressed = sum(map(len, pack_to_memory(store)))
    runs: dict[str, Callable[[], object]] = {
        OURS: lambda: pack_all(store, threads=1),
        OURS_TWICE: lambda: pack_all(store, threads=2),
        ISAL: lambda: deflate_and_hash(archives),
        SHA: lambda: [hashlib.sha256(archive).digest() for archive in archives],
        GZIP: lambda: subprocess.run(
            "tar --create --sort=name . | gzip -6 > /dev/null", shell=True, check=True, cwd=store
        ),
        SMALL: lambda: pack_all(small, threads=1),
        TARFILE: lambda: pack_with_tarfile(small),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began, busy = time.perf_counter(), time.process_time()
            run()
            seconds[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - busy)

    def rate(times: Sequence[float]) -> float:
        return total / statistics.median(times) / 1e6

    def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
        """How many times as fast ``one`` is as ``other``, within a round."""
        return statistics.median(b / a for a, b in zip(times[one], times[other], strict=True))

    return {
        "archive_bytes": total,
        "compression_ratio": total / compressed,
        "seconds": seconds,
        "processor_seconds": processor,
        "megabytes_per_second": {
            name: rate(seconds[name]) for name in (OURS, OURS_TWICE, ISAL, SHA, GZIP)
        },
        "megabytes_per_processor_second": {
            name: rate(processor[name]) for name in (OURS, OURS_TWICE, ISAL, SHA)
        },
        "microseconds_per_entry": {
            SMALL: statistics.median(seconds[SMALL]) / SMALL_FILES * 1e6,
            TARFILE: statistics.median(seconds[TARFILE]) / TARFILE_FILES * 1e6,
        },
        "ratios": {
            "one thread / (tar | gzip -6)": ratio(seconds, OURS, GZIP),
            "one thread / (ISA-L and both hashes)": ratio(seconds, OURS, ISAL),
            "the same in processor time": ratio(processor, OURS, ISAL),
            "two threads / one": ratio(seconds, OURS_TWICE, OURS),
        },
    }


def as_table(report: dict[str, object]) -> str:
    lines = [
        f"{report['archive_bytes']:,} bytes of archive",
        f"{report['files']:,} files",
        f"compressed {report['compression_ratio']:.2f}:1",
    ]
    for section, unit, digits in (
        ("megabytes_per_second", "MB/s", 0),
        ("megabytes_per_processor_second", "MB per second of processor time", 0),
        ("microseconds_per_entry", "us an entry", 1),
        ("ratios", "times", 2),
    ):
        values = report[section]
        assert isinstance(values, dict)
        lines += [f"{name:<44}{value:>10,.{digits}f} {unit}" for name, value in values.items()]
    return "\n".join(lines)


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


def make_small_files(store: Path) -> None:
    for number in range(SMALL_FILES):
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
    """What packing costs when there are no files, no headers and no copies."""
    for archive in archives:
        compressor = isal_zlib.compressobj(COMPRESSION.level, isal_zlib.DEFLATED, 31)
        uncompressed, compressed = hashlib.sha256(), hashlib.sha256()
        view = memoryview(archive)
        for start in range(0, len(view), PIECE):
            piece = view[start : start + PIECE]
            uncompressed.update(piece)
            compressed.update(compressor.compress(piece))
        compressed.update(compressor.flush())


def pack_with_tarfile(store: Path) -> None:
    """The first of the small files, as the standard library does it."""
    with open(os.devnull, "wb") as sink, tarfile.open(fileobj=sink, mode="w") as archive:
        for path in islice(store.rglob("*.txt"), TARFILE_FILES):
            archive.add(path)


if __name__ == "__main__":
    main(sys.argv[1:])
