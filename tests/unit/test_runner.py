"""Tests for :mod:`tests.runner`."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests import runner
from tests.environments import ENVIRONMENTS
from tests.runner import CannotRunError, Tally, choose


def count(lines: list[str], status: int) -> Tally:
    """Return the counts that an environment adds to the last line."""
    return runner.count("".join(lines), status).tally


class CountTests(SynchronousTestCase):
    """Tests of the counts in the last line of the test command."""

    def test_counts_are_those_of_trial(self) -> None:
        """The counts are those of trial."""
        lines = ["Ran 12 tests in 1.2s\n", "\n", "PASSED (skips=2, successes=10)\n"]
        self.assertEqual(Tally(passed=10, skipped=2), count(lines, 0))

    def test_failures_and_errors_are_failed_tests(self) -> None:
        """Failures and errors are failed tests."""
        lines = ["FAILED (skips=1, failures=2, errors=3, successes=4)\n"]
        self.assertEqual(Tally(passed=4, failed=5, skipped=1), count(lines, 1))

    def test_failure_that_was_expected_has_passed(self) -> None:
        """A failure that was expected has passed, a success that was not has failed."""
        lines = ["PASSED (expectedFailures=1, unexpectedSuccesses=2, successes=4)\n"]
        self.assertEqual(Tally(passed=5, failed=2), count(lines, 0))

    def test_suite_that_ended_without_a_result_has_failed(self) -> None:
        """A suite that ended without a result has failed."""
        self.assertEqual(Tally(failed=1), count(["Segmentation fault\n"], 139))

    def test_crashed_after_success(self) -> None:
        """A suite that passed and then ended badly has failed."""
        self.assertEqual(Tally(passed=4, failed=1), count(["PASSED (successes=4)\n"], 1))

    def test_linter_which_is_no_test_counts_only_if_it_failed(self) -> None:
        """A linter, which is no test, counts only if it failed."""
        self.assertEqual(Tally(), count(["All checks passed!\n"], 0))
        self.assertEqual(Tally(failed=1), count(["Found 3 errors.\n"], 1))

    def test_output_of_a_test(self) -> None:
        """A result that a test printed is not counted beside trial's own."""
        lines = ["PASSED (successes=99)\n", "...\n", "PASSED (successes=2)\n"]
        self.assertEqual(Tally(passed=2), count(lines, 0))

    def test_last_line_sums_up_all_suites(self) -> None:
        """The last line sums up all suites, and tells skipped tests if there are any."""
        total = Tally(passed=1, failed=2) + Tally(passed=3)
        self.assertEqual("4 passed, 2 failed", str(total))
        self.assertEqual("0 passed, 0 failed, 1 skipped", str(Tally(skipped=1)))


class LineTests(SynchronousTestCase):
    """The line of each environment."""

    def line(self, lines: list[str], status: int) -> str:
        return str(runner.count("".join(lines), status))

    def test_environment_without_tests_has_no_counts(self) -> None:
        """An environment without tests has no counts: it is ok or failed."""
        self.assertEqual("ok", self.line(["All checks passed!\n"], 0))
        self.assertEqual("failed", self.line(["Found 3 errors.\n"], 1))

    def test_suite_tells_how_its_tests_ended(self) -> None:
        """A suite tells how its tests ended, and one that ended badly after them failed."""
        passed = "PASSED (successes=4, skips=1)\n"
        self.assertEqual("4 passed, 0 failed, 1 skipped", self.line([passed], 0))
        self.assertEqual("4 passed, 1 failed, 1 skipped", self.line([passed], 1))


