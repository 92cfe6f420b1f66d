"""Tests of the classification of failures by the texts of several versions of Nix."""

from __future__ import annotations

import json
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import NixeryError
from nixery.nix.arguments import NixSettings
from nixery.nix.error_parsing import (
    build_deadline_passed,
    build_failure,
    error_text,
    nix_at_fault,
    unusable,
)
from nixery.nix.errors import (
    BuildFailed,
    BuildTimedOut,
    MissingDerivations,
    NixDiskFull,
    NixMisconfigured,
    NixUnusable,
    NotSubstitutable,
    WrongSystem,
)
from nixery.nix.internal_json import BuildLog
from nixery.process.errors import CommandOutput, ProcessFailed, ProcessTimedOut
from tests.unit.nix.test_internal_json import Recorder

SETTINGS = NixSettings(
    state_directory=Path("/s"),
    home=Path("/h"),
    timeout=60,
    max_silent=30,
    max_eval_memory=2 * 1024**3,
)
A = "/nix/store/ia5vdjji7b8w565cgb8z357gl1h2pmk2-a-1.drv"
B = "/nix/store/jgvfhgpylq9wfsy3gxd8nz7jfyw10vya-b-1.drv"


def failed(stderr: str = "", status: int | None = 1) -> ProcessFailed:
    return ProcessFailed(output=CommandOutput(argv=("nix-x",), status=status, stderr=stderr))


class ErrorTextTests(SynchronousTestCase):
    """Tests of the extraction of the error from an evaluation's output."""

    def test_older_versions_print_the_place_behind_the_error(self) -> None:
        """Older versions print the place behind the error."""
        stderr = (
            "warning: something\n"
            "error: attribute 'foo' missing\n\n       at /pkgs/default.nix:3:4:\n\n"
            "            2| {\n            3|   x = y.foo;\n             |       ^\n"
            "(use '--show-trace' to show detailed location information)\n"
        )
        self.assertEqual(error_text(stderr, SETTINGS), "attribute 'foo' missing")

    def test_newer_versions_print_the_trace_before_it(self) -> None:
        """Newer versions print the trace before it."""
        stderr = (
            "error:\n"
            "       … while calling the 'seq' builtin\n"
            "         at /share/resolve.nix:200:1:\n"
            "          199| in\n"
            "          200| seq packages {\n"
            "             | ^\n"
            "       … while evaluating the attribute 'drvPath'\n\n"
            "       (stack trace truncated; use '--show-trace' to show the full trace)\n\n"
            "       error: evaluation aborted with the following error message: 'two\n"
            "       lines'\n"
        )
        self.assertEqual(
            error_text(stderr, SETTINGS),
            "evaluation aborted with the following error message: 'two\nlines'",
        )

    def test_text_of_several_paragraphs_is_kept_whole(self) -> None:
        """A text of several paragraphs is kept whole."""
        stderr = "error: Package x is marked as broken\n\n       a) To fix it\n\n       b) or not\n"
        self.assertEqual(
            error_text(stderr, SETTINGS), "Package x is marked as broken\na) To fix it\nb) or not"
        )

    def test_message_about_too_little_memory_names_the_limit(self) -> None:
        """The message about too little memory names the limit."""
        stderr = "GC Warning: Out of Memory!  Trying to continue...\nerror: out of memory\n"
        self.assertIn("more than 2048 MiB", error_text(stderr, SETTINGS))

    def test_no_text_is_a_text(self) -> None:
        """No text is a text."""
        self.assertEqual(error_text("", SETTINGS), "Nix did not say why")
        self.assertEqual(error_text("Segmentation fault", SETTINGS), "Segmentation fault")


