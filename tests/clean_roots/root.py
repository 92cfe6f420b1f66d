"""Roots of a Debian in which nothing but the smallest system and Python is installed."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SkipTest

from tests.clean_roots.machine import Machine, read_machine
from tests.end_to_end.case import Once
from tests.end_to_end.processes import Finished, private_directory, run
from tests.programs import PATH
from tests.scratch import remove_tree

__all__ = [
    "CHECKOUT",
    "RELEASES",
    "USER",
    "CleanRoot",
    "Run",
    "debootstrap",
    "require_machine",
]

CHECKOUT = Path(__file__).resolve().parents[2]

RELEASES = ("bookworm", "trixie")
"""Code names of Debian 12 and 13."""

BASES = "NIXERY_TEST_BASES"
"""Names a directory in which trees of the releases are, or will be, kept between runs."""

CHECKOUT_NAME = "régistry"
"""Directory of the checkout in a home: a letter that is not ASCII must not matter."""

USER = "tester"
"""An unprivileged user."""

NOT_COPIED = (
    *(".git", ".tox", ".venv", "build", "dist", "htmlcov", "__pycache__", "*.pyc"),
    *(".mypy_cache", ".ruff_cache", ".hypothesis", "_trial_temp*", "*.egg-info", "dropin.cache"),
)
"""Files that work in a checkout leaves there, and that are not of the project."""


@frozen(kw_only=True)
class Run:
    """A command that ended: its status, and all that it printed."""

    argv: tuple[str, ...]
    status: int
    output: str

    def describe(self) -> str:
        return f"{' '.join(self.argv)}\nended with status {self.status}:\n{self.output}"


class CleanRoot:
    """
    A copy of a base tree, with a checkout in it.

    :param release: the code name of Debian's release.
    :param user: who works in it, ``root`` or :data:`USER`.
    :raises SkipTest: such a root cannot be made here.
    """

    def __init__(self, release: str, user: str) -> None:
        tree, machine = _BASES[release]()
        self.release = release
        self.user = user
        self.path = private_directory(release) / "root"
        subprocess.run(["cp", "--archive", "--reflink=auto", str(tree), str(self.path)], check=True)
        self._settings = machine.put_into(self.path, release)
        self._binds = ":".join(map(str, machine.directories()))
        self.home = Path("/root" if user == "root" else f"/home/{user}")
        self.checkout = self.home / CHECKOUT_NAME
        if user != "root":
            run(["chroot", str(self.path), "useradd", "--create-home", user]).checked()
        shutil.copytree(
            CHECKOUT,
            self.path / self.checkout.relative_to("/"),
            symlinks=True,
            ignore=shutil.ignore_patterns(*NOT_COPIED),
        )
        if user != "root":
            owner = f"{user}:{user}"
            run(["chroot", str(self.path), "chown", "-R", owner, str(self.checkout)]).checked()

    def command(
        self, *argv: str, user: str | None = None, environ: Mapping[str, str] | None = None
    ) -> list[str]:
        """
        The command that runs another one in the root, in the checkout.

        No other process runs there, and none survives it.
        """
        user = self.user if user is None else user
        home = self.home if user == self.user else Path("/root")
        variables = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            if user == "root"
            else "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "USER": user,
            "TERM": "dumb",
            **self._settings,
            **(environ or {}),
        }
        identity = [] if user == "root" else ["setpriv", *_identity(self.path, user), "--"]
        return [
            # Kill what starts it, and all is gone.
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *("env", "--ignore-environment", f"PATH={PATH}"),
            f"NIXERY_TEST_BINDS={self._binds}",
            *("unshare", "--mount", "--pid", "--ipc", "--uts", "--propagation", "private"),
            *("--fork", "--kill-child", "--"),
            *("sh", str(Path(__file__).with_name("enter.sh")), str(self.path)),
            *("env", "--ignore-environment", "--chdir", str(self.checkout)),
            *(f"{name}={value}" for name, value in variables.items()),
            *identity,
            *argv,
        ]

    def run(
        self,
        *argv: str,
        user: str | None = None,
        environ: Mapping[str, str] | None = None,
        shown: bool = False,
        seconds: float = 600,
    ) -> Run:
        """
        Run a command to its end.

        :param shown: whether what it prints is shown meanwhile.
        :param seconds: when to end it; its status is then 124.
        """
        lines = []
        with subprocess.Popen(
            [
                # `timeout` would go on where these tests are killed, and with it the command.
                *("setpriv", "--pdeathsig", "KILL", "--"),
                *("timeout", "--kill-after=30", str(seconds)),
                *self.command(*argv, user=user, environ=environ),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if shown:
                    # Indented, so that it is not taken for the result of these tests.
                    sys.stdout.write(f"    | {line}")
                    sys.stdout.flush()
                lines.append(line)
        return Run(argv=argv, status=process.returncode, output="".join(lines))

    def files(self, *paths: str) -> set[str]:
        """All that is below some directories."""
        return {
            str(path.relative_to(self.path))
            for each in paths
            for path in (self.path / each.removeprefix("/")).rglob("*")
        }

    def remove(self) -> None:
        """Free its disk space, before the tests end."""
        remove_tree(self.path)


def require_machine() -> Machine:
    """
    Return the settings of this machine.

    :raises SkipTest: no Debian can be installed with them.
    """
    machine = read_machine()
    if machine is None:
        raise SkipTest("apt has no mirror of Debian among this machine's sources")
    return machine


def debootstrap(release: str, tree: Path, machine: Machine, packages: Sequence[str]) -> Finished:
    """
    Install the smallest system of a release from the machine's mirror.

    :param packages: what is installed with it.
    """
    return run(
        [
            *("debootstrap", "--variant=minbase", f"--include={','.join(packages)}"),
            *(release, str(tree), machine.mirror),
        ],
        environ={**os.environ, "PATH": PATH, **machine.proxies()},
        seconds=900,
    )


def _make(release: str) -> tuple[Path, Machine]:
    """
    Make a base tree.

    :raises SkipTest: that is not possible here.
    """
    if os.getuid() != 0:
        raise SkipTest("making a root directory needs root")
    machine = require_machine()
    kept = os.environ.get(BASES)
    tree = (Path(kept) if kept else private_directory(f"{release}-base")) / release
    if kept and (tree / "etc/debian_version").exists() and not (tree / "debootstrap").exists():
        return tree, machine
    finished = debootstrap(release, tree, machine, packages=("ca-certificates", "python3"))
    if finished.status != 0:
        log = tree / "debootstrap/debootstrap.log"
        said = finished.output + (log.read_text(errors="replace") if log.exists() else "")
        raise SkipTest(f"Debian {release} cannot be installed here: {said.strip()[-2000:]}")
    return tree, machine


_BASES = {release: Once(functools.partial(_make, release)) for release in RELEASES}
"""The tree that all roots of a release are copies of, and the settings that go into them."""


def _identity(root: Path, user: str) -> list[str]:
    """Options of ``setpriv``."""
    for line in (root / "etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == user:
            return [f"--reuid={fields[2]}", f"--regid={fields[3]}", "--init-groups"]
    raise AssertionError(f"no user {user} in {root}")
