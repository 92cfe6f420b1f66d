"""Tests for :mod:`nixery.builds.build_failure`."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.build_failure import ADVICE, describe_failure
from nixery.builds.errors import CachedFailure, ImageTimedOut
from nixery.errors import StorageError
from nixery.nix.errors import BuildFailed, BuildTimedOut, NotSubstitutable, WrongSystem
from nixery.process.errors import CommandOutput
from nixery.runtime.clocks import WallTime
from nixery.runtime.data_files import web_directory
from nixery.storage.errors import UploadLost

DERIVATION = f"/nix/store/{'0' * 32}-git-minimal-2.47.0.drv"
OUTPUT = CommandOutput(argv=("secret",), status=1, stderr="secret")


class DescribeFailureTests(SynchronousTestCase):
    """Tests of what a failed build says of its failure."""

    def test_package_that_failed_is_named_before_its_path(self) -> None:
        """The title has the name and version of the package, the message its derivation."""
        for error, title in (
            (
                BuildFailed(derivation=DERIVATION, log=("no",), output=OUTPUT),
                "git-minimal 2.47.0 failed to build",
            ),
            (BuildFailed(derivation="", log=(), output=OUTPUT), "A derivation failed to build"),
            (
                NotSubstitutable(
                    derivation=DERIVATION, log=(), output=OUTPUT, missing=("git",), count=1
                ),
                "No binary cache has git-minimal 2.47.0",
            ),
            (
                BuildTimedOut(derivation=DERIVATION, seconds=1, setting="s", log=(), output=OUTPUT),
                "git-minimal 2.47.0 took too long to build",
            ),
            (
                BuildTimedOut(
                    derivation="", seconds=1, setting="s", log=(), output=OUTPUT, silent=True
                ),
                "A derivation printed nothing for too long",
            ),
            (
                WrongSystem(derivation=DERIVATION, required="a", available="b", output=OUTPUT),
                "git-minimal 2.47.0 cannot be built on this machine",
            ),
            (StorageError(operation="write", reason="full"), ""),
        ):
            with self.subTest(title):
                failure = describe_failure(error, None)
                self.assertEqual((title, error.message), (failure.title, failure.message))
                self.assertNotIn("secret", str(failure))

    def test_remembered_failure_reads_like_the_first(self) -> None:
        """A failure that is answered without a new attempt has the words of the original."""
        error = BuildFailed(derivation=DERIVATION, log=("no",), output=OUTPUT)
        cached = CachedFailure(original=error, retry_after=7)
        self.assertEqual(
            describe_failure(error, WallTime(5)), describe_failure(cached, WallTime(5))
        )

    def test_attempts_fail_alike_if_their_logs_differ(self) -> None:
        """The cause of a failure is its derivation and Nix's reason, and not its log."""
        first, again, other = (
            describe_failure(
                BuildFailed(derivation=DERIVATION, log=(log,), output=OUTPUT, reason=reason), None
            ).cause
            for log, reason in (("1 s", "exit code 1"), ("2 s", "exit code 1"), ("", "killed"))
        )
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)

    def test_advice_is_that_of_the_nearest_class(self) -> None:
        """An error without advice of its own has that of its base class; others have none."""
        lost = describe_failure(UploadLost(operation="write", reason="gone"), None)
        self.assertIs(lost.advice, ADVICE[StorageError])
        self.assertIsNone(describe_failure(RuntimeError("/home/secret"), None).advice)
        error = ImageTimedOut(image="git", phase="packing", seconds=1, setting="build_deadline")
        advice = describe_failure(error, None).advice
        assert advice is not None
        self.assertIn("Pull again", advice.text)

    def test_advice_leads_to_the_section_of_troubleshooting_that_quotes_the_error(self) -> None:
        """Every piece of advice names a heading below which its error is quoted."""
        text = (web_directory() / "docs" / "troubleshooting.md").read_text("utf-8")
        sections = dict(
            re.findall(r"^### ([^\n]*)\n(.*?)(?=^##|\Z)", text, flags=re.MULTILINE | re.DOTALL)
        )
        for error, advice in ADVICE.items():
            with self.subTest(error.__name__):
                self.assertIn(f"```{{says}} {error.__name__}\n", sections[advice.heading])
                self.assertRegex(advice.anchor, r"^[a-z][a-z-]*$")