class FaultTests(SynchronousTestCase):
    """Tests of the distinction between faults of Nix and other failures."""

    def test_daemons_databases_and_disks_are_nixs_own_and_told_in_its_words(self) -> None:
        """Daemons, databases and disks are Nix's own, and told in its words."""
        for text in (
            "cannot connect to socket at '/nix/var/nix/daemon-socket/socket': No such file",
            "cannot open connection to remote store 'daemon'",
            "opening lock file '/nix/var/nix/db/big-lock': Permission denied",
            "executing SQLite statement: attempt to write a readonly database",
            "writing to file: No space left on device",
            "the group 'nixbld' specified in 'build-users-group' does not exist",
        ):
            fault = nix_at_fault(failed(f"warning: before\nerror: {text}\nbehind"))
            assert fault is not None
            self.assertEqual(fault.reason, text)
            self.assertEqual(unusable(failed(f"error: {text}")).reason, text)

    def test_kinds_of_store_failures_are_distinguished(self) -> None:
        """Full disks, faults that need an administrator and transient ones are distinguished."""
        for text, kind in (
            ("creating symlink '/x/gcroots/1/r': No space left on device", NixDiskFull),
            ("writing to file: Disk quota exceeded", NixDiskFull),
            ("executing SQLite query: database or disk is full", NixDiskFull),
            ("creating directory '/nix': Permission denied", NixMisconfigured),
            (
                "the group 'nixbld' specified in 'build-users-group' does not exist",
                NixMisconfigured,
            ),
            ("executing SQLite statement: attempt to write a readonly database", NixMisconfigured),
            ("cannot connect to socket at '/nix/s': Connection refused", NixUnusable),
            ("opening lock file '/nix/var/nix/db/big-lock': Permission denied", NixUnusable),
        ):
            self.assertIs(kind, type(nix_at_fault(failed(f"error: {text}"))), text)

    def test_nixpkgs_may_refuse_a_nix_as_too_old(self) -> None:
        """nixpkgs may refuse a Nix as too old."""
        for text in (
            "This version of Nixpkgs requires Nix >= 2.3, please upgrade",
            "This version of Nixpkgs requires an implementation of Nix with the features:",
        ):
            fault = nix_at_fault(failed(f"error: aborted: '\n\n  {text}\n - x'"))
            assert fault is not None
            self.assertIn(text, fault.reason)
            self.assertIn("install Nix 2.18", fault.reason)

    def test_any_other_failure_is_not_a_fault_of_nix(self) -> None:
        """Any other failure is not a fault of Nix."""
        self.assertIsNone(nix_at_fault(failed("error: attribute 'foo' missing")))
        self.assertEqual(unusable(failed("error: surprise")).reason, "surprise")
        self.assertIn("status 1", unusable(failed()).reason)


