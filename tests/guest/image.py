"""
A Debian with systemd, its own Nix, and what the registry needs of Python.

It is made once, by debootstrap and pip, and kept; the registry itself comes with each run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.end_to_end.processes import run

__all__ = ["debian"]

CHECKOUT = Path(__file__).resolve().parent.parent.parent

RELEASE = "trixie"

PACKAGES = (
    "ca-certificates",
    "curl",
    "dbus",
    "e2fsprogs",
    "git",
    "libnss-systemd",
    "nix-bin",
    "nix-setup-systemd",
    "openssh-client",
    "python3-venv",
    "systemd-sysv",
    "util-linux",
)

# What a container has no use for, and what would run in the midst of the checks.
MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-timesyncd.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
)

AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def debian(wheel: Path) -> Path:
    """
    The root directory of the system, which must not be changed; it is made if it is not there.

    :param wheel: the registry, whose dependencies are installed.
    :raises AssertionError: it cannot be made.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # What is installed in it follows from these two.
    wanted = (CHECKOUT / "setup.py").read_bytes() + Path(__file__).read_bytes()
    name = f"{RELEASE}-{hashlib.sha256(wanted).hexdigest()[:12]}"
    root = cache / "nixery-tests" / "guest" / name
    if not root.exists():
        draft = root.with_name(f"{name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.parent.mkdir(parents=True, exist_ok=True)
        _install(draft, wheel)
        draft.rename(root)
    return root


def _install(root: Path, wheel: Path) -> None:
    run(["debootstrap", "--variant=minbase", RELEASE, str(root)], seconds=1800).checked()
    for name in ("resolv.conf", "apt/apt.conf"):
        own = Path("/etc") / name
        if own.exists():
            shutil.copy(own, root / "etc" / name)
    with _mounted(root):
        install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"]
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        within = ["chroot", str(root)]
        run([*within, *install, *PACKAGES], environ=environ, seconds=3600).checked()
        run([*within, "python3", "-m", "venv", "/opt/nixery"], seconds=600).checked()
        shutil.copy(wheel, root / "tmp")
        # The machine's own authorities and settings of pip hold in there, too.
        shutil.copy(AUTHORITIES, root / "tmp" / "authorities.pem")
        environ |= {"PIP_CERT": "/tmp/authorities.pem", "SSL_CERT_FILE": "/tmp/authorities.pem"}
        pip = [*within, "/opt/nixery/bin/pip", "install", "--quiet", f"/tmp/{wheel.name}"]
        run(pip, environ=environ, seconds=1800).checked()
    units = root / "etc" / "systemd" / "system"
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (root / "etc" / "fstab").unlink(missing_ok=True)
    for left in (wheel.name, "authorities.pem"):
        (root / "tmp" / left).unlink()


@contextmanager
def _mounted(root: Path) -> Iterator[None]:
    proc = str(root / "proc")
    run(["mount", "-t", "proc", "proc", proc]).checked()
    try:
        yield
    finally:
        run(["umount", proc]).checked()