class ChoiceTests(SynchronousTestCase):
    """Tests of the environments that the arguments choose."""

    def choose(self, *arguments: str, root: bool = True) -> list[str]:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            chosen = choose(arguments, root=root)
        self.output = output.getvalue()
        return chosen

    def test_all_environments_run_in_their_order(self) -> None:
        """All are run, in their order, if none is named."""
        self.assertEqual(list(ENVIRONMENTS), self.choose("full"))
        self.assertEqual(["lint", "unit"], self.choose("unit", "lint"))
        self.assertEqual(["unit"], self.choose("full", "unit"))

    def test_heavy_ones_are_run_only_if_they_or_all_heavy_tests_are_asked_for(self) -> None:
        """Heavy ones are run only if they, or all heavy tests, are asked for."""
        light = [name for name in ENVIRONMENTS if name != "guest"]
        self.assertEqual(light, self.choose())
        self.assertEqual(["guest"], self.choose("guest"))
        self.assertEqual(["lint", "guest"], self.choose("full", "guest", "lint"))

    def test_name_that_is_none_is_refused_with_those_there_are(self) -> None:
        """A name that is none is refused with those there are."""
        error = self.assertRaises(CannotRunError, self.choose, "units")
        self.assertIn("units", str(error))
        self.assertIn("integration", str(error))

    def test_environments_for_root_are_left_out_for_users(self) -> None:
        """Environments that need root are left out with a message, or refused if asked for."""
        self.assertEqual(
            ["lint", "mypy", "unit", "fuzz", "docs", "integration"], self.choose(root=False)
        )
        self.assertIn("end-to-end is left out: container engines", self.output)
        error = self.assertRaises(CannotRunError, self.choose, "end-to-end", root=False)
        self.assertIn("as root", str(error))


