"""
Programs that the tests run, and the Debian packages that have them.

A program counts as installed if it can be run: packages are divided differently from
release to release, and a file that is there need not work.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

__all__ = ["PATH", "PROGRAMS", "Program", "installable", "missing", "packages"]

PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
"""The search path of programs: Debian keeps in ``sbin`` those that container engines need."""


@dataclass(frozen=True)
class Program:
    """
    A program.

    :param check: a command that succeeds where the program works.
    :param packages: the Debian packages that have it, that of the newest release first.
    """

    check: tuple[str, ...]
    packages: tuple[str, ...]


def _program(name: str, *packages: str, check: Sequence[str] = ("--version",)) -> Program:
    return Program((name, *check), packages or (name,))


PROGRAMS = {
    # Debian's Python has the module in a package of its own.
    "venv": Program((sys.executable, "-c", "import ensurepip, venv"), ("python3-venv",)),
    "chromedriver": _program("chromedriver", "chromium-driver"),
    "chromium": _program("chromium"),
    "conmon": _program("conmon"),
    "containerd": _program("containerd"),
    "crun": _program("crun"),
    "ctr": _program("ctr", "containerd"),
    "debootstrap": _program("debootstrap"),
    # Until Debian 12 the daemon's package had the client, too.
    "docker": _program("docker", "docker-cli", "docker.io"),
    "dockerd": _program("dockerd", "docker.io"),
    "git": _program("git"),
    "git-lfs": _program("git-lfs"),
    "mke2fs": _program("mke2fs", "e2fsprogs", check=("-V",)),
    "nix": _program("nix", "nix-bin"),
    "nix-build": _program("nix-build", "nix-bin"),
    "nix-daemon": _program("nix-daemon", "nix-bin"),
    "nix-hash": _program("nix-hash", "nix-bin"),
    "nix-instantiate": _program("nix-instantiate", "nix-bin"),
    "nix-store": _program("nix-store", "nix-bin"),
    "nsenter": _program("nsenter", "util-linux"),
    "openssl": _program("openssl", check=("version",)),
    "podman": _program("podman"),
    "qemu-aarch64": _program("qemu-aarch64", "qemu-user"),
    "qemu-system-x86_64": _program("qemu-system-x86_64", "qemu-system-x86"),
    "qemu-x86_64": _program("qemu-x86_64", "qemu-user"),
    "runc": _program("runc"),
    "setpriv": _program("setpriv", "util-linux"),
    "setsid": _program("setsid", "util-linux"),
    "skopeo": _program("skopeo"),
    "systemd-analyze": _program("systemd-analyze", "systemd"),
    "systemd-sysusers": _program("systemd-sysusers", "systemd"),
    "unshare": _program("unshare", "util-linux"),
    "zstd": _program("zstd"),
}


def missing(names: Iterable[str]) -> list[str]:
    """Those of some :data:`PROGRAMS` that cannot be run."""
    return [name for name in sorted(set(names)) if not _works(PROGRAMS[name])]


def installable(packages: Sequence[str]) -> set[str]:
    """Those of some packages that apt's lists have."""
    done = subprocess.run(
        ["apt-cache", "policy", *packages],
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    there, package = set(), ""
    for line in done.stdout.splitlines():
        if not line.startswith(" "):
            package = line.rstrip(":")
        elif line.strip().startswith("Candidate:") and "(none)" not in line:
            there.add(package)
    return there


def packages(
    names: Iterable[str], known: Callable[[Sequence[str]], set[str]] = installable
) -> list[str]:
    """
    The packages of this machine's release that have some programs.

    :param known: tells which of some packages can be installed here.  Where none of a
        program's can, which is so before apt has read its lists for the first time, the
        oldest release's package stands for them: newer releases have that, too.
    """
    wanted = [PROGRAMS[name].packages for name in names]
    there = known(sorted({package for candidates in wanted for package in candidates}))
    return sorted(
        {
            next((package for package in candidates if package in there), candidates[-1])
            for candidates in wanted
        }
    )


def _works(program: Program) -> bool:
    try:
        done = subprocess.run(
            program.check,
            env={**os.environ, "PATH": PATH},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
