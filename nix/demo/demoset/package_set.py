"""
Makes the demo package set ready in a directory.

New users pull the demo set first, so it must work without a binary cache of Nix packages: it is
made of the Debian packages that the machine's own apt would install, which a Debian mirror nearby
always has. Nix must know the URL and the hash of each file before it fetches it. So apt is asked
once, its answer goes into ``lock.json`` (every .deb with its URL and SHA-256 sum), and beside it
the set's expressions, and the two programs that the builds begin with: a static busybox and a
static patchelf.

The lock is made on each machine because a mirror keeps no old versions: a lock
that was published with the source would be stale at Debian's next update.

Popularity data are published with the source, for each release of Debian: names of
libraries change from one release to the next.  Those of the release that the lock was
made on go beside the lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from demoset.archive import ArchiveState, query_archive
from demoset.lock import Lock, parse_lock, render_lock
from demoset.patchelf import find_patchelf
from demoset.recipes import Recipes, parse_recipes

__all__ = ["SOURCE", "default_directory", "find_popularity", "prepare"]

SOURCE = Path(__file__).resolve().parents[1]
"""The directory of the set's expressions."""

_LOCK = "lock.json"
_RECIPES = "packages.json"
_POPULARITY = "popularity.json"
_POPULARITY_OF_RELEASE = re.compile(r"popularity-(?P<release>\d+)\.json")


def default_directory(environment: Mapping[str, str]) -> Path:
    """Return ``demo`` in the state directory of the unit, else of the user."""
    state = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    if state:
        return Path(state) / "demo"
    # The XDG base directory specification requires relative paths to be ignored.
    home = environment.get("XDG_STATE_HOME", "")
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"
    return base / "nixery" / "demo"


def prepare(
    directory: Path,
    *,
    refresh: bool = False,
    query: Callable[[Recipes], ArchiveState] = query_archive,
    patchelf: Callable[[], Path] = find_patchelf,
) -> None:
    """
    Make the set ready to be evaluated in ``directory``.

    Existing files that are still valid are kept: a second call is quick and needs no network.

    :param refresh: whether to query the archive again although there is a lock.
    :param query: queries the archive.
    :param patchelf: finds the program.
    :raises DemoFailed: something is missing; the message says how to fix it.
    :raises ProcessFailed: apt failed.
    """
    recipes = (SOURCE / _RECIPES).read_bytes()
    fingerprint = hashlib.sha256(recipes).hexdigest()
    seeds = directory / "seeds" / "bin"
    seeds.mkdir(parents=True, exist_ok=True)
    _write(seeds / "patchelf", patchelf().read_bytes(), executable=True)
    lock = None if refresh else _find_lock(directory, fingerprint)
    if lock is None:
        state = query(parse_recipes(json.loads(recipes)))
        _write(seeds / "busybox", state.busybox, executable=True)
        lock = render_lock(state, fingerprint)
    for path in sorted(SOURCE.iterdir()):
        if path.suffix in {".nix", ".sh"} or path.name == _RECIPES:
            _write(directory / path.name, path.read_bytes())
    _write(directory / _POPULARITY, find_popularity(lock.release).read_bytes())
    # Written last: its presence says that everything else is there.
    _write(directory / _LOCK, lock.content)


def find_popularity(release: int) -> Path:
    """
    Return the popularity data that fit a release of Debian best.

    :return: the release's own; if it has none, those of the newest older release, whose libraries
        have more names in common than those of more distant releases.
    """
    found = {
        int(match["release"]): path
        for path in SOURCE.iterdir()
        if (match := _POPULARITY_OF_RELEASE.fullmatch(path.name))
    }
    older = [each for each in found if each <= release]
    return found[max(older) if older else min(found)]


def _find_lock(directory: Path, fingerprint: str) -> Lock | None:
    """Return the lock that there is, if it can be used and the seed that belongs to it is there."""
    if not (directory / "seeds/bin/busybox").is_file():
        return None
    try:
        content = (directory / _LOCK).read_bytes()
    except OSError:
        return None
    return parse_lock(content, fingerprint)


def _write(path: Path, content: bytes, *, executable: bool = False) -> None:
    """Replace a whole file, and only if it changes: a daemon may be reading it."""
    if path.is_file() and path.read_bytes() == content:
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.chmod(temporary, 0o755 if executable else 0o644)
    os.replace(temporary, path)
