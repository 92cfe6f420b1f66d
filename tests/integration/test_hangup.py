"""The daemon in a terminal that is closed."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

CHECKOUT = Path(__file__).resolve().parent.parent.parent

# What a terminal's first program finds: the terminal is its controlling one.
PROGRAM = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.{hangup})
os.execv(sys.argv[1], sys.argv[1:])
"""


class TerminalTests(SynchronousTestCase):
    """A real daemon, whose standard streams are a terminal."""

    def setUp(self) -> None:
        if shutil.which("nix-build") is None:
            raise SkipTest("Nix is not installed")
        directory = tempfile.TemporaryDirectory(prefix="nixery-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        (self.directory / "set").mkdir()
        (self.directory / "set" / "default.nix").write_text("{ }\n")
        self.log = self.directory / "log"

    def start(self, *options: str, hangup: str = "SIG_DFL") -> int:
        """Start the daemon; the master side of its terminal."""
        master, terminal = pty.openpty()
        self.child = subprocess.Popen(
            [
                *(sys.executable, "-c", PROGRAM.format(hangup=hangup)),
                *(sys.executable, str(Path(sys.executable).parent / "twistd")),
                *("--nodaemon", "--pidfile=", *options, "nixery", "--shutdown-timeout=1"),
                f"--listen=unix:{self.directory}/socket",
            ],
            cwd=self.directory,
            env={
                **os.environ,
                "PYTHONPATH": str(CHECKOUT),
                "NIX_CONFIG": "build-users-group =\n",
                "NIXERY_PKGS_PATH": str(self.directory / "set"),
                "STATE_DIRECTORY": str(self.directory / "state"),
                "CACHE_DIRECTORY": str(self.directory / "cache"),
            },
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        self.addCleanup(self.end)
        os.close(terminal)
        return master

    def end(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()

    def wait_for(self, text: str) -> None:
        """Wait until the log has a text."""
        deadline = time.monotonic() + 120
        while not self.log.exists() or text not in self.log.read_text():
            self.assertLess(time.monotonic(), deadline, f"the log has no {text!r}")
            self.assertIsNone(self.child.poll(), "the daemon has ended")
            time.sleep(0.1)

    def test_closed(self) -> None:
        """Closing the terminal ends the daemon in good order; the log tells that it would."""
        master = self.start(f"--logfile={self.log}")
        self.wait_for("Listening on")
        os.close(master)
        self.child.wait(120)
        log = self.log.read_text()
        self.assertIn("SIGHUP ends this process", log)
        self.assertIn("The terminal was closed", log)
        self.assertIn("Server Shut Down", log)
        self.assertFalse((self.directory / "socket").exists())

    def test_log_in_the_terminal(self) -> None:
        """It ends as well when the log goes to the terminal, and can be written no more."""
        master = self.start()
        said = b""
        while b"Listening on" not in said:
            said += os.read(master, 65536)
        os.close(master)
        self.child.wait(120)
        self.assertFalse((self.directory / "socket").exists())

    def test_nohup(self) -> None:
        """With ``nohup`` the daemon outlives its terminal, and the signal reloads."""
        master = self.start(f"--logfile={self.log}", hangup="SIG_IGN")
        self.wait_for("Listening on")
        self.assertIn("SIGHUP reloads", self.log.read_text())
        os.close(master)
        self.wait_for("Looking again at")
        self.child.send_signal(signal.SIGTERM)
        self.child.wait(120)
        self.assertIn("Server Shut Down", self.log.read_text())
