"""
The daemon as systemd runs it: a real process, with a service manager's end of the socket,
and what systemd itself says of the units.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

from twisted.trial.unittest import SkipTest, SynchronousTestCase

CHECKOUT = Path(__file__).resolve().parent.parent.parent

# What systemd does between fork and exec: the socket becomes descriptor 3, and the process
# that will be the daemon is told that it is meant.
PARENT = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(
    LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="nixery.socket",
    WATCHDOG_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class ServiceTests(SynchronousTestCase):
    """What the service manager hears, from the start to the end."""

    def setUp(self) -> None:
        if shutil.which("nix-build") is None:
            raise SkipTest("Nix is not installed")
        # The address of a socket is short.
        directory = tempfile.TemporaryDirectory(prefix="nixery-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        (self.directory / "set").mkdir()
        (self.directory / "set" / "default.nix").write_text("{ }\n")
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.manager.close)
        self.manager.bind(str(self.directory / "notify"))
        self.manager.settimeout(60)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listening.close)
        log = (self.directory / "log").open("wb")
        self.addCleanup(log.close)
        status = os.fstat(log.fileno())
        self.child = subprocess.Popen(
            [
                *(sys.executable, "-c", PARENT, str(self.listening.fileno())),
                *(sys.executable, str(Path(sys.executable).parent / "twistd")),
                *("--nodaemon", "--pidfile=", "nixery", "--stop-grace=1"),
            ],
            cwd=self.directory,
            env={
                **os.environ,
                "PYTHONPATH": str(CHECKOUT),
                "PYTHONUNBUFFERED": "1",
                "NIX_CONFIG": "build-users-group =\n",
                "NIXERY_PKGS_PATH": str(self.directory / "set"),
                "STATE_DIRECTORY": str(self.directory / "state"),
                "CACHE_DIRECTORY": str(self.directory / "cache"),
                "NOTIFY_SOCKET": str(self.directory / "notify"),
                "WATCHDOG_USEC": "3000000",
                "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}",
            },
            pass_fds=[self.listening.fileno()],
            stdout=log,
            stderr=log,
        )
        self.addCleanup(self.child.wait)
        self.addCleanup(self.child.kill)

    def log(self) -> str:
        """What the daemon wrote."""
        return (self.directory / "log").read_text()

    def hears(self, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """The next notice of a kind."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                data = self.manager.recv(4096)
            except TimeoutError:
                break
            notice = dict(line.split("=", 1) for line in data.decode().split("\n"))
            if wanted(notice):
                return notice
        raise AssertionError(f"the service manager waits in vain\n{self.log()}")

    def test_life(self) -> None:
        """It is ready, lives, reloads and stops, and is reached where systemd listens."""
        self.assertIn("STATUS", self.hears(lambda notice: "STATUS" in notice))
        self.assertIn("Serving", self.hears(lambda notice: "READY" in notice)["STATUS"])
        host, port = self.listening.getsockname()
        with urlopen(f"http://{host}:{port}/v2/", timeout=30) as answer:
            self.assertEqual(200, answer.status)
        self.hears(lambda notice: "WATCHDOG" in notice)
        self.hears(lambda notice: "WATCHDOG" in notice)
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.child.send_signal(signal.SIGHUP)
        begun = self.hears(lambda notice: "RELOADING" in notice)
        self.assertGreaterEqual(int(begun["MONOTONIC_USEC"]), before)
        self.hears(lambda notice: "READY" in notice)
        self.child.send_signal(signal.SIGTERM)
        stopping = self.hears(lambda notice: "STOPPING" in notice)
        self.assertGreater(int(stopping["EXTEND_TIMEOUT_USEC"]), 1_000_000)
        self.assertEqual(-signal.SIGTERM, self.child.wait(60))
        # The journal has priorities, and its own clock.
        lines = self.log().splitlines()
        self.assertTrue(any(line.startswith("<6>Pull with: docker pull") for line in lines), lines)
        self.assertEqual([], [line for line in lines if not re.match(r"<[2-7]>\S", line)])


class UnitTests(SynchronousTestCase):
    """The units, as systemd sees them."""

    def setUp(self) -> None:
        if shutil.which("systemd-analyze") is None:
            raise SkipTest("systemd is not installed")
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        text = (CHECKOUT / "nixery.service").read_text("utf-8")
        # It wants to see the program, which is installed by whoever uses the unit.
        self.service = directory / "nixery.service"
        self.service.write_text(text.replace("/opt/nixery/bin/twistd", "/bin/true"))
        self.socket = directory / "nixery.socket"
        shutil.copy(CHECKOUT / "nix" / "systemd" / "nixery.socket", self.socket)

    def analyze(self, *arguments: str) -> str:
        done = subprocess.run(
            ["systemd-analyze", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "LANG": "C.UTF-8"},
        )
        self.assertEqual((0, ""), (done.returncode, done.stderr))
        return done.stdout

    def test_correct(self) -> None:
        """systemd finds nothing wrong with them."""
        self.analyze("verify", str(self.service), str(self.socket))

    def test_exposure(self) -> None:
        """Of the harm that a broken service can do, a fifth is left at most."""
        said = self.analyze("security", "--offline=true", "--no-pager", str(self.service))
        found = re.search(r"Overall exposure level for nixery.service: ([0-9.]+)", said)
        assert found is not None, said
        self.assertLessEqual(float(found[1]), 2.0)
