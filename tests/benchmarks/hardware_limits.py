"""
Measure the limits of this machine: no daemon on it is faster than these.

    python -m tests.benchmarks.hardware_limits [--rounds N] [--quick] [--json]
"""

from __future__ import annotations

import hashlib
import os
import socket
import statistics
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from isal import isal_zlib

from nixery.layers.compression import PIECE_BYTES
from tests.benchmarks.measure import Figure, Options, run, timed
from tests.end_to_end.processes import private_directory

__all__ = ["measure"]

MEGABYTES = 200


def measure(options: Options) -> list[Figure]:
    data = _typical_bytes((4 if options.quick else MEGABYTES) << 20)
    file = private_directory("ceilings") / "file"
    file.write_bytes(data)
    pieces = [data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES)]
    works: dict[str, Callable[[], object]] = {
        "SHA-256 alone": lambda: _hash(pieces),
        "ISA-L gzip, level 1, alone": lambda: _compress(pieces),
        "reading from the page cache": lambda: _read(file),
        "one connection over the loopback": lambda: _send(data),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.rounds):
        for name, work in works.items():
            seconds[name].append(timed(work))
    return [
        Figure(name=name, value=len(data) / statistics.median(times) / 1e6, unit="MB/s")
        for name, times in seconds.items()
    ]


def _typical_bytes(size: int) -> bytes:
    """Return bytes typical of layers: programs and libraries of this machine."""
    data = bytearray()
    for path in sorted(Path("/usr/lib").rglob("*.so*")):
        if len(data) >= size:
            break
        if path.is_file() and os.access(path, os.R_OK):
            data += path.read_bytes()
    while len(data) < size:
        data += bytes(data) or os.urandom(1 << 16)
    return bytes(data[:size])


def _hash(pieces: list[bytes]) -> None:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)


def _compress(pieces: list[bytes]) -> None:
    compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    for piece in pieces:
        compressor.compress(piece)
    compressor.flush()


def _read(path: Path) -> None:
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _send(data: bytes) -> None:
    buffer = bytearray(1 << 20)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sender,
        server.accept()[0] as receiver,
    ):
        thread = threading.Thread(target=sender.sendall, args=(data,))
        thread.start()
        missing = len(data)
        while missing:
            missing -= receiver.recv_into(buffer)
        thread.join()


if __name__ == "__main__":
    run({"ceilings": measure}, "tests.benchmarks.hardware_limits", sys.argv[1:])
