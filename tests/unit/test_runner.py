"""Tests for the counting of :mod:`tests.runner`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.runner import Tally, count


class CountTests(SynchronousTestCase):
    """What the last line of the test command is made of."""

    def test_passed(self) -> None:
        """What trial counted is what counts."""
        lines = ["Ran 12 tests in 1.2s\n", "\n", "PASSED (skips=2, successes=10)\n"]
        self.assertEqual(Tally(passed=10, skipped=2), count(lines, 0))

    def test_failed(self) -> None:
        """Failures and errors are failed tests."""
        lines = ["FAILED (skips=1, failures=2, errors=3, successes=4)\n"]
        self.assertEqual(Tally(passed=4, failed=5, skipped=1), count(lines, 1))

    def test_todo(self) -> None:
        """A failure that was expected has passed, a success that was not has failed."""
        lines = ["PASSED (expectedFailures=1, unexpectedSuccesses=2, successes=4)\n"]
        self.assertEqual(Tally(passed=5, failed=2), count(lines, 0))

    def test_crashed(self) -> None:
        """A suite that ended without a result has failed."""
        self.assertEqual(Tally(failed=1), count(["Segmentation fault\n"], 139))

    def test_crashed_after_success(self) -> None:
        """A suite that passed and then ended badly has failed."""
        self.assertEqual(Tally(passed=4, failed=1), count(["PASSED (successes=4)\n"], 1))

    def test_linter(self) -> None:
        """What is no test counts only where it failed."""
        self.assertEqual(Tally(), count(["All checks passed!\n"], 0))
        self.assertEqual(Tally(failed=1), count(["Found 3 errors.\n"], 1))

    def test_output_of_a_test(self) -> None:
        """A result that a test printed is not counted beside trial's own."""
        lines = ["PASSED (successes=99)\n", "...\n", "PASSED (successes=2)\n"]
        self.assertEqual(Tally(passed=2), count(lines, 0))

    def test_sum(self) -> None:
        """The last line sums up all suites, and tells skipped tests if there are any."""
        total = Tally(passed=1, failed=2) + Tally(passed=3)
        self.assertEqual("4 passed, 2 failed", str(total))
        self.assertEqual("0 passed, 0 failed, 1 skipped", str(Tally(skipped=1)))
