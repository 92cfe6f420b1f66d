"""
Installs Debian packages with apt, concurrently with other runs of apt, and without a network if
possible.

Three hazards are handled here, once:

- Another run of apt holds a lock. ``DPkg::Lock::Timeout`` waits for the locks of dpkg only: for
  those of the lists (``apt-get update``) and of the archives (``apt-get install``), apt of Debian
  12 and 13 has no option, and fails at once. So this failure is retried, for all locks, and a
  signal ends the wait.
- ``apt-get update`` ends with status 0 when nothing at all could be fetched, and the following
  installation fails with "unable to locate". The cause is kept, and reported.
- An interrupted dpkg leaves packages half installed. So packages are downloaded first, which a
  signal may end, and then installed, which a signal does not end.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from collections.abc import Sequence

from bootstrap.children import Children, Finished
from bootstrap.console import Console

__all__ = ["InstallationFailed", "install_command", "install_packages", "unreachable"]

LOCK_TIMEOUT_SECONDS = 600
"""The longest wait for other runs of apt: a new machine updates itself when it boots."""

_RETRY_SECONDS = 1.0

_LOCKED = re.compile(
    r"(?m)Could not get lock (\S+?)\.?(?: |$)(?:It is held by process (\d+ \([^)]*\)))?"
)
_STATUS = re.compile(r"(?:dlstatus|pmstatus):[^:]*:([0-9.]+):(.*)")
_FETCHED = re.compile(r"(?:Get|Hit|Ign|Err):\d+ (.*)")
_UNREACHABLE = re.compile(
    r"Could not resolve|Temporary failure|Name or service not known|Unable to connect"
    r"|Could not connect|Connection failed|Connection refused|Connection timed out"
    r"|Network is unreachable|No route to host|NewConnectionError"
)


class InstallationFailed(Exception):
    """
    An installation failed.

    :param message: says what failed, why, and how to fix it.
    :param output: the output of the program that failed; may be empty.
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.output = output


def install_command(packages: Sequence[str]) -> str:
    """Return the command line that does the same as :func:`install_packages`, for people."""
    names = shlex.join(packages)
    return f"apt-get update && apt-get install --no-install-recommends {names}"


def install_packages(
    packages: Sequence[str],
    *,
    children: Children | None = None,
    console: Console | None = None,
) -> None:
    """
    Install Debian packages, as root.

    :param packages: their names.
    :param children: runs apt; with its own handling of signals, if not given.
    :param console: shows progress; standard error, if not given.
    :raises InstallationFailed: they are not installed.
    :raises Interrupted: by a signal.
    """
    if console is None:
        console = Console("apt")
    if children is None:
        with Children(console) as own:
            install_packages(packages, children=own, console=console)
        return
    if shutil.which("apt-get") is None:
        raise InstallationFailed(
            f"there is no apt-get to install {' '.join(packages)} with: install them yourself"
        )
    apt = _Apt(children, console)
    console.begin("fetching the lists of Debian packages")
    # Some source may be unreachable, and may not be needed: the installation shows it.
    update = apt.run(["-o", "APT::Update::Error-Mode=any", "update"])
    console.begin(f"installing {' '.join(packages)}")
    install = ["--yes", "--no-install-recommends", "install", *packages]
    done = apt.run(["--download-only", *install])
    if done.status == 0:
        done = apt.run(install, interruptible=False)
    if done.status != 0:
        raise _failure(packages, update, done)


def unreachable(output: str) -> str | None:
    """Return the first line of the output of apt or pip that reports a missing network."""
    for line in output.splitlines():
        if _UNREACHABLE.search(line):
            return line.strip()
    return None


class _Apt:
    """Runs apt-get, and retries while another run of it holds a lock."""

    def __init__(self, children: Children, console: Console) -> None:
        self._children = children
        self._console = console
        self._deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        self._told: set[str] = set()

    def run(self, arguments: Sequence[str], *, interruptible: bool = True) -> Finished:
        while True:
            done = self._children.run(
                [
                    "apt-get",
                    "--quiet",
                    *("-o", "APT::Status-Fd=1"),
                    *arguments,
                ],
                environ={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
                detail=_progress,
                interruptible=interruptible,
            )
            locked = _LOCKED.search(done.output) if done.status != 0 else None
            if locked is None:
                return done
            path, holder = locked.group(1), locked.group(2)
            by = f", which process {holder} holds" if holder else ""
            if time.monotonic() >= self._deadline:
                raise InstallationFailed(
                    f"another run of apt did not end within {LOCK_TIMEOUT_SECONDS} s"
                    f" ({path}{by}): wait for it, then try again",
                    done.tail(),
                )
            if path not in self._told:
                self._told.add(path)
                self._console.say(f"waiting for another run of apt ({path}{by})")
            self._pause()

    def _pause(self) -> None:
        end = time.monotonic() + _RETRY_SECONDS
        self._children.wait(lambda: time.monotonic() >= end)


def _progress(line: str) -> str | None:
    status = _STATUS.fullmatch(line)
    if status is not None:
        return f"{float(status.group(1)):.0f} %  {status.group(2)}"
    fetched = _FETCHED.match(line)
    if fetched is not None and not line.startswith("Err"):
        return fetched.group(1)
    return None


def _failure(packages: Sequence[str], update: Finished, install: Finished) -> InstallationFailed:
    names = " ".join(packages)
    cause = unreachable(install.output)
    if cause is None and update.status != 0:
        cause = unreachable(update.output)
    if cause is not None:
        return InstallationFailed(
            f"{names} could not be installed, because Debian's archive cannot be reached"
            f" ({cause}): connect this machine to a network, or tell apt its proxy"
        )
    if "Unable to locate package" in install.output or "no installation candidate" in (
        install.output
    ):
        failed = next(
            (line for line in update.output.splitlines() if line.startswith("E:")),
            "no source of apt's has them",
        )
        return InstallationFailed(
            f"{names} could not be installed ({failed}): let apt's sources name a Debian"
            " archive with the component main"
        )
    return InstallationFailed(
        f"{names} could not be installed; what apt-get said is above", install.tail()
    )