class BuildFailureTests(SynchronousTestCase):
    """Why a build failed."""

    def judge(
        self,
        *messages: str,
        status: int = 1,
        logs: dict[str, list[str]] | None = None,
        warnings: tuple[str, ...] = (),
    ) -> NixeryError:
        log = BuildLog(progress=Recorder())
        self.log = log

        def tell(**event: object) -> None:
            # As Nix prints it, whose bytes are looked at before anything is decoded.
            log.feed(b"@nix " + json.dumps(event, separators=(",", ":")).encode())

        for number, (derivation, lines) in enumerate((logs or {}).items()):
            tell(action="start", id=number, type=105, fields=[derivation])
            for line in lines:
                tell(action="result", id=number, type=101, fields=[line])
        for level, texts in ((1, warnings), (0, messages)):
            for text in texts:
                tell(action="msg", level=level, msg=text)
        return build_failure(failed("@nix {}", status), log, SETTINGS)

    def test_texts_of_a_failing_builder_old_and_new(self) -> None:
        """Texts of a failing builder, old and new."""
        for text, status in (
            (f"error: builder for '{A}' failed with exit code 3", 100),
            (f"error: builder for '{A}' failed with exit code 3;\n  last 1 log lines:", 1),
            (f"error: builder for '{A}' failed due to signal 9 (Killed)", 100),
            (f"error: Cannot build '{A}'.\n       Reason: builder failed with exit code 3.", 1),
            (f"error: build of '{A}' failed", 100),
            (f"error: derivation '{A}' may not be deterministic", 104),
        ):
            error = self.judge(text, status=status, logs={A: ["one", "two"], B: ["other"]})
            assert isinstance(error, BuildFailed)
            self.assertEqual((error.derivation, error.log), (A, ("one", "two")), text)
            self.assertIn(text.split("\n")[0], error.output.stderr)

    def test_of_several_the_first_is_named_and_not_what_depends_on_it(self) -> None:
        """Of several the first is named, and not what depends on it."""
        error = self.judge(
            f"error: builder for '{B}' failed with exit code 1",
            f"error: 1 dependencies of derivation '{A}' failed to build",
            status=100,
        )
        assert isinstance(error, BuildFailed)
        self.assertEqual(error.derivation, B)
        error = self.judge(
            f"error: Cannot build '{A}'.\n       Reason: 1 dependency failed.\n",
            f"error: Cannot build '{B}'.\n       Reason: builder failed with exit code 1.\n",
        )
        assert isinstance(error, BuildFailed)
        self.assertEqual(error.derivation, B)

    def test_nixs_quotation_of_log_is_used_where_log_did_not_come_as_events(self) -> None:
        """Nix's quotation of the log is used where the log did not come as events."""
        error = self.judge(
            f"error: builder for '{A}' failed with exit code 1;\n"
            "       last 2 log lines:\n       > one\n       > two\n       For full logs, run:",
            status=100,
        )
        assert isinstance(error, BuildFailed)
        self.assertEqual(error.log, ("one", "two"))

    def test_failed_download_without_a_log_is_reported_in_nixs_words(self) -> None:
        """A failed download without a log is reported in Nix's words."""
        error = self.judge(
            f"error: builder for '{A}' failed with exit code 1",
            status=100,
            warnings=("warning: unable to download 'http://x/y': HTTP error 404",),
        )
        assert isinstance(error, BuildFailed)
        self.assertIn("HTTP error 404", error.message)

    def test_message_about_a_wrong_hash_names_both_hashes(self) -> None:
        """The message about a wrong hash names both hashes."""
        error = self.judge(
            f"error: hash mismatch in fixed-output derivation '{A}':\n"
            "         specified: sha256-A\n            got:    sha256-B",
            status=102,
            logs={A: ["fetched"]},
        )
        assert isinstance(error, BuildFailed)
        self.assertEqual(error.derivation, A)
        self.assertEqual(error.log[0], "fetched")
        self.assertIn("got:    sha256-B", error.log[-1])

    def test_failure_that_names_no_derivation_has_nixs_text_for_a_log(self) -> None:
        """A failure that names no derivation has Nix's text for a log."""
        error = self.judge("error: some substitutes failed; try '--fallback'")
        assert isinstance(error, BuildFailed)
        self.assertEqual(error.derivation, "")
        self.assertIn("some substitutes failed", error.message)

    def test_duration_and_silence_are_told_apart_with_their_settings(self) -> None:
        """Duration and silence are told apart, with their settings."""
        what = f"error: building of '{A}!out' from .drv file timed out after 60 seconds"
        error = self.judge(what, status=101, logs={A: ["begun"]})
        assert isinstance(error, BuildTimedOut)
        self.assertEqual(
            (error.derivation, error.seconds, error.setting, error.silent, error.log),
            (A, 60, "NIX_TIMEOUT", False, ("begun",)),
        )
        error = self.judge(f"{what} of silence", status=1)
        assert isinstance(error, BuildTimedOut)
        self.assertEqual((error.seconds, error.setting, error.silent), (30, "nix_max_silent", True))
        error = self.judge("error: stopped", status=101)
        self.assertIsInstance(error, BuildTimedOut)

    def test_at_the_deadline_of_all_builds_the_one_that_ran_is_named(self) -> None:
        """At the deadline of all builds the one that ran is named."""
        self.judge(logs={A: ["begun"]})
        output = failed("@nix {}").output
        error = build_deadline_passed(
            ProcessTimedOut(output=output, seconds=14400), self.log, SETTINGS
        )
        self.assertEqual((error.derivation, error.log), (A, ("begun",)))
        self.assertEqual((error.setting, error.seconds), ("build_deadline", 14400))

    def test_derivations_that_a_garbage_collection_took_in_several_texts(self) -> None:
        """Derivations that a garbage collection took, in several texts."""
        for text in (
            f"error: path '{A}' does not exist and cannot be created",
            f"error: path '{A}' is not valid",
            f"error: cannot build missing derivation '{A}'",
            f"error: failed to obtain derivation of '{A}!out'",
            f"error: opening file '{A}': No such file or directory",
        ):
            self.assertIsInstance(self.judge(text), MissingDerivations, text)

    def test_substitute_only_failure_names_missing_packages(self) -> None:
        """A substitute-only failure names the missing packages, those asked for first."""
        text = "error: unable to start any build; either increase '--max-jobs' or ..."
        self.assertIsInstance(self.judge(text), BuildFailed)
        for name in ("libc-2", "libz-1", "libx-1", "curl-8.1"):
            message = f'"level":3,"msg":"  /nix/store/x-{name}.drv"'
            self.log.feed(f'@nix {{"action":"msg",{message}}}'.encode())
        error = build_failure(failed(text), self.log, evolve(SETTINGS, substitute_only=True))
        self.assertIsInstance(error, NotSubstitutable)
        self.assertIn("no binary cache has curl-8.1, libx-1, libz-1 and 1 more", error.message)

    def test_derivation_for_another_system_is_recognised(self) -> None:
        """A derivation for another system is recognised, in old and new versions of Nix."""
        old = (
            f"error: a 'aarch64-linux' with features {{}} is required to build '{A}', but I am"
            " a 'x86_64-linux' with features {benchmark, kvm}"
        )
        new = (
            f"error: Cannot build '{A}'.\n       Reason: required system or feature not"
            " available\n       Required system: 'aarch64-linux' with features {}\n"
            "       Current system: 'x86_64-linux' with features {kvm}"
        )
        for text in (old, new):
            error = self.judge(text)
            assert isinstance(error, WrongSystem)
            self.assertEqual(
                (error.derivation, error.required, error.available),
                (A, "aarch64-linux", "x86_64-linux"),
            )

    def test_failure_that_names_no_derivation_is_a_fault_of_nix(self) -> None:
        """A failure that names no derivation is a fault of Nix."""
        error = self.judge("error: No space left on device", status=100)
        assert isinstance(error, NixUnusable)
        self.assertIn("No space left", error.reason)
        error = self.judge("error: something new", status=1)
        assert isinstance(error, NixUnusable)
        self.assertIn("something new", error.reason)
        self.assertIsInstance(self.judge(status=1), NixUnusable)
