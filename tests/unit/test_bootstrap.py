"""Tests for :mod:`nixery.bootstrap`: all of ``nix/demo/start`` that installs nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nixery.bootstrap import start
from nixery.bootstrap.addresses import Address, parse_endpoint
from nixery.bootstrap.arguments import UsageError, parse_arguments
from nixery.bootstrap.children import Children, Finished, Interrupted
from nixery.bootstrap.console import Console
from nixery.bootstrap.environment import Environments
from nixery.bootstrap.packages import InstallationFailed, _Apt, _failure

CHECKOUT = Path(start.__file__).parent.parent.parent
START = CHECKOUT / "nix/demo/start"


@contextlib.contextmanager
def taken_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that has a listener."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        listener.listen()
        yield listener.getsockname()[1]


class ArgumentTests(SynchronousTestCase):
    """The command line of the program."""

    def test_nothing(self) -> None:
        """Without options the registry listens on the loopback, as it does by itself."""
        arguments = parse_arguments([], {})
        self.assertEqual(arguments.registry, ())
        self.assertEqual(arguments.endpoints, ("tcp:8080:interface=127.0.0.1",))

    def test_port(self) -> None:
        """A port is one of the loopback, however it is given; the last one holds."""
        expected = ("tcp:8099:interface=127.0.0.1",)
        environs: tuple[tuple[list[str], Mapping[str, str]], ...] = (
            (["--port", "8099"], {}),
            (["--port=8099"], {"PORT": "1"}),
            (["--port", "1", "--port", "8099"], {}),
            ([], {"PORT": "8099"}),
            (["--port", "8099"], {"NIXERY_CONFIG": "/etc/n.yaml"}),
        )
        for argv, environ in environs:
            arguments = parse_arguments(argv, environ)
            self.assertEqual(arguments.endpoints, expected)
            self.assertEqual(arguments.registry, ("--listen", *expected))

    def test_listen(self) -> None:
        """An endpoint is passed on as it is."""
        arguments = parse_arguments(["--listen", "tcp:80", "--listen=unix:/s"], {"PORT": "1"})
        self.assertEqual(arguments.endpoints, ("tcp:80", "unix:/s"))
        self.assertEqual(arguments.registry, ("--listen", "tcp:80", "--listen", "unix:/s"))

    def test_configured(self) -> None:
        """Only the registry knows the endpoints if a file or a variable may give them."""
        for argv, environ in (
            (["-c", "n.yaml"], {}),
            (["--config=n.yaml"], {}),
            ([], {"NIXERY_CONFIG": "n.yaml"}),
            ([], {"NIXERY_LISTEN": "tcp:1"}),
        ):
            self.assertIsNone(parse_arguments(argv, environ).endpoints)

    def test_relative(self) -> None:
        """A configuration file is one of the directory that the program was called in."""
        arguments = parse_arguments(["--config", "n.yaml", "--system", "x"], {})
        path = os.path.join(os.getcwd(), "n.yaml")
        self.assertEqual(arguments.registry, ("--config", path, "--system", "x"))

    def test_refused(self) -> None:
        """Invalid options are refused."""
        for argv, environ in (
            (["--port", "http"], {}),
            (["--port", "0"], {}),
            (["--port", "65536"], {}),
            (["--port"], {}),
            ([], {"PORT": "x"}),
            (["--port", "1", "--listen", "tcp:2"], {}),
        ):
            self.assertRaises(UsageError, parse_arguments, argv, environ)


class AddressTests(SynchronousTestCase):
    """Tests of the addresses that are listened on."""

    def test_endpoints(self) -> None:
        """Endpoint strings are understood as far as they name a port."""
        for text, expected in (
            ("tcp:8080:interface=127.0.0.1", Address("127.0.0.1", 8080)),
            ("plain:tcp:port=80", Address("", 80)),
            (r"tcp:80:interface=\:\:1", Address("::1", 80)),
            ("tcp6:80", Address("::", 80)),
            ("ssl:443:privateKey=k.pem:interface=10.0.0.1", Address("10.0.0.1", 443)),
            ("unix:/run/n", None),
            ("tcp:0", None),
            ("systemd:domain=INET:index=0", None),
        ):
            self.assertEqual(parse_endpoint(text), expected, text)

    def test_describe(self) -> None:
        """Every interface is said; on this machine it is reached as localhost."""
        self.assertEqual(Address("", 80).describe(), "port 80 of every interface")
        self.assertEqual(Address("::", 80).registry, "localhost:80")
        self.assertEqual(Address("::1", 80).registry, "[::1]:80")
        self.assertEqual(Address("127.0.0.1", 80).describe(), "127.0.0.1:80")
        self.assertEqual(Address("10.0.0.1", 80).registry, "10.0.0.1:80")

    def test_taken(self) -> None:
        """A port that is listened on is taken, of every interface as well."""
        with taken_port() as port:
            for host in ("127.0.0.1", ""):
                self.assertIn("in use", Address(host, port).problem() or "")
        self.assertIsNone(Address("127.0.0.1", port).problem())

    def test_no_such_interface(self) -> None:
        """An address of another machine is said to be unusable, with the reason."""
        self.assertIn("Cannot assign", Address("192.0.2.1", 8080).problem() or "")


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

    def test_help(self) -> None:
        """Help needs nothing, and does nothing."""
        for option in ("--help", "-h"):
            done = self.start(option)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("--port N", done.stdout)
        self.assert_untouched()

    def test_version(self) -> None:
        """The version is that of the checkout."""
        done = self.start("--version")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(done.stdout.startswith("Nixery in Python, version "))
        self.assert_untouched()

    def test_usage(self) -> None:
        """A port that is none is refused before anything is done."""
        done = self.start("--port", "http")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--port is 'http'", done.stderr)
        self.assert_untouched()

    def test_taken_port(self) -> None:
        """A port that is taken is said before anything is installed."""
        with taken_port() as port:
            done = self.start("--port", str(port))
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"127.0.0.1:{port} is in use", done.stderr)
        self.assert_untouched()

    def test_not_root(self) -> None:
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


_INTERRUPTED = """
import signal, sys
sys.path.insert(0, {checkout!r})
from nixery.bootstrap.children import Children, Interrupted
from nixery.bootstrap.console import Console
signal.signal(signal.SIGHUP, signal.{hangup})
# A shell that runs tests in the background has this one ignored.
signal.signal(signal.SIGINT, signal.SIG_DFL)
with Children(Console("test")) as children:
    try:
        done = children.run(["sh", "-c", {script!r}], interruptible={interruptible})
    except Interrupted as error:
        print(error)
    else:
        print(done.status, done.output)
