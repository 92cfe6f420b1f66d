"""
Measure what is evaluated once and kept: packages, names, and path sources that did not change.

    python -m tests.benchmarks.evaluation [--rounds N] [--quick] [--json]

The package set has 20,000 packages and the shape of nixpkgs: its first package costs a process of
Nix about as much as one of nixpkgs.  The daemon looks packages up in it that nobody asked for
before, and ``nix-instantiate`` does the same in the same rounds, one of them first in each; each
writes derivations of its own.  Packages are looked up while all of them are listed, too.  What a
pull from a path source costs is measured with the demo set: unchanged, and after each of many
edits, when ``nix-instantiate`` evaluates the same packages.  ``cold`` measures the first pull of an
image, and ``start`` the daemon's start.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from tests.benchmarks.client import Unexpected, fetch, hammer, request_for
from tests.benchmarks.large_set import SIZE, LargeSet, large_set
from tests.benchmarks.measure import Figure, Options, median_ratio, percentile, run, timed
from tests.benchmarks.peers import Daemon, manifest_request, pinned_set, settle
from tests.end_to_end.daemon import private_environment, single_user_nix
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.processes import private_directory, wait_until

__all__ = ["measure"]

SYSTEM = "x86_64-linux"

PACKAGES = 200
"""Packages that are looked up one by one."""

PACKAGES_IN_MEMORY = 500
"""Packages that were looked up when the memory of evaluators is measured."""

PACKAGES_PER_LOOK_UP = 20

MISSPELT = 50

STARTS = 5

LISTED = "were listed in"

START_DELAY = "nixery.nix.indexer.START_DELAY_SECONDS"
"""The constant that decides when the packages are listed."""

PULLS = 1000

EDITS = 20
"""Edits of the package set in each round."""

NAMES = ("hello", "shell/git/htop")


def measure(options: Options) -> list[Figure]:
    package_set = large_set(400 if options.quick else SIZE)
    path = pinned_set(package_set.path)
    count, total = (5, 10) if options.quick else (PACKAGES, PACKAGES_IN_MEMORY)
    drawn = random.Random(0).sample(package_set.packages, total + count)
    ours, figures = _packages(path, drawn[:count], drawn[count:total], package_set)
    return [
        *figures,
        *_listing(path, drawn[total:], package_set, statistics.median(ours)),
        *_path_source(options),
    ]


# -- the large set --------------------------------------------------------------


def _packages(
    path: Path, one_by_one: Sequence[str], others: Sequence[str], package_set: LargeSet
) -> tuple[Sequence[float], list[Figure]]:
    """
    Look up packages that nobody asked for, while no packages are listed.

    :return: how long each of them took, in seconds, and the figures.
    """
    nix = _Instantiation(path)
    first, *rest = one_by_one
    with _daemon(path, "evaluation", constants={START_DELAY: 1e6}) as daemon:
        first_alone = nix.seconds(first)
        first_asked = timed(partial(_look_up, daemon, first))
        ours: list[float] = []
        theirs: list[float] = []
        for number, name in enumerate(rest):
            # Whoever comes second finds the files in memory.
            if number % 2:
                theirs.append(nix.seconds(name))
            ours.append(timed(partial(_look_up, daemon, name)))
            if not number % 2:
                theirs.append(nix.seconds(name))
        for start in range(0, len(others), PACKAGES_PER_LOOK_UP):
            _look_up(daemon, *others[start : start + PACKAGES_PER_LOOK_UP])
        memory = _memory(_evaluators(daemon.pid))
        both = [*one_by_one, *others]
        for start in range(0, len(both), PACKAGES_PER_LOOK_UP):
            _look_up(daemon, "arm64", *both[start : start + PACKAGES_PER_LOOK_UP])
        memory_of_two = _memory(_evaluators(daemon.pid))
        misspelt = [_refused(daemon, name) for name in _misspelt(package_set, MISSPELT)]
    return ours, [
        Figure(name="nix-instantiate, its first package", value=first_alone, unit="s"),
        Figure(name="the daemon, its first package", value=first_asked, unit="s"),
        Figure(
            name=f"nix-instantiate, each of {len(rest)}", value=statistics.median(theirs), unit="s"
        ),
        Figure(
            name=f"the daemon, each of {len(rest)} that were not asked for",
            value=statistics.median(ours),
            unit="s",
        ),
        Figure(name="the same, 95th percentile", value=percentile(ours, 0.95), unit="s"),
        Figure(
            name="nix-instantiate / the daemon, median over the packages",
            value=median_ratio(theirs, ours),
            unit="times",
            at_least=10,
        ),
        Figure(
            name=f"memory of the evaluator after {len(both)} packages",
            value=memory / 1e6,
            unit="MB",
        ),
        Figure(
            name="memory of two evaluators, after as many for another system",
            value=memory_of_two / 1e6,
            unit="MB",
        ),
        Figure(
            name="misspelt name", value=1e3 * statistics.median(misspelt), unit="ms", at_most=50
        ),
    ]


def _listing(
    path: Path, names: Sequence[str], package_set: LargeSet, alone: float
) -> Iterator[Figure]:
    """
    Have the packages listed, and look up some that nobody asked for meanwhile.

    :param alone: the median time of a look-up without that, in seconds.
    """
    first, *rest = names
    with _daemon(path, "listing", constants={START_DELAY: 1.0}) as daemon:
        _look_up(daemon, first)
        wait_until(
            lambda: bool(_listing_processes(daemon.pid)) or LISTED in daemon.log(), "the listing"
        )
        beside: list[float] = []
        for name in rest:
            # Within a slice, at no certain time.
            time.sleep(0.5)
            beside.append(timed(partial(_look_up, daemon, name)))
            if LISTED in daemon.log():
                break
        peak = 0
        while LISTED not in daemon.log():
            peak = max(peak, _memory(_listing_processes(daemon.pid)))
            time.sleep(0.05)
        found = re.search(rf"(\d+) packages of .* {LISTED} ([0-9.]+) s", daemon.log())
        assert found is not None
        yield Figure(name="packages listed", value=int(found[1]), unit="packages")
        yield Figure(name="time of the processes that list them", value=float(found[2]), unit="s")
        yield Figure(name="memory of the process that lists them", value=peak / 1e6, unit="MB")
        yield Figure(
            name="the list on the disk",
            value=_size(daemon.directory / "cache" / "package-indexes") / 1e6,
            unit="MB",
        )
        yield Figure(
            name="look-up while packages are listed / alone",
            value=statistics.median(beside) / alone,
            unit="times",
            at_most=2,
        )
        first_answers = []
        for name in _misspelt(package_set, STARTS):
            daemon.stop()
            daemon.start()
            settle(daemon.pid)
            first_answers.append(_refused(daemon, name))
        yield Figure(
            name="misspelt name, the first question after a start",
            value=1e3 * statistics.median(first_answers),
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
def _daemon(package_set: Path, name: str, *, constants: Mapping[str, object]) -> Iterator[Daemon]:
    """Run a daemon whose derivations nobody has written before."""
    directory = private_directory(name)
    file = directory / "config.yaml"
    # JSON is YAML.
    file.write_text(json.dumps({"nixpkgs_config": {"salt": uuid4().hex}}))
    daemon = Daemon(
        package_set,
        name=name,
        directory=directory,
        environ={"NIXERY_CONFIG": str(file)},
        constants=constants,
    ).start()
    try:
        settle(daemon.pid)
        yield daemon
    finally:
        daemon.kill()


def _misspelt(package_set: LargeSet, count: int) -> list[str]:
    """Return names that the set does not have, and are near to some that it has."""
    return [f"{name}x9" for name in random.Random(1).sample(package_set.names, count)]


def _look_up(daemon: Daemon, *names: str) -> None:
    """
    Look packages up, as the start page does.

    :raises Unexpected: one of them is not found.
    """
    request = request_for(f"/api/packages?names={quote(' '.join(names))}")
    _, body = fetch(daemon.registry.port, request)
    statuses = [each["status"] for each in json.loads(body)["packages"]]
    if not {*statuses} <= {"found", "meta"} or len(statuses) != len(names):
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


def _evaluators(pid: int) -> list[int]:
    """Return the processes that evaluate for a daemon."""
    return [child for child in _descendants(pid) if _program(child) in ("nix", "nix-instantiate")]


def _listing_processes(pid: int) -> list[int]:
    """Return those of them that list packages: they have the lowest priority."""
    return [child for child in _evaluators(pid) if _priority(child) == 19]


def _descendants(pid: int) -> Iterator[int]:
    with suppress(FileNotFoundError):
        for task in list(Path(f"/proc/{pid}/task").iterdir()):
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from _descendants(child)


def _program(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _priority(pid: int) -> int | None:
    with suppress(OSError):
        return os.getpriority(os.PRIO_PROCESS, pid)
    return None


def _memory(processes: Sequence[int]) -> int:
    """Return the resident memory of processes, in bytes."""
    pages = 0
    for pid in processes:
        with suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())


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
        value=median_ratio(edited, alone),
        unit="times",
        # It was 1.3 to 1.5 when nothing was kept.
        at_most=1.5,
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
