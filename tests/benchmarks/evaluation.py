"""
Measure what is evaluated once and kept: packages, names, and path sources that did not change.

    python -m tests.benchmarks.evaluation [--rounds N] [--quick] [--json]

The package set has 20,000 packages and the shape of nixpkgs: its first package costs a process of
Nix about as much as one of nixpkgs.  The daemon looks packages up in it that nobody asked for
before, and ``nix-instantiate`` does the same in the same rounds, one of them first in each; each
writes derivations of its own.  What a pull from a path source costs is measured with the demo set:
unchanged, and after each of many edits, when ``nix-instantiate`` evaluates the same packages.
``cold`` measures the first pull of an image, and ``start`` the daemon's start.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from tests.benchmarks.client import Unexpected, fetch, hammer, request_for
from tests.benchmarks.large_set import SIZE, LargeSet, large_set
from tests.benchmarks.measure import Figure, Options, percentile, run, timed
from tests.benchmarks.peers import Daemon, manifest_request, pinned_set, settle
from tests.end_to_end.daemon import private_environment, single_user_nix
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.processes import private_directory

__all__ = ["measure"]

SYSTEM = "x86_64-linux"

PACKAGES = 200
"""Packages that are looked up one by one."""

PACKAGES_PER_IMAGE = 20

MISSPELT = 50

PULLS = 1000

EDITS = 20
"""Edits of the package set in each round."""

NAMES = ("hello", "shell/git/htop")


def measure(options: Options) -> list[Figure]:
    package_set = large_set(400 if options.quick else SIZE)
    return [
        *_large_set(package_set, 5 if options.quick else PACKAGES),
        *_path_source(options),
    ]


# -- the large set --------------------------------------------------------------


def _large_set(package_set: LargeSet, count: int) -> Iterator[Figure]:
    drawn = random.Random(0)
    wanted = drawn.sample(package_set.packages, min(len(package_set.packages), 3 * count + 1))
    first, one_by_one, others = wanted[0], wanted[1 : count + 1], wanted[count + 1 :]
    misspelt = [f"{name}x9" for name in drawn.sample(package_set.names, 2 * MISSPELT + 1)]
    path = pinned_set(package_set.path)
    nix = _Instantiation(path)
    with _daemon(path, "evaluation") as daemon:
        first_alone = nix.seconds(first)
        first_asked = timed(lambda: _look_up(daemon, first))
        ours: list[float] = []
        theirs: list[float] = []
        for number, name in enumerate(one_by_one):
            # Whoever comes second finds the files in memory.
            if number % 2:
                theirs.append(nix.seconds(name))
            ours.append(timed(partial(_look_up, daemon, name)))
            if not number % 2:
                theirs.append(nix.seconds(name))
        yield Figure(name="nix-instantiate, its first package", value=first_alone, unit="s")
        yield Figure(name="the daemon, its first package", value=first_asked, unit="s")
        yield Figure(
            name=f"nix-instantiate, each of {count}", value=statistics.median(theirs), unit="s"
        )
        yield Figure(
            name=f"the daemon, each of {count} that were not asked for",
            value=statistics.median(ours),
            unit="s",
        )
        yield Figure(name="the same, 95th percentile", value=percentile(ours, 0.95), unit="s")
        yield Figure(
            name="nix-instantiate / the daemon, median over the packages",
            value=statistics.median(a / b for a, b in zip(theirs, ours, strict=True)),
            unit="times",
            at_least=10,
        )
        for start in range(0, len(others), PACKAGES_PER_IMAGE):
            _look_up(daemon, *others[start : start + PACKAGES_PER_IMAGE])
        yield Figure(
            name=f"memory of the evaluators after {len(wanted)} packages",
            value=_evaluator_memory(daemon.pid) / 1e6,
            unit="MB",
        )
        yield Figure(
            name="misspelt name",
            value=1e3 * statistics.median(_refused(daemon, name) for name in misspelt[:MISSPELT]),
            unit="ms",
            at_most=50,
        )
        daemon.stop()
        daemon.start()
        settle(daemon.pid)
        yield Figure(
            name="misspelt name, the first question after a start",
            value=1e3 * _refused(daemon, misspelt[-1]),
            unit="ms",
            at_most=50,
        )


class _Instantiation:
    """
    Instantiates packages of a set, each with a process of its own.

    :param path: the package set.
    """

    def __init__(self, path: Path) -> None:
        self._command = [
            *("nix-instantiate", str(path)),
            *("--argstr", "system", SYSTEM),
            *("--arg", "config", f'{{ salt = "{uuid4().hex}"; }}'),
        ]
        self._environ = {**os.environ, **single_user_nix()}

    def seconds(self, name: str) -> float:
        begun = time.perf_counter()
        subprocess.run(
            [*self._command, "-A", name],
            env=self._environ,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return time.perf_counter() - begun


@contextmanager
def _daemon(package_set: Path, name: str) -> Iterator[Daemon]:
    """Run a daemon whose derivations nobody has written before."""
    config: Mapping[str, str] = {"salt": uuid4().hex}
    directory = private_directory(name)
    file = directory / "config.yaml"
    # JSON is YAML.
    file.write_text(json.dumps({"nixpkgs_config": config}))
    daemon = Daemon(
        package_set, name=name, directory=directory, environ={"NIXERY_CONFIG": str(file)}
    ).start()
    try:
        settle(daemon.pid)
        yield daemon
    finally:
        daemon.kill()


def _look_up(daemon: Daemon, *names: str) -> None:
    """
    Look packages up, as the start page does.

    :raises Unexpected: one of them is not found.
    """
    request = request_for(f"/api/packages?names={quote(' '.join(names))}")
    _, body = fetch(daemon.registry.port, request)
    statuses = [each["status"] for each in json.loads(body)["packages"]]
    if statuses != ["found"] * len(names):
        raise Unexpected(f"{names} were looked up with the result {body[:500]!r}")


def _refused(daemon: Daemon, name: str) -> float:
    """
    Pull an image of a name that does not exist; return the seconds until the refusal.

    :raises Unexpected: it is not refused.
    """
    begun = time.perf_counter()
    answer = daemon.registry.get(f"/v2/{name}/manifests/latest")
    seconds = time.perf_counter() - begun
    if answer.status != 404:
        raise Unexpected(f"{name} was answered with {answer.status}")
    return seconds


def _evaluator_memory(pid: int) -> int:
    """Return the resident memory of the processes that evaluate for a daemon, in bytes."""
    return sum(
        _resident(child)
        for child in _descendants(pid)
        if Path(f"/proc/{child}/comm").read_text().strip() in ("nix", "nix-instantiate")
    )


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            yield child
            yield from _descendants(child)


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# -- a path source ----------------------------------------------------------------


def _path_source(options: Options) -> Iterator[Figure]:
    package_set = private_directory("path-source") / "set"
    shutil.copytree(demo_set(), package_set, symlinks=True)
    daemon = Daemon(package_set, name="path-source").start()
    try:
        for name in NAMES[:1] if options.quick else NAMES:
            yield from _pulls(options, daemon, package_set, name)
    finally:
        daemon.kill()


def _pulls(options: Options, daemon: Daemon, package_set: Path, name: str) -> Iterator[Figure]:
    port = daemon.registry.port
    request = manifest_request(name, "latest")
    fetch(port, request)  # Builds what is not built yet.
    settle(daemon.pid)
    count = 20 if options.quick else PULLS
    latencies = [
        latency
        for _ in range(options.rounds)
        for latency in hammer(port, request, count=count // options.rounds, connections=1).latencies
    ]
    edited, alone = [], []
    for number in range(2 if options.quick else EDITS * options.rounds):
        _edit(package_set, number)
        edited.append(timed(lambda: fetch(port, request)))
        alone.append(_instantiate(package_set, name))
    yield Figure(
        name=f"{name}: warm manifest, path source, unchanged",
        value=1e3 * statistics.median(latencies),
        unit="ms",
        at_most=2,
    )
    yield Figure(
        name=f"{name}: the same, 99th percentile",
        value=1e3 * percentile(latencies, 0.99),
        unit="ms",
        at_most=10,
    )
    yield Figure(
        name=f"{name}: first pull after an edit",
        value=1e3 * statistics.median(edited),
        unit="ms",
    )
    yield Figure(
        name=f"{name}: nix-instantiate after the same edit",
        value=1e3 * statistics.median(alone),
        unit="ms",
    )
    yield Figure(
        name=f"{name}: first pull after an edit / nix-instantiate",
        value=statistics.median(a / b for a, b in zip(edited, alone, strict=True)),
        unit="times",
        # The median before anything was kept: 1.5.
        at_most=1.6,
    )


def _edit(package_set: Path, number: int) -> None:
    """Change a file of the package set, which then means the same."""
    with (package_set / "default.nix").open("a") as file:
        file.write(f"# {number}\n")


def _instantiate(package_set: Path, name: str) -> float:
    attributes: Sequence[str] = [part for part in name.split("/") if part != "shell"]
    begun = time.perf_counter()
    subprocess.run(
        [
            *("nix-instantiate", str(package_set), "--argstr", "system", SYSTEM),
            *(argument for attribute in attributes for argument in ("-A", attribute)),
        ],
        env={**os.environ, **private_environment(package_set.parent), **single_user_nix()},
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun


if __name__ == "__main__":
    run({"evaluation": measure}, "tests.benchmarks.evaluation", sys.argv[1:])
