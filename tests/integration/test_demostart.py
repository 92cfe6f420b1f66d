"""``nix/demo/start`` as it is typed, with a package index that does not answer."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from bootstrap.environment import has_venv
from bootstrap.start import CHECKOUT
from tests.integration.nixenv import INTERRUPTIBLE, nix_environment, nix_missing

CONFIGURED = ("PIP_", "NIXERY_", "PYTHON", "XDG_", "STATE_DIRECTORY", "LISTEN_")
"""Prefixes of variables that the command would follow."""


class SilentIndex(http.server.ThreadingHTTPServer):
    """A package index that never answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = threading.Event()
        self.left = threading.Event()
        """Set when a client that has asked ends its connection."""
        self._thread = threading.Thread(target=self.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/simple"

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: SilentIndex

    def do_GET(self) -> None:
        self.server.asked.set()
        self.connection.recv(1)
        self.server.left.set()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class InterruptionTests(SynchronousTestCase):
    """Tests of ctrl-C while pip installs the registry."""

    def setUp(self) -> None:
        reason = nix_missing()
        if reason is not None:
            raise SkipTest(reason)
        if not has_venv(Path("/usr/bin/python3")):
            raise SkipTest("/usr/bin/python3 cannot make virtual environments")
        self.directory = Path(self.mktemp()).absolute()
        self.checkout = self.directory / "checkout"
        shutil.copytree(
            CHECKOUT,
            self.checkout,
            ignore=shutil.ignore_patterns(".*", "_trial_temp*", "__pycache__", "build", "dist"),
        )
        self.cache = self.directory / "cache"
        self.index = SilentIndex()
        self.addCleanup(self.index.close)

    def start(self) -> subprocess.Popen[bytes]:
        environ = {
            name: value
            for name, value in nix_environment().items()
            if not name.startswith(CONFIGURED)
        }
        environ |= {
            "XDG_CACHE_HOME": str(self.cache),
            "XDG_STATE_HOME": str(self.directory / "state"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.index.url,
        }
        with (self.directory / "output").open("wb") as output:
            return subprocess.Popen(
                [*INTERRUPTIBLE, "nix/demo/start", "--prepare-only"],
                cwd=self.checkout,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def files(self, directory: Path) -> set[str]:
        return {str(path.relative_to(directory)) for path in directory.rglob("*")}

    def output(self) -> str:
        return (self.directory / "output").read_text()

    def test_interrupted_while_pip_installs(self) -> None:
        """The environment that pip has begun is removed, and pip has ended."""
        before = self.files(self.checkout)
        with self.start() as process:
            try:
                while not self.index.asked.wait(0.1):
                    self.assertIsNone(process.poll(), self.output())
                # A terminal sends ctrl-C to all processes of the group in its foreground.
                os.killpg(process.pid, signal.SIGINT)
                process.wait(60)
            finally:
                process.kill()
        output = self.output()
        self.assertEqual(process.returncode, -signal.SIGINT, output)
        self.assertIn("interrupted: nothing that was begun is left half made", output)
        self.assertNotIn("Traceback", output)
        self.assertTrue(self.index.left.wait(60))
        self.assertEqual(self.files(self.cache), {"nixery", "nixery/environments", "nixery/lock"})
        self.assertEqual(self.files(self.checkout), before)
