"""Tests of failures of builds, by the events and texts of several versions of Nix."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import NixeryError
from nixery.nix.arguments import NixSettings
from nixery.nix.build_errors import build_deadline_passed, build_failure
from nixery.nix.errors import (
    BuildFailed,
    BuildTimedOut,
    MissingDerivations,
    NixDiskFull,
    NixUnusable,
    NotSubstitutable,
    WrongSystem,
)
from nixery.nix.internal_json import BuildLog
from nixery.process.errors import CommandOutput, ProcessFailed, ProcessTimedOut
from tests.support.nix_events import NixEvents
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
OUT = "/nix/store/00000000000000000000000000000000-a-1"

FORGERIES = (
    "FAIL: test_login timed out after 30 seconds",
    f"error: building of '{A}!out' from .drv file timed out after 60 seconds",
    "error: failed to obtain derivation of the function",
    f"error: cannot build missing derivation '{A}'",
    f"error: path '{A}' is not valid",
    "error: cannot connect to socket at '/nix/var/nix/daemon-socket/socket': Connection refused",
    "error: writing to file: No space left on device",
    "error: out of memory",
    "error: unable to start any build",
    f"error: a 'm68k-linux' with features {{}} is required to build '{A}', but I am a 'x'",
    "       last 2 log lines:",
    "",
)
"""Lines of builders that look like errors of Nix."""


def failed(status: int | None = 1) -> ProcessFailed:
    return ProcessFailed(output=CommandOutput(argv=("nix-build",), status=status, stderr="@nix {}"))


class BuildFailureTests(SynchronousTestCase):
    """Reasons of failed builds."""

    def judge(
        self,
        *messages: str,
        status: int = 1,
        logs: dict[str, list[str]] | None = None,
        warnings: tuple[str, ...] = (),
    ) -> NixeryError:
        self.log = BuildLog(progress=Recorder())
        nix = NixEvents(self.log.feed)
        for derivation, lines in (logs or {}).items():
            nix.build_fails(derivation, lines)
        for text in warnings:
            nix.message(1, text)
        for text in messages:
            nix.error(text)
        return build_failure(failed(status), self.log, SETTINGS)

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
            self.assertTrue(error.message.startswith(f"a 1: {A} failed to build: "), error.message)
            self.assertIn("last lines of its log:\none\ntwo", error.message)
            self.assertNotIn("Reason", error.message)

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

    def test_log_is_that_of_the_events_and_not_nixs_quotation(self) -> None:
        """The log is that of the events; Nix's quotation of it is in no reason."""
        error = self.judge(
            f"error: builder for '{A}' failed due to signal 9 (Killed);\n"
            "       last 2 log lines:\n       > one\n       > two\n       For full logs, run:",
            status=100,
            logs={A: ["zero", "one", "two"]},
        )
        assert isinstance(error, BuildFailed)
        self.assertEqual(error.log, ("zero", "one", "two"))
        self.assertEqual(error.reason, "builder failed due to signal 9 (Killed)")

    def test_failure_that_names_an_output_is_one_of_the_build_that_stopped(self) -> None:
        """A failure whose text names no derivation is one of the build that ended badly."""
        for text in (
            f"error: output '{OUT}' is not allowed to refer to the following paths:\n  {OUT}-b",
            f"error: file '{OUT}' has an unsupported type",
            f"error: file '{OUT}/cannot connect to socket' has an unsupported type",
            f"error: output path '{OUT}' should be a non-executable regular file since",
            "error: something that Nix says in some years only",
        ):
            error = self.judge(text, logs={A: ["compiling"]})
            assert isinstance(error, BuildFailed), error
            self.assertEqual((error.derivation, error.log), (A, ("compiling",)))
            self.assertEqual(
                error.reason.split("\n")[0], text.removeprefix("error: ").split("\n")[0]
            )

    def test_builder_that_prints_errors_of_nix_has_failed(self) -> None:
        """A builder that prints what Nix says of other failures has failed, and no more."""
        for line in FORGERIES:
            for forge in (False, True):
                for daemon in (False, True):
                    for dependency in (False, True):
                        log = BuildLog(progress=Recorder())
                        nix = NixEvents(log.feed, daemon=daemon)
                        nix.builder_fails(A, [line] * 3, forge=forge, needed_by=B * dependency)
                        status = 1 if daemon else 100
                        error = build_failure(failed(status), log, SETTINGS)
                        assert type(error) is BuildFailed, (line, forge, daemon, dependency, error)
                        self.assertEqual(error.derivation, A)
                        self.assertEqual(error.reason, "builder failed with exit code 1")

    def test_of_several_builds_behind_a_daemon_the_one_that_failed_is_named(self) -> None:
        """Of several builds, the one that failed is named, and not those that were stopped."""
        log = BuildLog(progress=Recorder())
        nix = NixEvents(log.feed, daemon=True)
        stopped = nix.build_starts(B)
        nix.message(0, f"error: builder for '{B}' failed with exit code 9")
        nix.builder_fails(A, ["one"], needed_by=B)
        nix.build_stops(stopped)
        nix.error(f"error: build of '{B}', '{A}' failed")
        error = build_failure(failed(1), log, SETTINGS)
        assert isinstance(error, BuildFailed)
        self.assertEqual((error.derivation, error.log), (A, ("one",)))
        self.assertEqual(error.reason, "builder failed with exit code 1")

    def test_builder_cannot_blame_a_build_that_has_succeeded(self) -> None:
        """A builder cannot have a derivation blamed whose build has succeeded."""
        log = BuildLog(progress=Recorder())
        nix = NixEvents(log.feed, daemon=True)
        nix.build_succeeds(A)
        activity = nix.build_starts(B)
        nix.message(0, f"error: builder for '{A}' failed with exit code 1")
        nix.build_stops(activity)
        nix.error(f"error: output '{OUT}' is not allowed to refer to the following paths:\n  x")
        error = build_failure(failed(1), log, SETTINGS)
        assert isinstance(error, BuildFailed)
        self.assertEqual(error.derivation, B)

    def test_dependency_that_times_out_behind_a_daemon_is_told_with_its_limit(self) -> None:
        """A dependency that takes too long behind a daemon is told with its limit."""
        log = BuildLog(progress=Recorder())
        nix = NixEvents(log.feed, daemon=True)
        text = f"building of '{A}^out' from .drv file timed out after 60 seconds"
        nix.build_fails(A, ["begun"], text, needed_by=B)
        error = build_failure(failed(1), log, SETTINGS)
        assert isinstance(error, BuildTimedOut)
        self.assertEqual((error.derivation, error.setting), (A, "NIX_TIMEOUT"))

    def test_disk_that_is_full_for_nix_itself_is_no_failure_of_the_build(self) -> None:
        """A disk that is full when Nix itself writes is no failure of the build."""
        error = self.judge(f"error: writing to file '{OUT}': No space left on device", logs={A: []})
        self.assertIsInstance(error, NixDiskFull)

    def test_daemon_that_goes_away_fails_no_build(self) -> None:
        """A build that runs when Nix's daemon goes away has not failed."""
        log = BuildLog(progress=Recorder())
        nix = NixEvents(log.feed, daemon=True)
        nix.build_starts(A)
        nix.error("error: unexpected end-of-file")
        self.assertIsInstance(build_failure(failed(1), log, SETTINGS), NixUnusable)

    def test_builds_that_were_stopped_with_another_are_not_blamed(self) -> None:
        """Builds that Nix has stopped because of something else are not what failed."""
        for text, kind in (
            (f"error: cannot build missing derivation '{B}'", MissingDerivations),
            (
                (
                    f"error: a 'aarch64-linux' with features {{}} is required to build '{B}',"
                    " but I am a 'x86_64-linux' with features {kvm}"
                ),
                WrongSystem,
            ),
            ("error: cannot connect to daemon at '/s': Connection refused", NixUnusable),
        ):
            self.assertIsInstance(self.judge(text, logs={A: ["compiling"]}), kind)

    def test_failed_dependency_that_newer_versions_do_not_name_at_last(self) -> None:
        """The reason is that of the dependency, where Nix's last word only says that there is
        one."""
        for reason, kind in (
            ("builder failed with exit code 1", BuildFailed),
            ("timed out after 60 seconds", BuildTimedOut),
        ):
            log = BuildLog(progress=Recorder())
            nix = NixEvents(log.feed, daemon=True)
            activity = nix.build_starts(A)
            nix.message(0, f"error: Cannot build '{A}'.\n       Reason: {reason}.")
            nix.build_stops(activity)
            nix.error("error: Build failed due to failed dependency")
            error = build_failure(failed(1), log, SETTINGS)
            assert isinstance(error, kind), error
            self.assertEqual(error.derivation, A)
            if isinstance(error, BuildFailed):
                self.assertEqual(error.reason, reason)

    def test_builder_cannot_say_that_a_system_is_missing(self) -> None:
        """A builder that prints Nix's error of a missing system decides nothing, whether Nix's
        daemon goes away afterwards or a system is missing indeed."""
        text = "error: a '{}' with features {{}} is required to build '{}', but I am a 'x'"
        for own, real, kind in (
            ("unexpected end-of-file", "", NixUnusable),
            (f"1 dependencies of derivation '{A}' failed to build", B, WrongSystem),
        ):
            log = BuildLog(progress=Recorder())
            nix = NixEvents(log.feed, daemon=True)
            nix.build_starts(A)
            nix.message(0, text.format("forged", A))
            if real:
                nix.message(0, text.format("aarch64-linux", real))
            nix.error(f"error: {own}")
            error = build_failure(failed(1), log, SETTINGS)
            assert isinstance(error, kind), error
            self.assertNotIn("forged", error.message)

    def test_missing_derivations_tell_what_was_begun_in_vain(self) -> None:
        """Missing derivations tell how many builds had begun."""
        log = BuildLog(progress=Recorder())
        nix = NixEvents(log.feed)
        nix.build_succeeds(A)
        nix.error(f"error: cannot build missing derivation '{B}'")
        error = build_failure(failed(1), log, SETTINGS)
        assert isinstance(error, MissingDerivations)
        self.assertEqual(error.builds, 1)

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
        self.assertEqual(error.log, ("fetched",))
        self.assertIn("specified: sha256-A\ngot:    sha256-B", error.message)

    def test_failure_that_names_no_derivation_has_nixs_text_for_a_reason(self) -> None:
        """A failure that names no derivation has Nix's text for a reason."""
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
        self.assertEqual((error.seconds, error.silent), (30, True))
        self.assertEqual("half of NIX_TIMEOUT", error.setting)
        error = self.judge(f"error: building derivation '{A}' timed out after 60 seconds")
        assert isinstance(error, BuildTimedOut)
        self.assertEqual((error.derivation, error.seconds, error.silent), (A, 60, False))
        error = self.judge("error: stopped", status=101)
        self.assertIsInstance(error, BuildTimedOut)

    def test_at_the_deadline_of_all_builds_the_one_that_ran_is_named(self) -> None:
        """At the deadline of all builds the one that ran is named."""
        self.log = BuildLog(progress=Recorder())
        NixEvents(self.log.feed).build_starts(A, ["begun"])
        output = failed().output
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
        error = build_failure(failed(), self.log, evolve(SETTINGS, substitute_only=True))
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

    def test_machine_that_builds_nothing_lacks_no_system(self) -> None:
        """A machine that may build nothing lacks neither its own system nor a feature."""
        text = (
            f"error: Cannot build '{A}'.\n       Reason: required system or feature not available\n"
            "       Required system: 'x86_64-linux' with features {kvm}\n"
            "       Current system: 'x86_64-linux' with features {benchmark, kvm}"
        )
        error = self.judge(text)
        assert isinstance(error, WrongSystem)
        self.assertIn("max-jobs", error.message)
        error = build_failure(failed(), self.log, evolve(SETTINGS, substitute_only=True))
        self.assertIsInstance(error, NotSubstitutable)

    def test_missing_feature_is_told_apart_from_another_system(self) -> None:
        """A missing system feature is told apart from another system."""
        error = self.judge(
            f"error: a 'x86_64-linux' with features {{kvm, benchmark}} is required to build '{A}',"
            " but I am a 'x86_64-linux' with features {benchmark, big-parallel}"
        )
        assert isinstance(error, WrongSystem)
        self.assertEqual(error.features, ("kvm",))
        self.assertIn("system feature kvm,", error.message)
        self.assertNotIn("emulator", error.message)

    def test_failure_without_any_build_is_a_fault_of_nix(self) -> None:
        """A failure without any build is a fault of Nix."""
        error = self.judge("error: No space left on device", status=100)
        assert isinstance(error, NixUnusable)
        self.assertIn("No space left", error.reason)
        error = self.judge("error: something new", status=1)
        assert isinstance(error, NixUnusable)
        self.assertIn("something new", error.reason)
        self.assertIsInstance(self.judge(status=1), NixUnusable)
