"""Requirements that each environment of tox.ini has of the machine that it runs on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ENVIRONMENTS", "Environment", "shortages"]

MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Environment:
    """
    An environment.

    :param programs: names in :data:`tests.programs.PROGRAMS`.
    :param installed: MB that stay, in the checkout's ``.tox``.
    :param temporary: MB of temporary files at once.
    :param root: why it is for root alone, if it is.
    :param heavy: whether it is left out unless it or all heavy tests are asked for.
    :param waits: whether it mostly waits, for container engines and installations: those
        that do run one after the other, beside those that do not.
    """

    programs: tuple[str, ...] = ()
    installed: int
    temporary: int = 100
    root: str = ""
    heavy: bool = False
    waits: bool = False


_NIX = (
    *("nix", "nix-build", "nix-daemon", "nix-hash", "nix-instantiate", "nix-store"),
    *("git", "git-lfs", "openssl", "setsid", "systemd-analyze", "systemd-sysusers", "zstd"),
)
_REGISTRY = (*_NIX, "setpriv", "unshare")
_ENGINES = (
    *("docker", "dockerd", "containerd", "ctr", "runc", "crun", "podman", "conmon", "skopeo"),
    *("qemu-aarch64", "qemu-x86_64", "debootstrap"),
)

ENVIRONMENTS = {
    "lint": Environment(installed=50),
    "mypy": Environment(installed=350),
    "unit": Environment(programs=("zstd",), installed=250, temporary=700),
    "fuzz": Environment(installed=350),
    "docs": Environment(installed=200),
    "integration": Environment(programs=(*_NIX, "qemu-aarch64"), installed=700, temporary=700),
    "end-to-end": Environment(
        programs=_REGISTRY + _ENGINES,
        installed=250,
        temporary=2500,
        root="container engines and mounts need root",
        waits=True,
    ),
    "browser": Environment(
        programs=(*_REGISTRY, "chromium", "chromedriver"),
        installed=350,
        temporary=500,
        root="its registry is that of the end-to-end tests, which needs root",
    ),
    "clean-roots": Environment(
        programs=(
            *("debootstrap", "nsenter", "setpriv", "skopeo", "unshare"),
            # The tutorial is typed with these.
            *("docker", "dockerd", "containerd", "runc", "podman", "conmon"),
        ),
        installed=250,
        temporary=2500,
        root="installing a Debian into a directory needs root",
        waits=True,
    ),
    "guest": Environment(
        programs=(
            *("debootstrap", "mke2fs", "nsenter", "qemu-system-x86_64", "setpriv", "unshare"),
        ),
        # A tree of Debian is kept for the next run, in the user's cache.
        installed=1000,
        temporary=2500,
        root="installing a Debian into a directory needs root",
        heavy=True,
        waits=True,
    ),
}
"""By name, in the order in which they are started: what fails fastest first."""


def shortages(
    names: Iterable[str],
    checkout: Path,
    temporary: Path,
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> list[str]:
    """
    Find the file systems with too little free space for the environments.

    :param names: the environments to be run.
    :param checkout: where the project is.
    :param temporary: where temporary files go.
    :param free: the bytes that are free in the file system that holds a path.
    :return: a sentence for each file system that is too full.
    """
    chosen = [(name, ENVIRONMENTS[name]) for name in names]
    needs = {
        # What was installed by an earlier run is there already.
        checkout: sum(
            each.installed for name, each in chosen if not (checkout / ".tox" / name).exists()
        ),
        temporary: sum(
            max((each.temporary for _, each in chosen if each.waits == waits), default=0)
            for waits in (False, True)
        ),
    }
    full = []
    for paths in _by_device(needs):
        needed = sum(needs[path] for path in paths) * MB
        there = free(paths[0])
        if there < needed:
            where = " and ".join(map(str, paths))
            full.append(
                f"{where}: {needed / 1e9:.1f} GB are needed, and {there / 1e9:.1f} GB are free"
            )
    return full


def _by_device(needs: Mapping[Path, int]) -> list[list[Path]]:
    devices: dict[int, list[Path]] = {}
    for path in needs:
        devices.setdefault(os.stat(path).st_dev, []).append(path)
    return list(devices.values())
