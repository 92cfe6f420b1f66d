"""
The package sets that the tests' registries serve.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import shutil
import sys
from pathlib import Path

from demoset.package_set import SOURCE
from tests.end_to_end.daemon import checkout
from tests.end_to_end.processes import private_directory, run, wait_until

__all__ = ["DEMO_SET", "ContentsSet", "PartialSet", "PlatformSet", "WatchedSet", "demo_set"]

DEMO_SET = "NIXERY_TEST_DEMO_SET"
"""Names a directory in which the demo set is, or will be, ready."""


@functools.cache
def demo_set() -> Path:
    """
    The demo package set, made ready by the command that users have for it.

    It stays between runs: its packages are in the Nix store already then.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = Path(os.environ.get(DEMO_SET) or cache / "nixery-tests" / "demo")
    path = [str(SOURCE), *checkout().values()]
    run(
        [
            *(sys.executable, "-m", "demoset", str(directory)),
        ],
        environ={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        cwd=Path("/"),
        seconds=600,
    ).checked()
    return directory


class WatchedSet:
    """
    A copy of ``watched.nix`` with packages that were never built before.
    """

    def __init__(self) -> None:
        self.directory = private_directory("set")
        self._journal = self.directory / "journal"
        self._gates = self.directory / "gates"
        self._gates.mkdir()
        self._journal.touch()
        self.path = self.directory / "set"
        self.path.mkdir()
        shutil.copy(Path(__file__).with_name("watched.nix"), self.path / "default.nix")
        (self.path / "settings.json").write_text(
            json.dumps(
                {
                    "salt": secrets.token_hex(16),
                    "journal": str(self._journal),
                    "gates": str(self._gates),
                }
            )
        )

    def builds(self, package: str) -> int:
        """Count how often the build of a package has begun."""
        return self._journal.read_text().split().count(package)

    def wait_for(self, package: str) -> None:
        """Wait until the build of a package has begun."""
        wait_until(lambda: self.builds(package) > 0, f"the build of {package} to begin")

    def let(self, package: str) -> None:
        """Let the build of a package go on."""
        (self._gates / package).touch()


class ContentsSet:
    """A copy of ``contents.nix``, whose links lead to a directory that does not exist yet."""

    def __init__(self) -> None:
        self.path = private_directory("contents-set")
        self.host = private_directory("contents-host") / "host"
        (self.path / "bin").mkdir()
        shutil.copy(demo_set() / "seeds" / "bin" / "busybox", self.path / "bin")
        shutil.copy(Path(__file__).with_name("contents.nix"), self.path / "default.nix")
        (self.path / "settings.json").write_text(
            json.dumps({"salt": secrets.token_hex(16), "host": str(self.host)})
        )

    def make_host(self) -> None:
        """Make all files that the packages' links lead to, as a machine might have them."""
        for name in ("bin/bash", "bin/env", "bin/sh", "passwd", "fonts/host", "share/x"):
            path = self.host / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("of the machine")
        bundle = self.host / "certificates/certs/ca-bundle.crt"
        bundle.parent.mkdir(parents=True)
        bundle.write_text("of the machine")


class PlatformSet:
    """A copy of ``platforms.nix``, of packages that were never built before."""

    def __init__(self) -> None:
        self.path = private_directory("platform-set")
        (self.path / "bin").mkdir()
        shutil.copy(demo_set() / "seeds" / "bin" / "busybox", self.path / "bin")
        shutil.copy(Path(__file__).with_name("platforms.nix"), self.path / "default.nix")
        (self.path / "settings.json").write_text(
            json.dumps({"salt": secrets.token_hex(16), "host": f"{os.uname().machine}-linux"})
        )


class PartialSet:
    """A copy of ``partial.nix``, whose packages are changed at their top or at their bottom."""

    def __init__(self) -> None:
        self.path = private_directory("partial-set")
        (self.path / "bin").mkdir()
        shutil.copy(demo_set() / "seeds" / "bin" / "busybox", self.path / "bin")
        shutil.copy(Path(__file__).with_name("partial.nix"), self.path / "default.nix")
        self._settings = {"salt": secrets.token_hex(16), "leaf": "1", "bottom": "1"}
        self.change()

    def change(self, **settings: str) -> None:
        """Change ``leaf`` or ``bottom``."""
        self._settings |= settings
        (self.path / "settings.json").write_text(json.dumps(self._settings))
