"""Real runs of apt that meet another one's locks, in directories of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from bootstrap.children import Children
from bootstrap.console import Console
from bootstrap.packages import _Apt

# Locks are each process's own, so another process has to hold them.
_HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o640)
fcntl.lockf(descriptor, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


class LockTests(SynchronousTestCase):
    """Another run of apt is waited for, whatever lock it holds."""

    def setUp(self) -> None:
        if shutil.which("apt-get") is None:
            raise SkipTest("apt-get is not installed: this is no Debian machine")
        self.directory = Path(self.mktemp()).absolute()
        for name in ("lists/partial", "archives/partial"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "status").touch()
        (self.directory / "sources.list").touch()
        settings = self.directory / "apt.conf"
        settings.write_text(
            f'Dir::State::lists "{self.directory}/lists";\n'
            f'Dir::State::status "{self.directory}/status";\n'
            f'Dir::Cache "{self.directory}";\n'
            f'Dir::Etc::sourcelist "{self.directory}/sources.list";\n'
            'Dir::Etc::sourceparts "/dev/null";\n'
            # The hooks of the machine are none of these runs'.
            "#clear APT::Update;\n#clear DPkg::Post-Invoke;\n"
        )
        self.patch(os, "environ", {**os.environ, "APT_CONFIG": str(settings)})

    def run_beside(self, lock: str, *arguments: str) -> str:
        """Run apt while another process holds a lock, until it waits, and return the messages."""
        err = StringIO()
        console = Console("start", err)
        with (
            subprocess.Popen(
                [sys.executable, "-c", _HOLDER, str(self.directory / lock)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ) as holder,
            Children(console) as children,
        ):
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdout.readline()
            stdin = holder.stdin
            waits: list[bool] = []

            def wait(_attempt: Callable[[], bool]) -> bool:
                waits.append(True)
                stdin.close()
                holder.wait(60)
                return True

            self.patch(children, "wait", wait)
            done = _Apt(children, console).run(arguments)
        self.assertEqual((done.status, len(waits)), (0, 1), done.output)
        return err.getvalue()

    def test_apt_get_update_waits_for_lock_of_lists_and_says_who_holds_it(self) -> None:
        """``apt-get update`` waits for the lock of the lists, and says who holds it."""
        said = self.run_beside("lists/lock", "update")
        self.assertIn(f"waiting for another run of apt ({self.directory}/lists/lock", said)
        self.assertIn("which process", said)

    def test_users_of_archives_wait_for_their_lock(self) -> None:
        """So does what uses the archives."""
        said = self.run_beside("archives/lock", "clean")
        self.assertIn("archives/lock", said)
