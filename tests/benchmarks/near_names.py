"""
Measure what clients with misspelt names cost another client.

    python -m tests.benchmarks.near_names [--rounds N] [--quick] [--json]

The package set has 63,000 names. Twelve clients ask for images of names that do not exist, each
time other ones, while another client looks up packages that exist, each once, in the box of the
start page: that takes an evaluation. Its delay is compared with its delay alone. The set is
measured in the Nix store, where it cannot change, and at a path, whose changes are observed.
"""

from __future__ import annotations

import random
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Thread

from tests.benchmarks.client import fetch, request_for
from tests.benchmarks.measure import Figure, Options, run
from tests.benchmarks.peers import Daemon, pinned_set, processor_seconds
from tests.end_to_end.processes import private_directory

__all__ = ["CLIENTS", "measure", "misspelt_images", "names_set"]

NAMES = 63_000

CLIENTS = 12
"""Clients that ask for misspelt names."""

LOOK_UPS = 5
"""Look-ups of the other client in each round, alone and beside the others."""

MAX_RATIO = 3.0

MISSPELT_PER_IMAGE = 12

_SYLLABLES = [f"{first}{second}" for first in "bdgklmnprst" for second in "aeiou"]

_SET = """\
{ system, ... }:
let
  make = name: derivation { inherit name system; builder = "/bin/sh"; };
in
builtins.listToAttrs (map (name: { inherit name; value = make name; }) (import ./names.nix))
"""


def measure(options: Options) -> list[Figure]:
    directory, names = names_set(600 if options.quick else NAMES)
    figures = []
    for where, package_set in (("in the store", pinned_set(directory)), ("at a path", directory)):
        daemon = Daemon(package_set, name="near-names").start()
        try:
            figures += _measure(options, daemon, names, where)
        finally:
            daemon.stop()
    return figures


def names_set(size: int) -> tuple[Path, list[str]]:
    """
    Make a package set that is the same always.

    :return: its directory, and the names of its packages.
    """
    drawn = random.Random(size)
    names: dict[str, None] = {}
    while len(names) < size:
        names["".join(drawn.choices(_SYLLABLES, k=drawn.randint(3, 9)))] = None
    directory = private_directory("names") / "set"
    directory.mkdir()
    (directory / "default.nix").write_text(_SET)
    quoted = " ".join(f'"{name}"' for name in names)
    (directory / "names.nix").write_text(f"[ {quoted} ]\n")
    return directory, list(names)


def _measure(options: Options, daemon: Daemon, names: list[str], where: str) -> list[Figure]:
    port = daemon.registry.port
    wanted = iter(random.Random(0).sample(names, min(len(names), 500)))
    misspelt = misspelt_images(names)

    def look_up() -> float:
        begun = time.perf_counter()
        fetch(port, request_for(f"/api/packages?names={next(wanted)}"))
        return time.perf_counter() - begun

    # What is made once, is made now.
    look_up()
    daemon.registry.manifest(next(misspelt))
    alone = [look_up() for _ in range(LOOK_UPS * options.rounds)]
    busy, asked = processor_seconds(daemon.pid), 0
    with _asking(port, misspelt) as answered:
        beside = [look_up() for _ in range(LOOK_UPS * options.rounds)]
        asked = sum(answered)
    busy = processor_seconds(daemon.pid) - busy
    return [
        Figure(
            name=f"{where}: beside {CLIENTS} clients with misspelt names, to alone",
            value=statistics.median(beside) / statistics.median(alone),
            unit="times",
            at_most=MAX_RATIO,
        ),
        Figure(name=f"{where}: alone", value=statistics.median(alone), unit="s"),
        Figure(name=f"{where}: longest beside them", value=max(beside), unit="s"),
        Figure(name=f"{where}: misspelt images answered", value=asked, unit="images"),
        Figure(name=f"{where}: the daemon's processor time meanwhile", value=busy, unit="s"),
    ]


def misspelt_images(names: list[str]) -> Iterator[str]:
    """Yield names of images whose packages do not exist, and are near to some that do."""
    drawn = random.Random(1)
    known = set(names)
    for number in count():
        parts: list[str] = []
        while len(parts) < MISSPELT_PER_IMAGE:
            name = drawn.choice(names)
            at = drawn.randrange(len(name))
            part = f"{name[:at]}{drawn.choice('bcdfg')}{name[at + 1 :]}{number % 10}"
            if part not in known:
                parts.append(part)
        yield "/".join(parts)


@contextmanager
def _asking(port: int, misspelt: Iterator[str]) -> Iterator[list[int]]:
    """
    Ask for images of misspelt names from several addresses while the block runs.

    :return: how many were answered, by client.
    """
    ended = Event()
    answered = [0] * CLIENTS
    queues = [[next(misspelt) for _ in range(500)] for _ in range(CLIENTS)]

    def ask(client: int) -> None:
        for name in queues[client]:
            if ended.is_set():
                return
            source = (f"127.0.2.{client + 1}", 0)
            with socket.create_connection(("127.0.0.1", port), 600, source) as connection:
                request = request_for(
                    f"/v2/{name}/manifests/latest", headers={"Connection": "close"}
                )
                connection.sendall(request)
                while connection.recv(65536):
                    pass
            answered[client] += 1

    threads = [Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        ended.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    run({"near_names": measure}, "tests.benchmarks.near_names", sys.argv[1:])
