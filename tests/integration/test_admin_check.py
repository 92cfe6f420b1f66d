"""The command ``nixery-admin check``, as a person runs it, with the real git and the real Nix."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.nixenv import command_environment, nix_missing
from tests.integration.test_sources import SET, Repository
from tests.support.http_files import serve_files

COMMAND = (sys.executable, "-c", "from nixery.cli.admin.command import admin; admin()", "check")


class CheckTests(SynchronousTestCase):
    """Exit status, text and JSON."""

    skip = nix_missing()

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.environment = command_environment(self.directory)
        del self.environment["NIXERY_PKGS_PATH"]
        self.environment["HOME"] = str(self.directory)
        self.repository = Repository(self.directory / "pkgs.git")
        self.commit = self.repository.commit("one", SET)
        self.environment["NIXERY_PKGS_REPO"] = str(self.repository.path)

    def check(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [*COMMAND, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout

    def report(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.check("--json", *arguments, status=status))

    def test_good_source(self) -> None:
        """A source that is good is said to be so, with all that was found of it."""
        part = Repository(self.directory / "part.git")
        part.commit("part", "part-NAME")
        self.repository.submodule("../part.git", "part")
        self.commit = self.repository.commit("two", SET)
        report = self.report("plain")
        self.assertTrue(report["ok"])
        self.assertEqual(report["revision"]["identity"]["commit"], self.commit)
        self.assertTrue(report["revision"]["pinned"])
        self.assertEqual([each["name"] for each in report["packages"]], ["plain-two"])
        self.assertEqual(report["package_count"], 3)
        [fetched] = report["fetched"]
        self.assertEqual(fetched["commit"], self.commit)
        self.assertTrue(Path(fetched["path"], "default.nix").is_file())
        steps = [each["step"] for each in report["steps"]]
        self.assertEqual(steps, ["nix", "source", "resolve", "fetch", "evaluate", "count"])
        [warning] = report["warnings"]
        self.assertIn("submodules: true", warning)
        # A daemon that runs beside it keeps its state to itself.
        self.assertFalse((self.directory / "state").exists())

    def test_text(self) -> None:
        """A person reads what was found, and which of it may change without notice."""
        overlay = self.directory / "overlay.nix"
        overlay.write_text('final: previous: { extra = previous.plain // { name = "extra"; }; }')
        self.environment["NIXERY_OVERLAYS"] = str(overlay)
        self.environment["NIXERY_EXTRA_PATHS"] = str(self.directory)
        told = self.check("extra", "--no-count")
        self.assertIn(self.commit[:12], told)
        self.assertIn("extra", told)
        self.assertIn(f"not pinned: {overlay} may change", told)
        self.assertIn(f"not pinned: {self.directory} may change", told)
        self.assertTrue(told.endswith("all is well\n"))
        self.assertNotIn("count", told)

    def test_what_is_wrong_and_what_to_do(self) -> None:
        """The step that failed, and the way out, are told; the status is 1."""
        for arguments, step, told in (
            (("plian",), "evaluate", "did you mean plain?"),
            (("unfree",), "evaluate", "allowUnfree"),
            (("--tag", "nope"), "resolve", "branches, tags"),
        ):
            report = self.report(*arguments, status=1)
            self.assertFalse(report["ok"])
            self.assertEqual(report["steps"][-1]["step"], step)
            self.assertIn(told, report["problem"])
        self.environment["NIXERY_PKGS_REPO"] = str(self.directory / "none.git")
        self.assertIn("resolve failed: ", self.check(status=1))
        del self.environment["NIXERY_PKGS_REPO"]
        self.environment["NIXERY_PKGS_PATH"] = str(self.directory / "none")
        self.assertIn("pkgs_path", self.report(status=1)["problem"])

    def test_what_the_evaluation_fetched(self) -> None:
        """Pins of the package set are told, by the paths that they have in the store."""
        pin = self.directory / "pin"
        pin.mkdir()
        (pin / "name").write_text(uuid4().hex)
        served = self.directory / "served"
        served.mkdir()
        with tarfile.open(served / "pin.tar.gz", "w:gz") as archive:
            archive.add(pin, arcname="top")
        hashing = ["nix-hash", "--type", "sha256", "--base32", str(pin)]
        sha256 = subprocess.run(hashing, capture_output=True, text=True, check=True).stdout.strip()
        url = f"{serve_files(self, served)}/pin.tar.gz"
        fetch = f'fetchTarball {{ url = "{url}"; sha256 = "{sha256}"; }}'
        named = f'(builtins.readFile "${{{fetch}}}/name")'
        self.repository.commit("four", SET.replace('"plain-NAME"', named))
        report = self.report("plain", "--no-count")
        name = (pin / "name").read_text()
        self.assertEqual([each["name"] for each in report["packages"]], [name])
        [path] = report["pins"]
        self.assertEqual(Path(path, "name").read_text(), name)
        self.assertEqual(report["unpinned"], [])

    def test_flake(self) -> None:
        """The tree of a flake is told once, and no file that the registry made for it."""
        packages = 'packages.x86_64-linux.default = derivation { name = "one"; NAME };'
        packages = packages.replace("NAME", 'system = "x86_64-linux"; builder = "/bin/sh";')
        (self.repository.work / "flake.nix").write_text(f"{{ outputs = _: {{ {packages} }}; }}")
        commit = self.repository.commit("flake", SET)
        del self.environment["NIXERY_PKGS_REPO"]
        # It has options for nixpkgs.
        del self.environment["NIXERY_CONFIG"]
        self.environment["NIXERY_FLAKE"] = f"git+file://{self.repository.path}"
        report = self.report("default", "--no-count")
        self.assertEqual([each["commit"] for each in report["fetched"]], [commit])
        self.assertEqual(report["pins"], [])

    def test_package_that_ends_evaluations_is_a_warning(self) -> None:
        """A package that ends an evaluation is a warning: nobody need ask for it."""
        text = SET.replace("set = {", 'set = { abort = builtins.abort "on purpose";')
        self.repository.commit("three", text)
        report = self.report("plain")
        self.assertEqual(report["package_count"], 3)
        self.assertIn("1 names", report["warnings"][0])
