"""Tests for :mod:`tests.environments` and :mod:`tests.programs`."""

from __future__ import annotations

import ast
import configparser
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests import programs
from tests.environments import ENVIRONMENTS, shortages
from tests.programs import PROGRAMS, Program, missing, packages

CHECKOUT = Path(__file__).resolve().parents[2]

ESSENTIAL = {
    # No Debian is without them.
    *("apt-config", "apt-get", "bash", "cat", "chroot", "cp", "cut", "dpkg-deb", "env", "ls"),
    *("mkdir", "mount", "sh", "sleep", "tar", "test", "timeout", "true", "umount"),
}


class ProgramTests(SynchronousTestCase):
    """Programs that work, and packages that have them."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.patch(programs, "PATH", directory.name)

    def make(self, name: str, status: int) -> None:
        file = self.directory / name
        file.write_text(f"#!/bin/sh\nexit {status}\n")
        file.chmod(0o755)

    def test_program_counts_if_it_can_be_run_not_if_there_is_such_a_file(self) -> None:
        """A program counts if it can be run, not if there is such a file."""
        self.patch(
            programs,
            "PROGRAMS",
            {name: Program((name, "--version"), (name,)) for name in ("good", "broken", "none")},
        )
        self.make("good", 0)
        self.make("broken", 1)
        self.assertEqual(["broken", "none"], missing(["none", "good", "broken"]))

    def test_package_is_that_of_the_release(self) -> None:
        """The package is that of the release: Debian 13 has Docker's client apart."""

        def choose(*there: str) -> list[str]:
            return packages(["docker", "dockerd"], lambda names: set(names) & set(there))

        self.assertEqual(["docker-cli", "docker.io"], choose("docker-cli", "docker.io"))
        self.assertEqual(["docker.io"], choose("docker.io"))

    def test_before_apt_has_read_its_lists_package_stands_that_each_release_has(self) -> None:
        """Before apt has read its lists, a package stands that each release has."""
        self.assertEqual(["docker.io"], packages(["docker"], lambda names: set()))


class EnvironmentTests(SynchronousTestCase):
    """Tests of the programs that the environments need."""

    def test_environments_are_those_of_tox(self) -> None:
        """They are those that tox runs by default."""
        tox = configparser.ConfigParser(interpolation=None)
        tox.read(CHECKOUT / "tox.ini")
        light = [name for name, each in ENVIRONMENTS.items() if not each.heavy]
        self.assertEqual(light, tox["tox"]["env_list"].split(", "))
        for name in ENVIRONMENTS:
            self.assertIn(f"testenv:{name}", tox)

    def test_each_program_has_a_check_and_a_package(self) -> None:
        """Each program has a check and a package."""
        for name, environment in ENVIRONMENTS.items():
            self.assertEqual(set(), set(environment.programs) - set(PROGRAMS), name)

    def test_fast_tests_need_no_nix_and_no_engine(self) -> None:
        """The fast tests need no Nix and no engine."""
        self.assertEqual(("zstd",), ENVIRONMENTS["unit"].programs)

    def test_every_program_that_the_tests_run_is_installed_for_their_environment(self) -> None:
        """Every program that the tests run is installed for their environment."""
        for name, environment in ENVIRONMENTS.items():
            folder = CHECKOUT / "tests" / name.replace("-", "_")
            wanted = {
                program
                for path in folder.glob("*.py")
                for program in _programs(ast.parse(path.read_text("utf-8")))
            }
            lacking = wanted - set(environment.programs) - ESSENTIAL
            self.assertEqual(set(), lacking, f"{name} needs them")


class DiskTests(SynchronousTestCase):
    """Room on disks."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.checkout = Path(directory.name) / "checkout"
        self.temporary = Path(directory.name) / "temporary"
        self.checkout.mkdir()
        self.temporary.mkdir()

    def shortages(self, *names: str, free: int) -> list[str]:
        return shortages(names, self.checkout, self.temporary, lambda path: free)

    def test_all_environments_need_the_room_that_the_help_states(self) -> None:
        """All environments together need the room that the help states."""
        self.assertEqual([], self.shortages(*ENVIRONMENTS, free=7_000_000_000))
        light = [name for name, each in ENVIRONMENTS.items() if not each.heavy]
        self.assertEqual([], self.shortages(*light, free=6_000_000_000))
        [said] = self.shortages(*light, free=5_500_000_000)
        self.assertRegex(
            said, r"checkout and .*temporary: \d\.\d GB are needed, and 5.5 GB are free"
        )

    def test_few_environments_need_little(self) -> None:
        """Few environments need little."""
        self.assertEqual([], self.shortages("lint", free=200_000_000))

    def test_environments_that_are_installed_already_need_no_room(self) -> None:
        """Environments that are installed already need no room."""
        for name in ENVIRONMENTS:
            (self.checkout / ".tox" / name).mkdir(parents=True)
        self.assertEqual([], self.shortages(*ENVIRONMENTS, free=3_300_000_000))

    def test_each_file_system_needs_room_for_what_goes_there(self) -> None:
        """Each file system needs room for what goes there."""
        devices = {self.checkout: 1, self.temporary: 2}
        real = os.stat

        class Stat:
            def __init__(self, path: Path) -> None:
                self.st_dev = devices[path]

        self.patch(os, "stat", lambda path, **_: Stat(path) if path in devices else real(path))
        room = {self.checkout: 10_000_000_000, self.temporary: 0}
        [said] = shortages(["unit"], self.checkout, self.temporary, room.__getitem__)
        self.assertTrue(said.startswith(f"{self.temporary}: 0.7 GB"), said)


def _programs(tree: ast.Module) -> Iterator[str]:
    """Programs that a module requires, or runs by a list that begins with a name."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).removeprefix("subprocess.")
        given: list[ast.expr] = []
        if called == "require":
            given = node.args
        elif called in {"run", "Popen", "check_output", "check_call", "Server"} and node.args:
            first = node.args[0]
            if isinstance(first, ast.List | ast.Tuple) and first.elts:
                head = first.elts[0]
                while isinstance(head, ast.Starred):
                    inner = head.value
                    if not (isinstance(inner, ast.Tuple | ast.List) and inner.elts):
                        break
                    head = inner.elts[0]
                given = [head]
        for each in given:
            if isinstance(each, ast.Constant) and re.fullmatch(r"[a-z][\w-]*", str(each.value)):
                yield str(each.value)
