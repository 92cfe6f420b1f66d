"""The command ``nixery-prepare-image``, as a person runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.nixenv import INTERRUPTIBLE, command_environment, daemon_listens, nix_missing
from tests.integration.test_process import is_alive

COMMAND = (
    sys.executable,
    "-c",
    "from nixery.cli.prepare_image import prepare_image; prepare_image()",
)


class PrepareImageTests(SynchronousTestCase):
    """Exit status, standard output and standard error."""

    skip = nix_missing()

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.environment = command_environment(self.directory)

    def prepare(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def prepared(self, *arguments: str) -> Any:
        result = self.prepare(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def test_packages_what_was_left_out_and_the_closure_are_printed(self) -> None:
        """The packages, what was left out, and the closure are printed."""
        image = self.prepared("dependent", "multi.dev/uppercase")
        self.assertEqual(
            [(item["attribute"], item["name"], item["version"]) for item in image["packages"]],
            [
                ("UpperCase", "upper-case-1", "1"),
                ("dependent", "dependent-1", "1"),
                ("multi", "multi-1", "1"),
            ],
        )
        self.assertEqual([item["name"] for item in image["packages"][2]["outputs"]], ["dev"])
        self.assertEqual(image["left_out"], ["cacert", "iana-etc"])
        self.assertEqual(image["system"], "x86_64-linux")
        graph = {item["path"].split("-", 1)[1]: item for item in image["graph"]}
        self.assertEqual(list(graph), ["dependent-1", "multi-1-dev", "plain-1.2", "upper-case-1"])
        self.assertEqual(graph["dependent-1"]["references"], [graph["plain-1.2"]["path"]])
        self.assertGreater(graph["plain-1.2"]["nar_size"], 100)

    def test_options_win_over_the_environment(self) -> None:
        """Options win over the environment."""
        (self.directory / "set.nix").write_text(
            "{ system }: { x = derivation { name = system; inherit system;"
            " builder = ''/bin/sh''; args = [ ''-c'' ''echo > $out'' ]; }; }"
        )
        path = str(self.directory / "set.nix")
        self.environment |= {"NIXERY_SYSTEM": "aarch64-linux", "NIXERY_SYSTEN": "x86_64-linux"}
        image = self.prepared("--path", path, "--system", "x86_64-linux", "x")
        self.assertEqual(image["packages"][0]["name"], "x86_64-linux")
        # Without the option, the variable counts, for which this machine has no builder.
        refused = self.prepare("--path", path, "x")
        self.assertEqual(1, refused.returncode)
        self.assertIn("aarch64-linux", refused.stderr)
        self.assertIn("NIXERY_SYSTEN (environment): there is no such setting", refused.stderr)

    def test_failure_exits_with_1_and_says_why_once(self) -> None:
        """The command exits with 1 if it cannot prepare an image, and says why in one place."""
        for name, text in {
            "plian": "there is no package plian (did you mean plain?)",
            "numbered": "line 30",
        }.items():
            result = self.prepare(name)
            self.assertEqual((result.returncode, result.stdout), (1, ""))
            self.assertIn(text, result.stderr)
            self.assertNotIn("Traceback", result.stderr)

    def test_wrong_call_exits_with_2(self) -> None:
        """A wrong call exits with 2."""
        for arguments, text in (
            ((), "required: NAME\nSee nixery-prepare-image --help"),
            (("--unknown", "plain"), "unrecognized arguments: --unknown"),
            (("Plain",), "not an image name"),
            (("--system", "pdp11", "plain"), "system"),
        ):
            result = self.prepare(*arguments)
            self.assertEqual((result.returncode, result.stdout), (2, ""), result.stderr)
            self.assertIn(text, result.stderr)

    def test_interrupt_ends_the_builds_too_and_leaves_nothing(self) -> None:
        """An interrupt ends the builds too, and leaves nothing."""
        with subprocess.Popen(
            [*INTERRUPTIBLE, *COMMAND, "slow"],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "pid " in line)
            process.send_signal(signal.SIGINT)
            process.stderr.read()
            self.assertEqual(process.wait(timeout=60), 130)
        if not daemon_listens():
            self.assertFalse(is_alive(int(line.split()[1])))
        self.assertEqual(
            [entry for entry in os.listdir(self.directory) if entry.startswith("nixery-")], []
        )
