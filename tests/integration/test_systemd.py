"""
The daemon as systemd runs it: a real process, with a service manager's end of the socket,
and what systemd itself says of the units.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
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
    """Tests of the notices to the service manager, from the start to the end."""

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
        self.listening = self.open_socket(("127.0.0.1", 0))

    def open_socket(
        self, address: tuple[str, int] | str, family: socket.AddressFamily = socket.AF_INET
    ) -> socket.socket:
        """Listen on an address, as systemd does."""
        opened = socket.socket(family)
        self.addCleanup(opened.close)
        opened.bind(address)
        opened.listen()
        return opened

    def start(self, *options: str) -> None:
        """Start the daemon, as systemd does."""
        log = (self.directory / "log").open("wb")
        self.addCleanup(log.close)
        status = os.fstat(log.fileno())
        self.child = subprocess.Popen(
            [
                *(sys.executable, "-c", PARENT, str(self.listening.fileno())),
                *(sys.executable, str(Path(sys.executable).parent / "twistd")),
                *("--nodaemon", "--pidfile=", "nixery", "--shutdown-timeout=1", *options),
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
        """The daemon's log."""
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

    def test_service_notifies_systemd_and_serves_on_its_socket(self) -> None:
        """It notifies of ready, watchdog, reload and stop, and serves on systemd's socket."""
        self.start()
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

    def test_passed_socket_that_others_reach_without_authentication_is_warned_of(self) -> None:
        """A passed socket that other machines reach without a password is warned of."""
        self.listening = self.open_socket(("0.0.0.0", 0))  # that is the point
        self.start()
        self.hears(lambda notice: "READY" in notice)
        port = self.listening.getsockname()[1]
        self.assertRegex(
            self.log(),
            rf"(?m)^<4>Anyone who reaches 0\.0\.0\.0:{port} .*: set auth and htpasswd_file",
        )

    def test_passed_socket_serves_beside_configured_endpoints(self) -> None:
        """A socket that is passed is answered beside what is configured, and in its place."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            other = free.getsockname()[1]
        passed = self.listening.getsockname()[1]
        self.start(
            *(f"--listen=tcp:{port}:interface=127.0.0.1" for port in (passed, other)),
            "--log-format=json",
        )
        self.hears(lambda notice: "READY" in notice)
        for port in (passed, other):
            with urlopen(f"http://127.0.0.1:{port}/v2/", timeout=30) as answer:
                self.assertEqual(200, answer.status)
        self.child.send_signal(signal.SIGTERM)
        self.assertEqual(-signal.SIGTERM, self.child.wait(60))
        lines = self.log().splitlines()
        # The journal takes the priority off, and what it keeps is JSON.
        self.assertEqual([], [line for line in lines if not re.match(r"<[2-7]>\{", line)])
        messages = [json.loads(line[3:])["message"] for line in lines]
        self.assertTrue(any("is reached through that" in line for line in messages), messages)

    def test_passed_unix_socket_keeps_its_mode_and_its_path(self) -> None:
        """A UNIX socket that is passed keeps its mode and its path, and clients wait at it."""
        path = self.directory / "socket"
        self.listening = self.open_socket(str(path), socket.AF_UNIX)
        path.chmod(0o640)
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(60)
                client.connect(str(path))
                client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n\r\n")
                self.start()
                self.assertEqual(b"HTTP/1.1 200 ", client.recv(13), self.log())
            self.child.send_signal(signal.SIGTERM)
            self.assertEqual(-signal.SIGTERM, self.child.wait(60))
            self.assertEqual(0o640, stat.S_IMODE(path.stat().st_mode))


UNITS = CHECKOUT / "nix" / "systemd"

SINGLE = (
    *("CacheDirectoryMode", "Description", "Group", "StateDirectoryMode", "User"),
    "WorkingDirectory",
)
"""Directives that have one value."""


def directives(*paths: Path) -> dict[str, list[str]]:
    """
    The directives of units, as systemd reads them.

    :param paths: a unit, then its drop-ins.
    """
    found: dict[str, list[str]] = {}
    for path in paths:
        for line in path.read_text("utf-8").splitlines():
            name, equals, value = line.partition("=")
            if equals and not name.startswith("#"):
                # An empty value takes back what was said before, as any does of these.
                before = [] if name in SINGLE else found.get(name, [])
                found[name] = [*before, value] if value else []
                if not value and name.endswith("Directory"):
                    # Its mode is the default one again.
                    found[f"{name}Mode"] = []
    return found


class UnitTests(SynchronousTestCase):
    """The units, as systemd sees them."""

    def setUp(self) -> None:
        if shutil.which("systemd-analyze") is None:
            raise SkipTest("systemd is not installed")
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        shutil.copy(CHECKOUT / "nixery.service", self.directory)
        shutil.copytree(UNITS, self.directory, dirs_exist_ok=True)
        address = self.directory / "nixery@blue.socket.d" / "address.conf"
        address.parent.mkdir()
        address.write_text("[Socket]\nListenStream=8443\n")
        for service in self.directory.glob("*.service"):
            # It wants to see the program, which is installed by the user of the unit.
            text = service.read_text("utf-8").replace("/opt/nixery/bin/twistd", "/bin/true")
            service.write_text(text)

    def run_tool(self, *command: str) -> str:
        """Run a program of systemd, which must find nothing wrong, and return its output."""
        if os.geteuid() and not Path("/run/systemd").is_dir():
            # systemd-analyze makes it, which a user may not.
            raise SkipTest("there is no /run/systemd, as where systemd has not booted: run as root")
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            # The units that others are made of are here, the machine's own in their places.
            env={**os.environ, "LANG": "C.UTF-8", "SYSTEMD_UNIT_PATH": f"{self.directory}:"},
        )
        self.assertEqual((0, ""), (done.returncode, done.stderr))
        return done.stdout

    def test_systemd_finds_nothing_wrong_with_them_and_nothing_with_instances(self) -> None:
        """systemd finds nothing wrong with them, and nothing with instances."""
        units = ("nixery.service", "nixery.socket", "nixery@blue.service", "nixery@blue.socket")
        self.run_tool("systemd-analyze", "verify", *(str(self.directory / unit) for unit in units))

    def test_units_run_only_the_registry_and_the_shell(self) -> None:
        """They run the registry, and of Debian the shell alone, which is always installed."""
        found = directives(CHECKOUT / "nixery.service")
        commands = [values for name, values in found.items() if name.startswith("Exec")]
        programs = {command.split()[0] for values in commands for command in values}
        self.assertEqual({"/opt/nixery/bin/twistd", "/bin/sh"}, programs)

    def test_of_the_harm_that_a_broken_service_can_do_a_sixth_is_left_at_most(self) -> None:
        """Of the harm that a broken service can do, a sixth is left at most."""
        for unit in ("nixery.service", "nixery@blue.service"):
            said = self.run_tool(
                *("systemd-analyze", "security", "--offline=true", "--no-pager"),
                str(self.directory / unit),
            )
            found = re.search(rf"Overall exposure level for {unit}: ([0-9.]+)", said)
            assert found is not None, said
            self.assertLessEqual(float(found[1]), 1.5)

    def test_users_that_they_name_are_made_and_stay(self) -> None:
        """The users that they name are made, and stay."""
        if shutil.which("systemd-sysusers") is None:
            raise SkipTest("systemd-sysusers is not installed")
        root = self.directory / "root"
        (root / "etc").mkdir(parents=True)
        file = self.directory / "nixery.conf"
        # Instances have the same with other names, as the file says.
        file.write_text(file.read_text("utf-8").replace("#u ", "u "))
        subprocess.run(
            ["systemd-sysusers", f"--root={root}", str(file)],
            check=True,
            capture_output=True,
            timeout=60,
        )
        users, groups = (
            [line.split(":") for line in (root / "etc" / name).read_text().splitlines()]
            for name in ("passwd", "group")
        )
        names = {"nixery", "nixery-blue"}
        self.assertEqual({name: f"/var/lib/{name}" for name in names}, {u[0]: u[5] for u in users})
        self.assertEqual(names, {fields[0] for fields in groups})
        service = directives(CHECKOUT / "nixery.service")
        self.assertEqual((["nixery"], ["nixery"]), (service["User"], service["Group"]))

    def test_instances_have_nothing_in_common_but_program_and_its_confinement(self) -> None:
        """Instances have nothing in common but the program and its confinement."""
        self.assertTrue((UNITS / "nixery@.service").samefile(CHECKOUT / "nixery.service"))
        one = directives(CHECKOUT / "nixery.service")
        many = directives(UNITS / "nixery@.service", UNITS / "nixery@.service.d" / "instance.conf")
        compared = 0
        for name, values in one.items():
            own = [value for value in values if "nixery" in value and not name.startswith("Exec")]
            if own:
                self.assertNotEqual([], many[name], name)
                for value in many[name]:
                    self.assertRegex(value, r"nixery[-/]%i(/|$)", name)
                compared += 1
            elif name not in {"Description", "Environment"}:
                self.assertEqual(values, many[name], name)
        self.assertEqual(7, compared)
        self.assertEqual(
            ["NIX_REMOTE=daemon", "NIXERY_CONFIG=/etc/nixery/%i/nixery.yaml"], many["Environment"]
        )

    def test_only_faults_that_the_operator_must_mend_stop_the_restarts(self) -> None:
        """Only faults that the operator must mend stop the restarts; all others retry for ever."""
        found = directives(CHECKOUT / "nixery.service")
        [statuses] = found["RestartPreventExitStatus"]
        self.assertIn(str(os.EX_CONFIG), statuses.split())
        self.assertEqual(["on-failure"], found["Restart"])
        [interval], [burst], [pause] = (
            found[name] for name in ("StartLimitIntervalSec", "StartLimitBurst", "RestartSec")
        )
        starts = int(interval.removesuffix("s")) / int(pause.removesuffix("s"))
        self.assertLess(starts, int(burst))