"""


class ChildrenTests(SynchronousTestCase):
    """Programs that are run, and signals meanwhile."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def interrupt(
        self, script: str, number: int, *, interruptible: bool = True, hangup: str = "SIG_DFL"
    ) -> str:
        """Return the output of a program that gets a signal once the child wrote ``begun``."""
        os.mkfifo(self.directory / "begun")
        program = _INTERRUPTED.format(
            checkout=str(CHECKOUT), script=script, interruptible=interruptible, hangup=hangup
        )
        with subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            (self.directory / "begun").read_text()
            process.send_signal(number)
            printed, _ = process.communicate(timeout=60)
        return printed

    def test_output(self) -> None:
        """Both streams are kept, but for what was shown as progress."""
        shown = StringIO()
        console = Console("test", shown, monotonic=iter(range(0, 9999, 60)).__next__)
        console.begin("stepping")
        with Children(console) as children:
            done = children.run(
                ["sh", "-c", "echo one; echo step 2 >&2; printf three; exit 4"],
                detail=lambda line: line if line.startswith("step") else None,
            )
        self.assertEqual(done, Finished(4, "one\nthree"))
        self.assertIn("step 2", shown.getvalue())

    def test_interrupted(self) -> None:
        """A signal ends the child, with its own children, before it is told."""
        script = "echo $$ > child; sleep 1000 & echo $! > grandchild; echo > begun; wait"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            printed = self.interrupt(script, number)
            self.assertEqual(printed, f"interrupted by {number.name}\n")
            child = int((self.directory / "child").read_text())
            self.assertRaises(ProcessLookupError, os.kill, child, 0)
            (self.directory / "begun").unlink()

    def test_not_interruptible(self) -> None:
        """A child that must not be interrupted ends by itself; then the signal is reported."""
        script = "echo > begun; sleep 0.5; echo done > result"
        printed = self.interrupt(script, signal.SIGINT, interruptible=False)
        self.assertEqual(printed, "interrupted by SIGINT\n")
        self.assertEqual((self.directory / "result").read_text(), "done\n")

    def test_nohup(self) -> None:
        """A hang-up that was ignored at the start stays so."""
        script = "echo > begun; sleep 0.5; echo done"
        self.assertEqual(self.interrupt(script, signal.SIGHUP, hangup="SIG_IGN"), "0 done\n")

    def test_daemons(self) -> None:
        """A service that a package starts is not waited for, although it has the pipe."""
        with Children(Console("test", StringIO())) as children:
            done = children.run(["sh", "-c", "sleep 1000 & echo $!"])
        os.kill(int(done.output), signal.SIGKILL)
        self.assertEqual(done.status, 0)


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

    def test_found(self) -> None:
        """An environment that was made is found, until the checkout changes."""
        environment = self.made()
        self.assertEqual(self.environments.find(self.checkout, self.python), environment)
        (self.checkout / "nixery/file.pyc").write_text("no source")
        self.assertEqual(self.environments.find(self.checkout, self.python), environment)
        (self.checkout / "nixery/file").write_text("changed")
        self.assertIsNone(self.environments.find(self.checkout, self.python))

    def test_failed(self) -> None:
        """Nothing is left of what failed, and the network is named as the reason."""
        self.children.status = 1
        error = self.assertRaises(InstallationFailed, self.made)
        self.assertIn("cannot be reached", error.message)
        self.assertEqual([path.name for path in self.directory.rglob("*")],
                         ["lock", "environments"])  # fmt: skip

    def test_interrupted(self) -> None:
        """Nothing is left of what was interrupted."""

        def interrupt(*_: object, **__: object) -> Finished:
            (self.directory / "environments").mkdir(exist_ok=True)
            raise Interrupted(signal.SIGINT)

        self.patch(self.children, "run", interrupt)
        self.assertRaises(Interrupted, self.made)
        self.assertEqual(sorted(path.name for path in self.directory.rglob("*")),
                         ["environments", "lock"])  # fmt: skip

    def test_killed(self) -> None:
        """An environment that a killed process left incomplete is made again."""
        environment = self.made()
        (environment / "complete").unlink()
        (self.directory / "scratch").mkdir()
        (self.directory / "scratch/old").touch()
        self.assertIsNone(self.environments.find(self.checkout, self.python))
        self.assertEqual(self.made(), environment)
        self.assertEqual(self.environments.find(self.checkout, self.python), environment)
        self.assertFalse((self.directory / "scratch").exists())

    def test_in_use(self) -> None:
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

    def test_exclusive(self) -> None:
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


