"""The demo package set, for tests: made ready, built, and looked into."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from demoset.package_set import prepare
from tests.integration.nixenv import nix_environment, nix_missing, nix_path

__all__ = ["SetTestCase", "build", "build_all", "checked", "closure", "demo_set", "evaluate", "run"]


def run(
    argv: Sequence[str | Path],
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command with this environment and no other; it may fail."""
    return subprocess.run(
        [str(item) for item in argv],
        env=dict(environ or {}),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )


def checked(*argv: str | Path, environ: Mapping[str, str] | None = None) -> str:
    """The standard output of a command that must not fail."""
    done = run(argv, environ=environ)
    if done.returncode != 0:
        raise AssertionError(f"{argv} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@functools.cache
def demo_set() -> Path:
    """The demo set, made ready; it stays between runs, as its packages in the store do."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = Path(os.environ.get("NIXERY_TEST_DEMO_SET") or cache / "nixery-tests/demo")
    prepare(directory)
    return directory


@functools.cache
def build(attribute: str, system: str = "x86_64-linux") -> Path:
    """The store path of a package, or of one of its outputs (``curl.dev``)."""
    name, _, output = attribute.partition("!")
    derivation = checked(
        "nix-instantiate",
        demo_set(),
        "--argstr",
        "system",
        system,
        "--attr",
        name,
        environ=nix_environment(),
    ).strip()
    # `nix-instantiate` may add the output that the attribute stands for.
    derivation = derivation.partition("!")[0]
    printed = checked(
        "nix-build",
        "--no-out-link",
        f"{derivation}!{output or 'out'}",
        environ=nix_environment(),
    )
    return Path(printed.strip())


@functools.cache
def build_all(names: tuple[str, ...], system: str = "x86_64-linux") -> Mapping[str, Sequence[Path]]:
    """The store paths of packages, all of their outputs, by attribute paths."""
    imported = f'(import {nix_path(demo_set())} {{ system = "{system}"; }})'
    expression = " ".join(f"{imported}.{name}.all" for name in names)
    checked(
        "nix-build", "--no-out-link", "-E", f"builtins.concatLists [ {expression} ]",
        environ=nix_environment(),
    )  # fmt: skip
    paths = evaluate(
        f'let s = set "{system}"; in {{ '
        + " ".join(f'"{name}" = map (output: output.outPath) s.{name}.all;' for name in names)
        + " }"
    )
    assert isinstance(paths, dict)
    return {name: [Path(path) for path in outputs] for name, outputs in paths.items()}


def evaluate(expression: str) -> object:
    """Evaluate an expression about the set, which it knows as ``set``."""
    bound = (
        f"let set = system: import {nix_path(demo_set())} {{ inherit system; }}; in {expression}"
    )
    return json.loads(
        checked(
            "nix-instantiate",
            *("--eval", "--strict", "--json"),
            *("--option", "restrict-eval", "true", "-I", demo_set()),
            *("-E", bound),
            environ=nix_environment(),
        )
    )


def closure(path: Path) -> set[str]:
    """The names of all store paths that one needs, without their hashes."""
    printed = checked("nix-store", "--query", "--requisites", path, environ=nix_environment())
    return {line.partition("-")[2] for line in printed.split()}


class SetTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        reason = nix_missing()
        if reason is not None:
            raise SkipTest(reason)
        if shutil.which("apt-get") is None:
            raise SkipTest("apt-get is not installed: the set is made of Debian packages")
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
