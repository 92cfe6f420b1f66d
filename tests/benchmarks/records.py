"""
Measure what a small record costs as the target of a symbolic link, and as a file.

    python -m tests.benchmarks.records [--rounds N] [--quick] [--json]

Each layer has two such records.  Four are published at a time, and are on the disk at the end; then
they are read.  Processor time tells more than duration, most of which is the disk's.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

from nixery.storage.filesystem.atomic_files import SymlinkRecord, small_temp_file
from nixery.storage.filesystem.files import read_symlink_record, synchronise_directory
from tests.benchmarks.measure import Figure, Options, run, timed
from tests.end_to_end.processes import private_directory

__all__ = ["measure"]

RECORD = b'{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": 12345678}'

AT_ONCE = 4
BATCHES = 20
"""Batches in each round."""


def measure(options: Options) -> list[Figure]:
    directory = private_directory("records")
    numbers = count()

    def link(path: Path) -> None:
        SymlinkRecord(str(directory), RECORD.decode()).link(str(path))

    def file(path: Path) -> None:
        with small_temp_file(str(directory), RECORD) as draft:
            draft.link(str(path))

    def publish(one: Callable[[Path], None], paths: list[Path]) -> None:
        for path in paths:
            one(path)
        synchronise_directory(str(directory))

    def read(paths: list[Path]) -> None:
        for path in paths:
            read_symlink_record(str(path))

    kinds = {"link": link, "file": file}
    seconds: dict[str, list[float]] = {}
    for _ in range(2 if options.quick else BATCHES * options.rounds):
        for name, one in kinds.items():
            paths = [directory / f"{next(numbers)}.json" for _ in range(AT_ONCE)]
            begun = time.process_time()
            took = timed(partial(publish, one, paths))
            seconds.setdefault(f"a {name}, published", []).append(took)
            published = time.process_time()
            seconds.setdefault(f"a {name}, published, processor time", []).append(published - begun)
            read(paths)
            read_time = time.process_time() - published
            seconds.setdefault(f"a {name}, read, processor time", []).append(read_time)
    return [
        Figure(name=name, value=statistics.median(times) / AT_ONCE * 1e6, unit="us")
        for name, times in seconds.items()
    ]


if __name__ == "__main__":
    run({"records": measure}, "tests.benchmarks.records", sys.argv[1:])
