"""SIGHUP in a terminal: whom it ends, and the daemon when its terminal is closed."""

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

    def test_closing_the_terminal_ends_the_daemon_in_good_order(self) -> None:
        """Closing the terminal ends the daemon in good order; the log tells that it would."""
        master = self.start(f"--logfile={self.log}")
        self.wait_for("Listening on")
        os.close(master)
        self.child.wait(120)
        log = self.log.read_text()
        self.assertIn("Closing the terminal (SIGHUP) stops", log)
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

    def test_with_nohup_the_daemon_outlives_its_terminal_and_the_signal_reloads(self) -> None:
        """With ``nohup`` the daemon outlives its terminal, and the signal reloads."""
        master = self.start(f"--logfile={self.log}", hangup="SIG_IGN")
        self.wait_for("Listening on")
        self.assertIn("SIGHUP reloads", self.log.read_text())
        os.close(master)
        self.wait_for("Reloading: ")
        self.child.send_signal(signal.SIGTERM)
        self.child.wait(120)
        self.assertIn("Server Shut Down", self.log.read_text())


_IN_TERMINAL = """
import fcntl, os, signal, sys, termios
sys.path.insert(0, {checkout!r})
from nixery.runtime.reloader import hangup_ends
{before}
sys.stderr.write(str(hangup_ends()))
"""

_CONTROLLING = "os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)"


class HangupTests(SynchronousTestCase):
    """The conditions under which SIGHUP ends a process, with real terminals."""

    def setUp(self) -> None:
        self.master, self.terminal = pty.openpty()
        self.addCleanup(os.close, self.master)
        self.addCleanup(os.close, self.terminal)

    def answer(self, before: str, *, prefix: tuple[str, ...] = ()) -> str:
        """Run statements in a process whose standard input is a terminal; return its findings."""
        program = _IN_TERMINAL.format(checkout=str(CHECKOUT), before=before)
        done = subprocess.run(
            [*prefix, sys.executable, "-c", program],
            stdin=self.terminal,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stderr

    def test_in_the_foreground_of_its_controlling_terminal_it_ends(self) -> None:
        """In the foreground of its controlling terminal it ends."""
        self.assertEqual(self.answer(_CONTROLLING), "True")

    def test_standard_input_is_another_file_though_there_is_a_terminal(self) -> None:
        """Standard input is another file, as under systemd, though there is a terminal."""
        before = f"{_CONTROLLING}; os.dup2(os.open('/dev/null', os.O_RDONLY), 0)"
        self.assertEqual(self.answer(before), "False")

    def test_standard_input_is_closed(self) -> None:
        """Standard input is closed."""
        self.assertEqual(self.answer(f"{_CONTROLLING}; os.close(0)"), "False")

    def test_standard_input_is_a_terminal_and_not_the_controlling_one(self) -> None:
        """Standard input is a terminal, and not the controlling one."""
        self.assertEqual(self.answer("os.setsid()"), "False")

    def test_process_is_in_the_background_of_its_terminal(self) -> None:
        """The process is in the background of its terminal."""
        before = f"""
{_CONTROLLING}
child = os.fork()
if child:
    os.waitpid(child, 0)
    os._exit(0)
os.setpgid(0, 0)
"""
        self.assertEqual(self.answer(before), "False")

    def test_signal_was_ignored_at_the_start(self) -> None:
        """The signal was ignored at the start."""
        before = f"{_CONTROLLING}; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
        self.assertEqual(self.answer(before), "False")

    def test_process_is_the_first_of_a_container_that_has_a_terminal(self) -> None:
        """The process is the first of a container that has a terminal."""
        unshare = shutil.which("unshare")
        if unshare is None:
            raise SkipTest("unshare is not installed")
        user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        prefix = (unshare, *user, "--pid", "--fork")
        before = f"assert os.getpid() == 1; {_CONTROLLING}"
        self.assertEqual(self.answer(before, prefix=prefix), "False")
        # By its number alone: any other process of the container would be ended.
        before = f"if not os.fork(): {_CONTROLLING}\nelse: os.wait(); os._exit(0)"
        self.assertEqual(self.answer(before, prefix=prefix), "True")
