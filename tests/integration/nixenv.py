"""
The real Nix, for tests: how it is reached on this machine, and one to call.

Nothing of the machine's own configuration is changed: what the tests need is in the
environment of the commands.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from attrs import evolve
from twisted.internet import reactor

from bootstrap.nixstore import daemon_listens, store_fault
from nixery.nix.arguments import NixSettings
from nixery.nix.commands import NixCommands
from nixery.nix.context import NixContext
from nixery.process.spawner import ProcessSpawner
from nixery.runtime.data_files import nix_directory
from nixery.sources.source import PackageSet, path_revision
from nixery.testing.fakes import InlineWorkers

__all__ = [
    "INTERRUPTIBLE",
    "ODD",
    "SINGLE_USER",
    "command_environment",
    "daemon_listens",
    "make_nix",
    "make_nix_context",
    "nix_environment",
    "nix_missing",
    "path_set",
    "try_to_delete",
    "nix_path",
]

ODD = Path(__file__).resolve().parent / "sets" / "odd"
"""A package set with all that package sets may have."""

INTERRUPTIBLE = ("env", "--default-signal=INT")
"""
Begins a command that ends at SIGINT wherever the tests are started.

A shell without job control starts what is followed by ``&`` with SIGINT ignored, and every
descendant inherits that.
"""

SINGLE_USER = "build-users-group =\nsandbox = false\nsubstitute = false"
"""For root on a machine without a daemon and without build users."""


def nix_path(path: Path) -> str:
    """
    Write a path as a Nix expression.

    A literal of Nix's grammar holds neither spaces nor letters that are not ASCII.
    """
    text = str(path).translate({ord(letter): f"\\{letter}" for letter in '\\"$'})
    return f'(/. + "{text}")'


def nix_missing() -> str | None:
    """The reason to skip tests that need Nix, or ``None``."""
    for program in ("nix-instantiate", "nix-build", "nix-store", "setsid"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return store_fault()


def nix_environment() -> dict[str, str]:
    """This process's environment, with which Nix can build here."""
    environment = dict(os.environ)
    # Nothing that tests build is in a cache: asking one would cost seconds.
    config = "substitute = false" if daemon_listens() else SINGLE_USER
    environment["NIX_CONFIG"] = "\n".join([os.environ.get("NIX_CONFIG", ""), config]).strip()
    environment.pop("NIX_PATH", None)
    return environment


def command_environment(directory: Path) -> dict[str, str]:
    """
    The environment of a command that has all that it needs in a directory, and makes
    packages of the odd set that no other test has made.

    :param directory: has to exist.
    """
    file = directory / "config.yaml"
    # JSON is YAML.
    file.write_text(json.dumps({"nixpkgs_config": {"salt": uuid4().hex}}))
    return nix_environment() | {
        "XDG_STATE_HOME": str(directory / "state"),
        "XDG_CACHE_HOME": str(directory / "cache"),
        "TMPDIR": str(directory),
        "NIXERY_CONFIG": str(file),
        "NIXERY_PKGS_PATH": str(ODD),
    }


def make_nix(
    directory: Path,
    *,
    environ: Mapping[str, str] | None = None,
    reactor: Any = reactor,  # Any: the global reactor has no type
    **settings: Any,
) -> NixCommands:
    """
    The Nix side under test.

    :param directory: where it may write.
    :param settings: fields of :class:`nixery.nix.arguments.NixSettings`.
    """
    return NixCommands(
        make_nix_context(directory, environ=environ, reactor=reactor, **settings),
        resolve=nix_directory() / "resolve.nix",
    )


def make_nix_context(
    directory: Path,
    *,
    environ: Mapping[str, str] | None = None,
    reactor: Any = reactor,  # as above
    **settings: Any,
) -> NixContext:
    """The context of Nix commands; parameters as in :func:`make_nix`."""
    directory = directory.absolute()
    return NixContext(
        spawner=ProcessSpawner(cast(Any, reactor), cast(Any, reactor), kill_delay=3.0),
        clock=cast(Any, reactor),
        workers=InlineWorkers(),
        settings=evolve(
            NixSettings(
                state_directory=directory / "state", home=directory / "home", eval_timeout=60.0
            ),
            **settings,
        ),
        environ=nix_environment() if environ is None else environ,
    )


def path_set(path: Path, *overlays: Path) -> PackageSet:
    """A package set at a path."""
    path = path.resolve()
    return PackageSet(revision=path_revision(path, overlays), path=path, overlays=overlays)


def try_to_delete(path: str | Path, environ: Mapping[str, str] | None = None) -> int:
    """Return the status of an attempt to delete a path from the store, as a collection would."""
    return subprocess.run(
        ["nix-store", "--delete", str(path)],
        env=environ or nix_environment(),
        capture_output=True,
        check=False,
    ).returncode
