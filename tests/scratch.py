"""
A temporary directory for a run of the tests.  It goes with the run, and whatever the
tests left in it, so that nothing of theirs stays in the machine's own.

A run that was killed cannot clean up: the next one does, for the killed run's lock on
its directory is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Self

__all__ = ["PREFIX", "Scratch", "remove_tree", "unmount_below"]

PREFIX = "nixery-t-"
"""
The prefix of these directories' names; short, as sockets lie below, and podman refuses a
directory for its run-time files whose path is longer than 50 characters.
"""


class Scratch:
    """
    The temporary directory of a run.  A context manager.

    :param parent: where it is made; what killed runs left there is removed first.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._lock = -1
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        remove_abandoned(self._parent)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._parent))
        self._lock = _locked(self.path)
        # Tests have children that run as other users: as free for all as /tmp is.
        self.path.chmod(0o1777)
        return self

    def __exit__(self, *exc: object) -> None:
        remove_tree(self.path)
        os.close(self._lock)

    @property
    def lock(self) -> int:
        """
        The file descriptor that holds the lock.  A child that inherits it keeps the
        directory from being removed for as long as it runs.
        """
        return self._lock

    def left(self) -> list[str]:
        """The names of what came to lie here since the last call."""
        names = set(os.listdir(self.path))
        new, self._seen = sorted(names - self._seen), names
        return new


def remove_abandoned(parent: Path) -> None:
    """Remove the directories of runs that have ended."""
    for path in sorted(parent.glob(f"{PREFIX}*")):
        try:
            if path.lstat().st_uid != os.getuid():
                continue
            lock = _locked(path)
        except OSError:
            # Another run's, or one that has just gone.
            continue
        remove_tree(path)
        os.close(lock)


def remove_tree(directory: Path) -> None:
    """
    Remove a directory with all that is in it, mounts and write-protected files included,
    as far as that is possible.
    """
    unmount_below(directory)
    # What could not be unmounted must not be emptied.
    if _mounts_below(directory):
        return
    # Nix takes the permission to write from what it makes.
    with contextlib.suppress(OSError):
        directory.chmod(stat.S_IRWXU)
    for parent, names, _ in os.walk(directory):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.chmod(stat.S_IRWXU)
    shutil.rmtree(directory, ignore_errors=True)


def unmount_below(directory: Path) -> None:
    """Unmount all that container engines left mounted, innermost first."""
    for mount in reversed(_mounts_below(directory)):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)


def _mounts_below(directory: Path) -> list[str]:
    table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    # Blanks in the path are written in octal.
    mounts = [
        re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split(" ")[4])
        for line in table.splitlines()
    ]
    return [mount for mount in mounts if Path(mount).is_relative_to(directory)]


def _locked(directory: Path) -> int:
    """:raises BlockingIOError: another process has locked it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
