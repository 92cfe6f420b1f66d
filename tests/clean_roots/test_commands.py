"""
Tests of ``nix/demo/start`` and ``tests/run`` in roots of Debian 12 and 13 in which nothing
is prepared.

The heavy half, all tests in all of these roots, needs ``tests/run full``.
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.clean_roots.root import RELEASES, USER, CleanRoot, Run
from tests.clean_roots.terminal import Terminal
from tests.clean_roots.tutorial import type_tutorial
from tests.end_to_end.case import skopeo
from tests.end_to_end.processes import free_port, private_directory, wait_until

FULL = "NIXERY_TEST_FULL"
"""Set where the heavy tests are wanted."""

WITHIN = "NIXERY_TEST_CLEAN_ROOT"
"""Set in a clean root: it makes none itself."""

ROUNDS = 4
"""Times that a user may be sent to root before a command has all that it needs."""

START_SECONDS = 1800
"""For installing all that the registry needs, on a machine that is busy."""

RUN_SECONDS = 2 * 3600
"""For all tests."""

KEPT = ("tmp", "run", "var/tmp")
"""Directories in which nothing may be left."""


_AT_ONCE = """
import os, signal, subprocess, sys
starts = [
    subprocess.Popen(
        ["nix/demo/start", "--port", port],
        env={**os.environ, "XDG_STATE_HOME": f"/root/state-{port}"},
    )
    for port in sys.argv[1:]
]
# Ctrl-C is for them: this waits.
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.exit(any([start.wait() for start in starts]))
"""
"""Runs two starts in one terminal, each with a state of its own."""

_HOLD = """
import fcntl, os, time
fcntl.flock(os.open("/root/lock", os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
open("/root/begun", "w").close()
time.sleep(3600)
"""
"""Holds a lock for as long as it runs."""


class CleanRootCase(SynchronousTestCase):
    """Tests in roots of their own."""

    def setUp(self) -> None:
        if os.environ.get(WITHIN):
            raise SkipTest("this is a clean root itself")

    def make_root(self, release: str, user: str) -> CleanRoot:
        root = CleanRoot(release, user)
        self.addCleanup(root.remove)
        return root

    def check_succeeded(self, run: Run) -> None:
        self.assertEqual(0, run.status, run.describe())
        self.assertNotIn("left behind:", run.output, run.describe())

    def follow(self, root: CleanRoot, refused: Run) -> None:
        """Let root do what a user was told that root has to do."""
        self.assertNotEqual(0, refused.status, refused.describe())
        self.assertNotIn("Traceback", refused.output, refused.describe())
        commands = re.findall(r"^(?:start: )? {4}(\S.*)$", refused.output, re.MULTILINE)
        self.assertTrue(commands, f"nothing to do is named:\n{refused.describe()}")
        for command in commands:
            # Root is asked whether to install that.
            self.check_succeeded(root.run("sh", "-c", f"yes | {{ {command}; }}", user="root"))

    def check_serves(self, root: CleanRoot, use: Callable[[str], None] = lambda _: None) -> None:
        """
        The registry starts, a client pulls from it, and ctrl-C leaves nothing behind.

        :param use: uses the registry besides, given its address.
        """
        before = root.files(*KEPT, str(root.checkout))
        address = f"127.0.0.1:{free_port()}"
        command = ("nix/demo/start", "--listen", f"tcp:{address[10:]}:interface=127.0.0.1")
        for _ in range(ROUNDS):
            terminal = Terminal(root, *command)
            try:
                terminal.wait_until(lambda: _serves(address), "it served", START_SECONDS)
                break
            except AssertionError:
                if root.user == "root":
                    raise
            self.follow(root, terminal.ended(60))
        else:
            self.fail(f"{' '.join(command)} has never enough:\n{terminal.output}")
        self.check_pull(address, terminal)
        use(address)
        self.check_stopped(root, terminal.interrupt(), before)

    def check_pull(self, address: str, terminal: Terminal) -> None:
        target = private_directory("pulled")
        pulled = skopeo().copy(f"{address}/hello", f"oci:{target}:hello")
        self.assertEqual(0, pulled.status, f"{pulled.describe()}\n{terminal.output}")

    def check_stopped(self, root: CleanRoot, ended: Run, before: set[str]) -> None:
        self.assertIn("Server Shut Down.", ended.output)
        self.assertNotIn("Traceback", ended.output)
        self.assertNotIn("left behind:", ended.output)
        self.assertEqual(set(), root.files(*KEPT, str(root.checkout)) - before)


class QuickTests(CleanRootCase):
    """Tests of a few minutes."""

    def test_user_is_told_command_that_installs_what_is_missing_which_root_types(self) -> None:
        """
        A user is told the command that installs what is missing, which root types; then
        the user's tests run.
        """
        for release in RELEASES:
            root = self.make_root(release, USER)
            before = root.files(*KEPT, str(root.checkout))
            for command in ("tests/run", "nix/demo/start"):
                helped = root.run(command, "--help")
                self.check_succeeded(helped)
                self.assertIn(f"usage: {command}", helped.output.lower())
                refused = root.run(command)
                self.assertNotEqual(0, refused.status, refused.describe())
                self.assertRegex(refused.output, "(?m)^(start: )? {4}apt-get .* nix-bin")
            self.assertEqual(set(), root.files(*KEPT, str(root.checkout)) - before)
            self.follow(root, root.run("tests/run", "lint"))
            run = root.run("tests/run", "lint")
            self.check_succeeded(run)
            self.assertRegex(run.output, r"\nlint: ok \(\d+ s\)\n0 passed, 0 failed\n\Z")

    def test_registry_of_the_release_that_this_machine_is_not_of_serves(self) -> None:
        """The registry of the release that this machine is not of serves, also the tutorial."""
        for release in RELEASES:
            if release not in Path("/etc/os-release").read_text():
                self.check_serves(self.make_root(release, "root"), type_tutorial)

    def test_command_ends_with_killed_tests(self) -> None:
        """Killing these tests kills all that they run in a root."""
        root = self.make_root(RELEASES[-1], "root")
        tests = os.fork()
        if tests == 0:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                root.run("python3", "-c", _HOLD)
            finally:
                os._exit(1)
        wait_until((root.path / "root/begun").exists, "the command to begin")
        os.kill(tests, signal.SIGTERM)
        os.waitpid(tests, 0)
        # The lock is free when the process that holds it has gone.
        with (root.path / "root/lock").open() as file:
            wait_until(functools.partial(_lock, file.fileno()), "the command to end")


class FullTests(CleanRootCase):
    """All that the two commands do, for hours."""

    def setUp(self) -> None:
        super().setUp()
        if not os.environ.get(FULL):
            raise SkipTest("heavy: tests/run full")

    def test_two_first_starts_at_once(self) -> None:
        """
        Two first starts at once, which share all but the state, both serve in the end; one
        waits for the other.
        """
        root = self.make_root("trixie", "root")
        before = root.files(*KEPT, str(root.checkout))
        ports = [str(free_port()), str(free_port())]
        terminal = Terminal(root, "python3", "-c", _AT_ONCE, *ports)
        addresses = [f"127.0.0.1:{port}" for port in ports]
        for address in addresses:
            terminal.wait_until(
                functools.partial(_serves, address), f"{address} served", START_SECONDS
            )
        self.assertEqual(1, terminal.output.count("start: waiting for another start"))
        for address in addresses:
            self.check_pull(address, terminal)
        ended = terminal.interrupt()
        self.assertEqual(2, ended.output.count("Server Shut Down."), ended.output)
        self.check_stopped(root, ended, before)

    def check_commands(self, release: str, user: str) -> None:
        root = self.make_root(release, user)
        self.check_serves(root)
        for _ in range(ROUNDS):
            run = root.run("tests/run", environ={WITHIN: release}, shown=True, seconds=RUN_SECONDS)
            # Nothing was run.
            if run.status != 2 or user == "root":
                break
            self.follow(root, run)
        self.check_succeeded(run)
        last = run.output.splitlines()[-1]
        self.assertRegex(last, r"\A[1-9]\d* passed, 0 failed")
        print(f"tests/run in Debian {release} as {user}: {last}")

    def test_bookworm_as_root(self) -> None:
        self.check_commands("bookworm", "root")

    def test_bookworm_as_a_user(self) -> None:
        self.check_commands("bookworm", USER)

    def test_trixie_as_root(self) -> None:
        self.check_commands("trixie", "root")

    def test_trixie_as_a_user(self) -> None:
        self.check_commands("trixie", USER)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _serves(address: str) -> bool:
    try:
        with urlopen(f"http://{address}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
