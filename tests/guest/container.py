"""Runs systemd as process 1 of a container that shares nothing with the host but its kernel."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.end_to_end.processes import Finished, at_end, run, wait_until

__all__ = ["Container"]

GROUPS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
"""The directories of the unified hierarchy of control groups, where version 1 is used and not."""

BOOT = """
set -eu
echo $$ >"$GROUP/cgroup.procs"
# The container ends with the tests, however these end.
exec setpriv --pdeathsig KILL unshare --pid --fork --kill-child --mount --uts --ipc --net \\
    --cgroup sh -euc '
mount --make-rprivate /
mount -t overlay -o "lowerdir=$BELOW,upperdir=$ABOVE/files,workdir=$ABOVE/work" root "$ABOVE/root"
cd "$ABOVE/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
    touch "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
pivot_root . mnt
umount -l /mnt
# As on a machine: services see what systemd mounts for them, credentials for example.
mount --make-rshared /
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
'
"""


class Container:
    """
    A system that runs until the tests end.

    :param below: its root directory, which stays as it is.
    :param directory: a directory for what the system writes.
    """

    def __init__(self, below: Path, directory: Path) -> None:
        for name in ("files", "work", "root"):
            (directory / name).mkdir()
        self.files = directory / "files"
        """The files that differ from those in ``below``."""
        self._below = below
        self._log = directory / "log"
        [group, *_] = [Path(path) for path in GROUPS if (Path(path) / "cgroup.procs").exists()]
        self._group = group / directory.name

    def start(self) -> None:
        """
        Start it, and wait until it is up.

        :raises AssertionError: it does not come up.
        """
        self._group.mkdir()
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                ["sh", "-c", BOOT],
                env={
                    **os.environ,
                    "GROUP": str(self._group),
                    "BELOW": str(self._below),
                    "ABOVE": str(self.files.parent),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        at_end(self._end)
        wait_until(self._up, "systemd to be up", seconds=600)

    def run(self, argv: Sequence[str], *, seconds: float) -> Finished:
        """Run a command in it, as root."""
        return run(["nsenter", "--target", str(self._first()), "--all", *argv], seconds=seconds)

    def _first(self) -> int:
        """Return the ID of its process 1 outside of it."""
        children = Path(f"/proc/{self._child.pid}/task/{self._child.pid}/children").read_text()
        return int(children.split()[0])

    def _up(self) -> bool:
        if self._child.poll() is not None:
            raise AssertionError(self._log.read_text(errors="replace"))
        try:
            said = self.run(["systemctl", "is-system-running"], seconds=60).stdout
        except IndexError:
            return False
        return said.strip() in {"running", "degraded"}

    def _end(self) -> None:
        # All that process 1 of a container has started ends with it.
        os.kill(self._child.pid, signal.SIGKILL)
        self._child.wait()
        groups = sorted(self._group.rglob("*/"), reverse=True)
        wait_until(lambda: not _populated(self._group), "the container to end")
        for each in (*groups, self._group):
            each.rmdir()


def _populated(group: Path) -> bool:
    return "populated 1" in (group / "cgroup.events").read_text()
