"""Tests for :mod:`bootstrap.start`."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bootstrap import start
from tests.unit.bootstrap.ports import taken_port

START = start.CHECKOUT / "nix/demo/start"


class ProgramTests(SynchronousTestCase):
    """The program itself, on a machine that has neither apt nor Nix."""

    def setUp(self) -> None:
        self.home = Path(self.mktemp()).absolute()
        self.home.mkdir()
        self.path = Path(self.mktemp()).absolute()
        self.path.mkdir()
        (self.path / "python3").symlink_to(sys.executable)
        for name in ("sh", "dirname"):
            (self.path / name).symlink_to(f"/usr/bin/{name}")

    def start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [START, *arguments],
            env={"HOME": str(self.home), "PATH": str(self.path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def assert_untouched(self) -> None:
        self.assertEqual(list(self.home.iterdir()), [])

    def test_help_needs_nothing_and_does_nothing(self) -> None:
        """Help needs nothing, and does nothing."""
        for option in ("--help", "-h"):
            done = self.start(option)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("--port N", done.stdout)
        self.assert_untouched()

    def test_version_is_that_of_the_checkout(self) -> None:
        """The version is that of the checkout."""
        done = self.start("--version")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(done.stdout.startswith("Nixery in Python, version "))
        self.assert_untouched()

    def test_port_that_is_none_is_refused_before_anything_is_done(self) -> None:
        """A port that is none is refused before anything is done."""
        done = self.start("--port", "http")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--port is 'http'", done.stderr)
        self.assert_untouched()

    def test_port_that_is_taken_is_said_before_anything_is_installed(self) -> None:
        """A port that is taken is said before anything is installed."""
        with taken_port() as port:
            done = self.start("--port", str(port))
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"127.0.0.1:{port} is in use", done.stderr)
        self.assert_untouched()

    def test_other_user_than_root_gets_the_command_for_root(self) -> None:
        """Others than root get the exact command that root has to run, for all packages."""
        err = StringIO()
        self.patch(sys, "stderr", err)
        self.patch(os, "environ", {**os.environ, "HOME": str(self.home), "PATH": str(self.path)})
        os.environ.pop("XDG_CACHE_HOME", None)
        self.patch(start, "_find_python", lambda: None)
        self.patch(os, "geteuid", lambda: 1000)
        self.assertEqual(start.main(["--prepare-only"]), 1)
        self.assertIn(
            "    apt-get update && apt-get install --no-install-recommends nix-bin python3-venv\n",
            err.getvalue(),
        )
