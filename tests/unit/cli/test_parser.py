"""Tests of :mod:`nixery.cli.parser`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from nixery.cli.admin.command import admin
from nixery.cli.admin.parser import make_parser
from nixery.cli.layers import layers
from nixery.cli.popcount import popcount
from nixery.cli.prepare_image import prepare_image
from nixery.version import VERSION

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "nixery-admin": admin,
    "nixery-layers": layers,
    "nixery-popcount": popcount,
    "nixery-prepare-image": prepare_image,
}


class ParserTests(SynchronousTestCase):
    """The arguments of the commands."""

    def run_command(self, name: str, *arguments: str, status: int) -> tuple[str, str]:
        """Return what a command prints: standard output and standard error."""
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            self.assertRaises(SystemExit) as ended,
        ):
            COMMANDS[name](arguments)
        self.assertEqual(status, ended.exception.code)
        return out.getvalue(), err.getvalue()

    def test_every_command_tells_its_version(self) -> None:
        """Every command prints its version on standard output; a subcommand does as well."""
        for name in COMMANDS:
            self.assertEqual(
                (f"{name} {VERSION}\n", ""), self.run_command(name, "--version", status=0)
            )
        out, _ = self.run_command("nixery-admin", "list", "--version", status=0)
        self.assertEqual(f"nixery-admin {VERSION}\n", out)

    def test_error_comes_first_and_alone(self) -> None:
        """A wrong option is the first line of standard error, without pages of help."""
        for name in COMMANDS:
            out, err = self.run_command(name, "--confg=x", status=2)
            first, *rest = err.splitlines()
            self.assertEqual("", out)
            self.assertTrue(first.startswith(f"{name}: "), err)
            self.assertEqual([f"See {name} --help"], rest)

    def test_option_that_is_nearly_right_is_named(self) -> None:
        """The option that was probably meant is named, also that of a subcommand."""
        for given, meant in (("--jsn", "--json"), ("--passwordfile=x", "--password-file")):
            _, err = self.run_command("nixery-admin", "warm", given, status=2)
            self.assertIn(f"(did you mean {meant}?)", err)
        _, err = self.run_command("nixery-admin", "list", "--zzz", status=2)
        self.assertNotIn("did you mean", err)

    def test_options_stand_before_or_after_the_command(self) -> None:
        """The options of all commands mean the same before the command and after it."""
        for arguments in (["--json", "--config=x", "list"], ["list", "--json", "--config=x"]):
            options = make_parser().parse_args(arguments)
            self.assertEqual(
                (True, "x", None), (options.json, options.config, options.storage_path)
            )
        self.assertFalse(make_parser().parse_args(["list"]).json)

    def test_command_that_is_nearly_right_is_named(self) -> None:
        """The command that was probably meant is named."""
        for name, given, meant in (
            ("nixery-admin", "lst", "list"),
            ("nixery-admin", "varify", "verify"),
            ("nixery-popcount", "chanel", "channel"),
        ):
            _, err = self.run_command(name, given, status=2)
            self.assertIn(f"(did you mean {meant}?)", err)

    def test_help_ends_with_examples_and_fits_the_terminal(self) -> None:
        """The help of every command is wrapped at the terminal's width, and ends with examples."""
        commands = [[name] for name in COMMANDS]
        commands += [
            [name, each]
            for name, subcommands in (
                ("nixery-admin", "check gc inspect list purge sbom sign verify warm"),
                ("nixery-popcount", "channel store set"),
            )
            for each in subcommands.split()
        ]
        for columns in ("60", "100"):
            with patch.dict("os.environ", {"COLUMNS": columns}):
                for name, *subcommand in commands:
                    out, err = self.run_command(name, *subcommand, "--help", status=0)
                    self.assertEqual("", err)
                    text, _, examples = out.partition("\nexamples:\n")
                    self.assertIn(f"  {name}", examples, subcommand)
                    too_long = [line for line in text.splitlines() if len(line) > int(columns)]
                    self.assertEqual([], too_long)

    def test_options_of_popcount_stand_before_or_after_the_command(self) -> None:
        """The options of all commands mean the same before the command and after it."""
        for arguments in (["--output=/nonexistent/x", "store"], ["store", "-o", "/nonexistent/x"]):
            _, err = self.run_command("nixery-popcount", *arguments, status=1)
            self.assertEqual(
                "nixery-popcount: error: cannot write /nonexistent/x: its directory does not"
                " exist\n",
                err,
            )
