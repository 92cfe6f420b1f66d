"""
Makes a Debian with systemd, its own Nix, a kernel, and what the registry needs of Python.

It is made once and kept between runs; the registry itself comes with each run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import zipfile
from pathlib import Path

from tests.clean_roots.root import CleanRoot
from tests.scratch import remove_tree

__all__ = ["MASKED", "debian"]

RELEASE = "trixie"

PACKAGES = (
    *("busybox-static", "curl", "dbus", "git", "libnss-systemd", "linux-image-cloud-amd64"),
    *("nix-bin", "nix-setup-systemd", "openssl", "python3-venv", "systemd-sysv"),
)

MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-timesyncd.service",
)
"""Units that would run in the midst of the checks, or set the clock."""

INSTALL = """
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet
apt-get install --yes --quiet --no-install-recommends "$@"
apt-get clean
python3 -m venv /opt/nixery
/opt/nixery/bin/pip install --quiet .
rm -rf "$PWD" /root/.cache
"""


def debian(wheel: Path) -> Path:
    """
    Return the root directory of the system, which must not be changed; make it if it is not there.

    :param wheel: the registry, whose requirements are installed.
    :raises SkipTest: no Debian can be installed here.
    :raises AssertionError: what it needs cannot be installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # These two determine what is installed in it.
    wanted = "".join([Path(__file__).read_text(), *_requirements(wheel)])
    name = f"{RELEASE}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    kept = cache / "nixery-tests" / "guest"
    path = kept / name
    kept.mkdir(parents=True, exist_ok=True)
    # Until this process ends, nobody removes what it uses.
    lock = os.open(kept / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_SH)
    if not path.exists():
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            for older in kept.glob(f"{RELEASE}-*"):
                remove_tree(older)
            _make(path)
        fcntl.flock(lock, fcntl.LOCK_SH)
    return path


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        [name] = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    return sorted(line for line in lines if line.startswith("Requires-Dist:"))


def _make(path: Path) -> None:
    root = CleanRoot(RELEASE, "root")
    install = root.run("sh", "-euc", INSTALL, "sh", *PACKAGES, seconds=3600)
    if install.status != 0:
        raise AssertionError(install.describe())
    units = root.path / "etc/systemd/system"
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    draft = path.with_suffix(".draft")
    shutil.move(root.path, draft)
    draft.rename(path)