class PreparationTests(SynchronousTestCase):
    """Tests of the preparations before the first test."""

    def setUp(self) -> None:
        self.installed: list[str] = []
        self.there = {"docker": "docker-cli"}
        self.patch(runner, "install_packages", self.installed.extend)
        self.patch(runner, "packages", lambda names: [self.there.get(name, name) for name in names])
        self.lacking = [["docker", "skopeo"], []]
        self.patch(runner, "missing", lambda names: self.lacking.pop(0))
        self.patch(runner, "store_fault", lambda: None)

    def main(self, *arguments: str) -> tuple[int, str]:
        """The status of the command, and all that it prints."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = runner.main(arguments)
        return status, said.getvalue()

    def test_help_is_shown_and_nothing_else_is_done(self) -> None:
        """Help is shown, and nothing else is done."""
        status, said = self.main("unit", "--help")
        self.assertEqual(0, status)
        self.assertTrue(said.startswith("usage: tests/run"), said)
        for name in (*ENVIRONMENTS, "full", "6 GB"):
            self.assertIn(name, said)
        self.assertEqual(2, len(self.lacking))

    def test_too_small_a_disk_is_told_before_anything_is_installed(self) -> None:
        """Too small a disk is told before anything is installed."""
        self.patch(runner, "shortages", lambda *_: ["/tmp: 5.0 GB are needed, and 1.2 GB are free"])
        status, said = self.main("lint")
        self.assertEqual(2, status)
        self.assertIn("5.0 GB are needed, and 1.2 GB are free", said)
        self.assertEqual(2, len(self.lacking))

    def test_user_is_told_the_command_that_root_has_to_type_on_a_line_of_its_own(self) -> None:
        """A user is told the command that root has to type, on a line of its own."""
        self.patch(os, "geteuid", lambda: 1000)
        self.patch(runner, "shortages", lambda *_: [])
        status, said = self.main("lint")
        self.assertEqual(2, status)
        self.assertIn(
            "\n    apt-get update && apt-get install --no-install-recommends docker-cli skopeo\n",
            said,
        )
        self.assertEqual([], self.installed)

    def test_root_gets_what_is_missing_installed(self) -> None:
        """Root gets what is missing installed."""
        self.patch(os, "geteuid", lambda: 0)
        with contextlib.redirect_stdout(io.StringIO()):
            runner.prepare(["lint"])
        self.assertEqual(["docker-cli", "skopeo"], self.installed)

    def test_installed_in_vain(self) -> None:
        """A program that cannot be run after its installation is no failure of its tests."""
        self.patch(os, "geteuid", lambda: 0)
        self.lacking = [["docker"], ["docker"]]
        with contextlib.redirect_stdout(io.StringIO()):
            error = self.assertRaises(CannotRunError, runner.prepare, ["lint"])
        self.assertIn("docker-cli", str(error))
        self.assertEqual(["docker-cli"], self.installed)

    def test_package_is_chosen_again_and_installed_once_apt_has_read_its_lists(self) -> None:
        """The package is chosen again, and installed, once apt has read its lists."""
        self.patch(os, "geteuid", lambda: 0)
        self.lacking = [["docker"], ["docker"], []]
        self.there = {"docker": "docker.io"}

        def install(packages: list[str]) -> None:
            self.installed += packages
            self.there = {"docker": "docker-cli"}

        self.patch(runner, "install_packages", install)
        with contextlib.redirect_stdout(io.StringIO()):
            runner.prepare(["lint"])
        self.assertEqual(["docker.io", "docker-cli"], self.installed)

    def test_store_that_a_user_cannot_build_into_is_told_too(self) -> None:
        """A store that a user cannot build into is told, too."""
        self.lacking[0] = []
        self.patch(runner, "store_fault", lambda: "no store")
        runner.prepare(["unit"])
        self.lacking.append([])
        error = self.assertRaises(CannotRunError, runner.prepare, ["integration"])
        self.assertEqual("no store", str(error))


TOX = """\
import os, sys
open(os.path.join(os.environ["TMPDIR"], "forgotten"), "w").close()
print(os.environ.get("NIXERY_TEST_FULL", "not full"))
"""


class RunTests(SynchronousTestCase):
    """A run, with a tox that only says how its tests ended."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.patch(tempfile, "tempdir", directory.name)

    def run_all(self, tox: str, *, full: bool = False) -> tuple[int, list[str]]:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            # Not `unit`: a run removes the temporary files of what succeeded, as these are.
            status = runner._run_all([sys.executable, "-c", TOX + tox], ["lint"], full=full)
        return status, output.getvalue().splitlines()

    def test_files_that_tests_leave_are_reported_and_removed(self) -> None:
        """Files that tests leave in the temporary directory are reported, and removed."""
        status, lines = self.run_all("")
        self.assertEqual(0, status)
        self.assertIn("lint left in the temporary directory: forgotten", lines)
        self.assertEqual("0 passed, 0 failed", lines[-1])
        self.assertEqual([], os.listdir(self.directory))

    def test_failure_is_that_of_the_command(self) -> None:
        """A failure is the command's."""
        status, lines = self.run_all("print('FAILED (failures=1, successes=2)'); sys.exit(1)")
        self.assertEqual(1, status)
        self.assertEqual("2 passed, 1 failed", lines[-1])

    def test_tests_are_told_whether_the_heavy_ones_are_wanted(self) -> None:
        """The tests are told whether the heavy ones are wanted."""
        self.assertIn("not full", self.run_all("")[1])
        self.assertIn("1", self.run_all("", full=True)[1])

    def test_ended_run_asks_tox_and_leaves_no_files(self) -> None:
        """A run that is asked to end asks tox, and leaves no temporary files behind."""
        tox = TOX + (
            "import signal\n"
            "signal.signal(signal.SIGINT, lambda *_: sys.exit('interrupted'))\n"
            "print('waiting', flush=True)\n"
            "signal.pause()\n"
        )
        program = (
            "import signal, sys\n"
            "from tests import runner\n"
            "signal.signal(signal.SIGTERM, runner._exit)\n"
            f"runner._run_all([sys.executable, '-c', {tox!r}], ['lint'], full=False)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=runner.CHECKOUT,
            env={**os.environ, "TMPDIR": str(self.directory)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            while "waiting" not in process.stdout.readline():
                pass
            self.assertEqual(1, len(os.listdir(self.directory)))
            process.terminate()
            said = process.stdout.read()
        self.assertEqual(128 + signal.SIGTERM, process.returncode, said)
        self.assertIn("interrupted", said)
        self.assertEqual([], os.listdir(self.directory))
