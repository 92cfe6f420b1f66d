"""
Creates Python environments that the registry is installed into, one for each state of a checkout.

An environment is named by a hash of the checkout's package and of the Python that runs it, and is
used only when it is marked as complete: one that was interrupted is made again, and one that a
registry runs from is neither changed nor removed. Virtual environments cannot be moved, so each is
made in its place; a symlink, ``environment``, leads to the latest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bootstrap.children import Children
from bootstrap.console import Console
from bootstrap.packages import InstallationFailed, unreachable

__all__ = ["Environments", "has_venv"]

_REQUIREMENTS = "nix/demo/requirements.txt"

_CONTENTS = (
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "nixery",
    "nix",
    "web",
    "twisted",
    _REQUIREMENTS,
)
"""The files of a checkout that are installed, and directories of such files."""

_IGNORED = ("*.pyc", "__pycache__", "dropin.cache", "nix/demo")
"""
Patterns of files and directories that are not installed. The demo package set is used where it is:
a change to it needs no new environment.
"""

_COMPLETE = "complete"
_IN_USE = "in-use"


class Environments:
    """
    The environments in a directory.  To be used inside :meth:`locked`.

    :param directory: of the user's cache; made if it is missing.
    :param children: runs Python and pip.
    :param console: shows progress.
    """

    def __init__(self, directory: Path, children: Children, console: Console) -> None:
        self._directory = directory
        self._children = children
        self._console = console

    @property
    def scratch(self) -> Path:
        """A temporary directory, empty when :meth:`locked` begins and removed when it ends."""
        return self._directory / "scratch"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """
        Wait until no other process prepares an environment here, and keep others waiting.

        :raises InstallationFailed: the directory cannot be used.
        :raises Interrupted: by a signal.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InstallationFailed(
                f"{self._directory} cannot be used ({error.strerror}): set XDG_CACHE_HOME to a"
                " directory that can"
            ) from error
        try:
            if not _lock(descriptor):
                self._console.say("waiting for another start that is preparing the registry")
                self._children.wait(lambda: _lock(descriptor))
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch.mkdir()
            try:
                yield
            finally:
                shutil.rmtree(self.scratch, ignore_errors=True)
        finally:
            os.close(descriptor)

    def find(self, checkout: Path, python: Path) -> Path | None:
        """Return the complete environment of a checkout, if there is one."""
        environment = self._place(checkout, python)
        return environment if (environment / _COMPLETE).is_file() else None

    def make(self, checkout: Path, python: Path) -> Path:
        """
        Install a checkout into an environment of its own.

        :param python: the interpreter; it must have :mod:`venv` and :mod:`ensurepip`.
        :return: the environment.
        :raises InstallationFailed: it could not be made, and nothing is left of it.
        :raises Interrupted: by a signal; nothing is left of it either.
        """
        environment = self._place(checkout, python)
        shutil.rmtree(environment, ignore_errors=True)
        environment.parent.mkdir(exist_ok=True)
        try:
            self._install(checkout, python, environment)
            (environment / _COMPLETE).touch()
        except BaseException:
            shutil.rmtree(environment, ignore_errors=True)
            raise
        return environment

    def use(self, environment: Path) -> int:
        """
        Keep an environment from being removed, and remove the unused ones.

        :return: a descriptor that keeps it for as long as a process has it open; children
            inherit it.
        """
        descriptor = os.open(environment / _IN_USE, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.set_inheritable(descriptor, True)
        for other in environment.parent.iterdir():
            if other != environment:
                _remove_unused(other)
        self._link(environment)
        return descriptor

    def _place(self, checkout: Path, python: Path) -> Path:
        return self._directory / "environments" / _fingerprint(checkout, python)

    def _link(self, environment: Path) -> None:
        link = self._directory / "environment"
        if link.is_dir() and not link.is_symlink():
            # Earlier versions had the environment itself at this path.
            shutil.rmtree(link, ignore_errors=True)
        new = self.scratch / "environment"
        new.symlink_to(environment)
        new.replace(link)

    def _install(self, checkout: Path, python: Path, environment: Path) -> None:
        # Building a package leaves files beside its sources, so it is built of a copy.
        copy = self.scratch / "source"
        for path in _files(checkout):
            target = copy / path.relative_to(checkout)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        temporary = self.scratch / "tmp"
        temporary.mkdir()
        environ = {**os.environ, "TMPDIR": str(temporary)}
        # Environment variables of the interpreter that runs this must not affect the new
        # environment.
        for name in ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__"):
            environ.pop(name, None)
        self._console.begin(f"installing the registry into {environment} (a minute or so)")
        made = self._children.run([python, "-m", "venv", environment], environ=environ)
        if made.status != 0:
            raise InstallationFailed(
                f"{python} could not make a virtual environment; what it said is above",
                made.tail(),
            )
        installed = self._children.run(
            [
                *(environment / "bin/python", "-m", "pip", "install"),
                *("--disable-pip-version-check", "--no-input", "--progress-bar", "off"),
                *(copy, "-r", copy / _REQUIREMENTS),
            ],
            environ=environ,
            detail=_pip_progress,
        )
        if installed.status != 0:
            cause = unreachable(installed.output)
            reason = (
                "pip failed; what it said is above"
                if cause is None
                else "pip failed, because the package index cannot be reached: connect this"
                " machine to a network, or tell pip its proxy or index"
            )
            raise InstallationFailed(reason, installed.tail())


def has_venv(python: Path) -> bool:
    """Tell whether an interpreter is new enough for the registry and can make environments."""
    script = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
    try:
        done = subprocess.run([python, "-c", script], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def _fingerprint(checkout: Path, python: Path) -> str:
    """Return a hash of what is installed of a checkout, and of the interpreter it is for."""
    # Debian's next release has another interpreter at this path, which lacks the packages.
    interpreter = python.resolve()
    sums = hashlib.sha256(f"{interpreter}\0".encode())
    for path in sorted(_files(checkout)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        sums.update(f"{path.relative_to(checkout)}\0{content}\0".encode("utf-8", "surrogateescape"))
    return sums.hexdigest()[:16]


def _files(checkout: Path) -> Iterator[Path]:
    for name in _CONTENTS:
        top = checkout / name
        if top.is_file():
            yield top
        for directory, directories, names in os.walk(top):
            here = Path(directory)
            directories[:] = [each for each in directories if not _ignored(here / each, checkout)]
            for path in (here / each for each in names):
                if not _ignored(path, checkout) and path.is_file():
                    yield path


def _ignored(path: Path, checkout: Path) -> bool:
    return any(path.relative_to(checkout).match(pattern) for pattern in _IGNORED)


def _lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unused(environment: Path) -> None:
    try:
        descriptor = os.open(environment / _IN_USE, os.O_RDWR)
    except OSError:
        # Environments without the mark were never complete.
        shutil.rmtree(environment, ignore_errors=True)
        return
    try:
        if _lock(descriptor):
            shutil.rmtree(environment, ignore_errors=True)
    finally:
        os.close(descriptor)


def _pip_progress(line: str) -> str | None:
    text = line.strip()
    first = text.partition(" ")[0]
    if first in {"Collecting", "Downloading", "Building", "Installing", "Using", "Requirement"}:
        return text
    return text if text.endswith((": started", "'done'")) else None