class ReasonTests(SynchronousTestCase):
    """The reason for which packages could not be installed."""

    def test_locked(self) -> None:
        """Only what says that a lock is held is tried again."""
        outputs = iter(
            [
                Finished(
                    100,
                    "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7"
                    " (apt-get)\nE: Unable to lock directory /var/lib/apt/lists/",
                ),
                Finished(100, "E: Could not get lock /l - open (11: Resource unavailable)"),
                Finished(100, "E: Unable to locate package x"),
            ]
        )
        err = StringIO()
        children = Children(Console("start"))
        self.patch(children, "run", lambda *_, **__: next(outputs))
        self.patch(children, "wait", lambda _: True)
        done = _Apt(children, Console("start", err)).run(["update"])
        self.assertIn("Unable to locate", done.output)
        self.assertIn(
            "waiting for another run of apt (/var/lib/apt/lists/lock, which process 7 (apt-get)"
            " holds)",
            err.getvalue(),
        )

    def test_no_network(self) -> None:
        """Without a network, apt's update says why, although it is the installation that fails."""
        update = Finished(100, "Err:1 http://m x\n  Could not resolve 'm'\nE: Failed to fetch")
        install = Finished(100, "E: Unable to locate package nix-bin")
        self.assertIn("(Could not resolve 'm')", _failure(["nix-bin"], update, install).message)

    def test_no_package(self) -> None:
        """With a network, it is apt's sources that lack the package."""
        install = Finished(100, "E: Unable to locate package nix-bin")
        reason = _failure(["nix-bin"], Finished(0, ""), install).message
        self.assertIn("no source of apt's has them", reason)
        self.assertNotIn("network", reason)
