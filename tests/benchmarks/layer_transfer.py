"""
Measure the bytes that clients download, by strategy: real packages, engines and updates.

    python -m tests.benchmarks.layer_transfer [--strategies NAME ...] [--engines NAME ...] [--json]

A registry for each strategy serves a copy of the demo package set.  Each engine pulls
five images that overlap, one after the other, and pulls them again when one package that
nothing needs has changed (jq), and again when a library has (zlib1g: whatever needs
it is built anew).  The registry's log tells which blobs were fetched; what has been in
an engine before and was fetched all the same shows there too.  Docker reuses a layer
only on top of the same layers, podman anywhere.

Needs root, docker and podman, and what the end-to-end tests need.  The engines have data
of their own, and go with them.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from attrs import asdict, frozen

from tests.end_to_end.daemon import Daemon
from tests.end_to_end.engines import Docker, Podman
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.processes import private_directory
from tests.end_to_end.wire import OCI_MANIFEST

IMAGES = (
    "shell/git",
    "shell/git/htop",
    "shell/curl/jq",
    "python3/curl/openssl",
    "shell/vim/sqlite",
)
LEAF, LIBRARY = "jq", "zlib1g"

POPULARITY = Path(__file__).resolve().parents[2] / "nix" / "demo" / "popularity-12.json"

STRATEGIES: Mapping[str, Sequence[str]] = {
    "affinity": (),
    "dominators": ("--layer-strategy", "dominators"),
    "affinity without data": ("--popularity-url", "file:///dev/null"),
}

ENGINES: Mapping[str, Callable[[], Docker | Podman]] = {"docker": Docker, "podman": Podman}

_FETCHED = re.compile(r" GET /v2/\S+/blobs/(sha256:[0-9a-f]{64}) (\d+) (\d+) B ")


@frozen(kw_only=True)
class Figures:
    """
    Counts of one engine in one step, all images together.

    :param layers: that the images have, each as often as an image has it.
    :param downloaded: how many of them were fetched.
    :param bytes: that were fetched.
    :param stored: bytes that the registry stores afterwards.
    """

    strategy: str
    step: str
    engine: str
    layers: int
    downloaded: int
    bytes: int
    stored: int


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.layer_transfer")
    parser.add_argument(
        "--strategies", nargs="+", choices=STRATEGIES, default=["affinity", "dominators"]
    )
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=[*ENGINES])
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    options = parser.parse_args(arguments)
    figures = [
        figure
        for strategy in options.strategies
        for figure in measure(strategy, {name: ENGINES[name]() for name in options.engines})
    ]
    if options.json:
        print(json.dumps([asdict(each) for each in figures], indent=2))
    else:
        print(as_table(figures))


def measure(strategy: str, engines: Mapping[str, Docker | Podman]) -> list[Figures]:
    """All steps of one strategy."""
    package_set = private_directory("relayer") / "set"
    shutil.copytree(demo_set(), package_set)
    make_changeable(package_set)
    options = STRATEGIES[strategy]
    popularity = {"NIX_POPULARITY_URL": f"file://{POPULARITY}"}
    daemon = Daemon(package_set, name="relayer", options=options, environ=popularity).start()
    figures: list[Figures] = []
    try:
        for step, unit in (("first pulls", None), ("a leaf", LEAF), ("a library", LIBRARY)):
            if unit is not None:
                change(package_set, unit)
            for name, engine in engines.items():
                figures.append(pull_all(daemon, strategy, step, name, engine))
                print(figures[-1], file=sys.stderr)
    finally:
        daemon.stop()
        for engine in engines.values():
            for image in IMAGES:
                engine.remove(f"{daemon.address}/{image}")
    return figures


def pull_all(
    daemon: Daemon, strategy: str, step: str, name: str, engine: Docker | Podman
) -> Figures:
    """Pull all images, one after the other."""
    layers: list[str] = []
    since = daemon.log_size()
    for image in IMAGES:
        engine.pull(f"{daemon.address}/{image}").checked()
    fetched = _FETCHED.findall(daemon.log(since))
    for image in IMAGES:
        layers += layers_of(daemon, image)
    known = {*layers}
    blobs = [(digest, int(size)) for digest, status, size in fetched if status in {"200", "206"}]
    return Figures(
        strategy=strategy,
        step=step,
        engine=name,
        layers=len(layers),
        # Configs are blobs too.
        downloaded=sum(digest in known for digest, _ in blobs),
        bytes=sum(size for _, size in blobs),
        stored=sum(
            status.st_size
            for status in (path.lstat() for path in daemon.storage.rglob("*"))
            if not S_ISDIR(status.st_mode)
        ),
    )


def layers_of(daemon: Daemon, image: str) -> list[str]:
    answer = daemon.registry.request(
        "GET", f"/v2/{image}/manifests/latest", {"Accept": OCI_MANIFEST}
    )
    return [layer["digest"] for layer in answer.json()["layers"]]


def make_changeable(package_set: Path) -> None:
    """Let ``lock.json`` say of a unit that it is to be built anew; nothing else changes."""
    file = package_set / "debian.nix"
    text = file.read_text()
    rebuilt = "(if unit ? rebuilt then { inherit (unit) rebuilt; } else { })"
    name = "{\n      name = own.name"
    end = "}%s;\n\n  units = builtins"
    for old, new in ((name, f"({rebuilt} // {name}"), (end % "", end % ")")):
        if text.count(old) != 1:
            raise AssertionError(f"debian.nix is not as expected: {old}")
        text = text.replace(old, new)
    file.write_text(text)


def change(package_set: Path, unit: str) -> None:
    """Have a unit built anew, with other hashes, and so all that needs it."""
    file = package_set / "lock.json"
    lock: dict[str, Any] = json.loads(file.read_text())
    lock["systems"]["x86_64-linux"][unit]["rebuilt"] = "once"
    file.write_text(json.dumps(lock))


def as_table(figures: Sequence[Figures]) -> str:
    lines = [
        "| strategy | step | engine | layers | reused | downloaded | stored |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.strategy} | {each.step} | {each.engine} | {each.layers}"
        f" | {each.layers - each.downloaded} | {each.bytes / 1e6:.1f} MB"
        f" | {each.stored / 1e6:.1f} MB |"
        for each in figures
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
