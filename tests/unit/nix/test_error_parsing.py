"""Tests of the classification of failures of commands by the texts of several versions of Nix."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nixery.nix.arguments import NixSettings
from nixery.nix.error_parsing import (
    error_text,
    flake_refusal,
    input_of,
    nix_at_fault,
    unusable,
)
from nixery.nix.errors import NixDiskFull, NixMisconfigured, NixUnusable
from nixery.process.errors import CommandOutput, ProcessFailed

SETTINGS = NixSettings(
    state_directory=Path("/s"),
    home=Path("/h"),
    timeout=60,
    max_silent=30,
    max_eval_memory=2 * 1024**3,
)

OUTPUT = CommandOutput(argv=("nix-x",), status=1)


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

    def test_words_about_memory_are_no_lack_of_it(self) -> None:
        """A package's words about memory are no lack of it."""
        text = "this release ran out of memory-safe maintainers"
        self.assertEqual(error_text(f"error: {text}\n", SETTINGS), text)

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
            fault = nix_at_fault(
                failed(
                    "error: evaluation aborted with the following error message:"
                    f" '\n\n  {text}\n - x'"
                )
            )
            assert fault is not None
            self.assertIn(text, fault.reason)
            self.assertIn("install Nix 2.18", fault.reason)

    def test_any_other_failure_is_not_a_fault_of_nix(self) -> None:
        """Any other failure is not a fault of Nix."""
        for text in (
            "attribute 'foo' missing",
            "file '/nix/store/x/cannot connect to socket' has an unsupported type",
            "evaluation aborted with the following error message: 'No space left on device'",
            "this is no SQLite database, says upstream",
        ):
            self.assertIsNone(nix_at_fault(failed(f"error: {text}")), text)
        self.assertEqual(unusable(failed("error: surprise")).reason, "surprise")
        self.assertIn("status 1", unusable(failed()).reason)


class FlakeTests(SynchronousTestCase):
    """Errors of flakes."""

    def test_lock_file_that_does_not_fit_is_told_with_what_to_do(self) -> None:
        """Nix's texts about locks, of several versions, name the input and the way out."""
        for text, name in (
            ("cannot update flake input 'dep' in pure mode", "dep"),
            ("cannot update unlocked flake input 'a/b' in pure mode", "a/b"),
            ("flake 'path:/x' requires lock file changes but they're not allowed", ""),
            ("the inputs of flake.nix and those of flake.lock differ", ""),
            ('lockfile contains mutable lock \'{"path":"./sub","type":"path"}\'', ""),
        ):
            refused = flake_refusal(text, OUTPUT)
            assert refused is not None
            for words in ("flake.lock", "nix flake lock", "allow_unlocked_flake", name):
                self.assertIn(words, refused.message)

    def test_directory_without_a_flake_is_told(self) -> None:
        """A tree without ``flake.nix`` names the directory's parameter."""
        for text in (
            "getting status of '/nix/store/x-source/flake.nix': No such file or directory",
            "path '/nix/store/x-source/flake.nix' does not exist",
        ):
            refused = flake_refusal(text, OUTPUT)
            assert refused is not None
            self.assertIn("?dir=", refused.message)

    def test_other_errors_are_none_of_flakes(self) -> None:
        """An error of a package is its own."""
        self.assertIsNone(flake_refusal("attribute 'x' missing", OUTPUT))

    def test_input_that_cannot_be_fetched_is_found_in_the_trace(self) -> None:
        """The innermost input that was being fetched is named."""
        trace = (
            "error: … while fetching the input 'dep' of the flake\n"
            " 51| addErrorContext \"while fetching the input '${name}' of the flake\""
        )
        self.assertEqual(input_of(trace), "dep")
        self.assertIsNone(input_of("error: x"))
