"""Tests of mistakes on the command line, and of what is wrong around a command."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from nixery.cli.common import Command
from nixery.cli.errors import CommandRefused, WrongCall
from nixery.image.errors import InvalidName
from tests.unit.cli.test_parser import COMMANDS

CHECKOUT = Path(__file__).resolve().parents[3]


class MistakeTests(SynchronousTestCase):
    """
    A mistake is told in one or two lines on standard error, with what to do.

    The exit status is 2 for a wrong call, and 1 for everything else.
    """

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.patch(os, "environ", {"HOME": str(self.directory)})

    def file(self, name: str, content: str | bytes) -> str:
        """Write a file, and return its path."""
        path = self.directory / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def run_command(self, command: str) -> tuple[int, str, str]:
        """Return the status, the output and the errors of a command."""
        name, *arguments = command.split()
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            self.assertRaises(SystemExit) as ended,
        ):
            COMMANDS[name](arguments)
        status = ended.exception.code
        assert isinstance(status, int)
        return status, out.getvalue(), err.getvalue()

    def assert_told(self, command: str, status: int, *texts: str) -> None:
        """Assert that a command fails with a status, and says some texts."""
        ended, out, err = self.run_command(command)
        self.assertEqual((status, ""), (ended, out), (command, err))
        lines = err.splitlines()
        self.assertLessEqual(len(lines), 2, err)
        self.assertTrue(lines[0].startswith(f"{command.split(maxsplit=1)[0]}"), err)
        self.assertIn(": error: ", lines[0])
        for text in texts:
            self.assertIn(text, err)
        for noise in ("Traceback", "Failure", "Errno", "usage:", "\x1b"):
            self.assertNotIn(noise, err, command)

    def test_wrong_calls(self) -> None:
        """A wrong call exits with 2, and says how to call the command."""
        storage = f"--storage-path {self.directory}"
        for command, text in (
            ("nixery-admin", "required: COMMAND"),
            ("nixery-admin frobnicate", "See nixery-admin --help"),
            ("nixery-admin lst", "did you mean list?"),
            ("nixery-admin list --jsn", "did you mean --json?"),
            ("nixery-admin inspect", "required: IMAGE"),
            ("nixery-admin verify --jobs x", "'x': give a number between 1 and 256"),
            ("nixery-admin verify --jobs 0", "'0': give a number between 1 and 256"),
            ("nixery-admin gc --max-storage-size big", "give one as 200GiB"),
            ("nixery-admin gc --max-image-age old", "'old': give a number of seconds"),
            ("nixery-admin gc --grace -1", "give a number of seconds"),
            (f"nixery-admin warm {storage}", "name some, or give --from FILE"),
            (f"nixery-admin warm Git {storage}", "is not an image name"),
            (f"nixery-admin warm git:.. {storage}", "is not a tag"),
            ("nixery-admin warm git --url localhost:8080", "write --url http://HOST:PORT"),
            ("nixery-admin warm git --url ftp://r", "write --url http://HOST:PORT"),
            ("nixery-admin warm git --user alice", "--password-file"),
            ("nixery-admin check Git", "is not an image name"),
            ("nixery-admin check git --tag ..", "is not a tag"),
            ("nixery-layers", "required: IMAGE"),
            ("nixery-layers Git", "is not an image name"),
            ("nixery-layers git --strategy x", "choose from"),
            ("nixery-layers git --layer-budget x", "give a whole number between 1 and"),
            ("nixery-layers git --system pdp11", "--system = 'pdp11'"),
            ("nixery-popcount", "required: channel|store|set"),
            ("nixery-popcount stor", "did you mean store?"),
            ("nixery-popcount store --connections 0", "give a number between 1 and 256"),
            ("nixery-prepare-image", "required: NAME"),
            ("nixery-prepare-image Git", "is not an image name"),
            ("nixery-prepare-image git --tag ..", "is not a tag"),
        ):
            self.assert_told(command, 2, text)

    def test_unusable_configurations(self) -> None:
        """A configuration that cannot be used exits with 2, and names the file or variable."""
        for name, content, text in (
            ("broken.yaml", "a: {", "cannot read this YAML file: line"),
            ("binary.yaml", b"\xff\xfe", "cannot read this YAML file"),
            ("list.yaml", "- port", "one YAML mapping of settings"),
            ("number.yaml", "port: abc", "give a whole number between 1 and 65535"),
            ("near.yaml", "prot: 80", "did you mean port?"),
            ("truth.yaml", "metrics: perhaps", "metrics = 'perhaps'"),
        ):
            path = self.file(name, content)
            for command in (
                "nixery-admin list",
                "nixery-layers git",
                "nixery-popcount store",
                "nixery-prepare-image git",
            ):
                self.assert_told(f"{command} --config {path}", 2, text, path)
        self.assert_told(
            "nixery-admin list --config /nonexistent",
            2,
            "/nonexistent",
            "No such file or directory",
        )
        self.assert_told(f"nixery-admin list --config {self.directory}", 2, "Is a directory")
        for variable, value in (("PORT", "abc"), ("NIXERY_MAX_BUILDS", "-3")):
            with patch.dict("os.environ", {variable: value}):
                self.assert_told("nixery-layers git", 2, f"{variable} = '{value}' (environment)")

    def test_what_is_not_there(self) -> None:
        """A thing that a command does not find exits with 1, and it says how to give it."""
        (self.directory / "blobs" / "sha256").mkdir(parents=True)
        storage = f"--storage-path {self.directory}"
        key = self.file("key", "not a key")
        signed = self.file(
            "signing.yaml", f"{{signing_key: {key}, public_url: 'https://r.example'}}"
        )
        for command, *texts in (
            ("nixery-admin list --storage-path /nonexistent", "/nonexistent", "--storage-path"),
            (f"nixery-admin list --storage-path {key}", "there is no storage", "--storage-path"),
            (f"nixery-admin inspect git {storage}", "nixery-admin list shows what is"),
            (f"nixery-admin purge git:v1 {storage}", "nixery-admin list shows what is"),
            (f"nixery-admin sign {storage}", "signing_key"),
            (f"nixery-admin sign {storage} --config {signed}", key),
            (
                "nixery-admin warm --from /nonexistent",
                "cannot read /nonexistent: No such file or directory",
            ),
            (
                "nixery-admin warm git --user a --password-file /nonexistent",
                "cannot read /nonexistent: No such file or directory",
            ),
            ("nixery-popcount store -o /nonexistent/x", "its directory does not exist"),
        ):
            self.assert_told(command, 1, *texts)

    def test_unknown_settings_are_warnings_with_the_near_name(self) -> None:
        """A misspelt setting is a warning, which names the near one, beside the result."""
        (self.directory / "blobs" / "sha256").mkdir(parents=True)
        os.environ["NIXERY_PROT"] = "80"
        for command in ("list", "list --json", "verify --json", "gc --json", "verify"):
            status, out, err = self.run_command(
                f"nixery-admin {command} --storage-path {self.directory}"
            )
            self.assertEqual(0, status)
            self.assertNotEqual("", out)
            self.assertIn("nixery-admin: warning: NIXERY_PROT (environment)", err)
            self.assertIn("did you mean NIXERY_PORT?", err)


class EndTests(SynchronousTestCase):
    """The end of a command, by errors that it does not expect."""

    def end(self, error: BaseException) -> tuple[object, str]:
        """Return the status and the errors of a command whose body raises an error."""

        def body() -> None:
            raise error

        err = io.StringIO()
        with contextlib.redirect_stderr(err), self.assertRaises(SystemExit) as ended:
            Command(name="x").main(body)
        return ended.exception.code, err.getvalue()

    def test_each_error_has_its_status(self) -> None:
        """The status tells wrong calls, interrupts and failures apart."""
        for error, expected in (
            (KeyboardInterrupt(), (130, "")),
            (BrokenPipeError(), (1, "")),
            (SystemExit(5), (5, "")),
            (CommandRefused(reason="no"), (1, "x: error: no\n")),
            (WrongCall(reason="no"), (2, "x: error: no\n")),
            (OSError(28, "No space left on device"), (1, "x: error: No space left on device\n")),
            (
                PermissionError(13, "Permission denied", "/f"),
                (1, "x: error: /f: Permission denied\n"),
            ),
        ):
            self.assertEqual(expected, self.end(error))
        self.assertEqual(2, self.end(InvalidName(name="X", reason="no"))[0])

    def test_fault_of_the_program_is_not_hidden(self) -> None:
        """An error that is nobody's mistake is not reported as one."""
        self.assertRaises(ZeroDivisionError, Command(name="x").main, lambda: 1 // 0)

    def run_process(self, stdout: int) -> tuple[int, str]:
        """Return the status and the errors of a command that prints much into a file."""
        program = (
            "from nixery.cli.common import Command\n"
            "Command(name='x').main(lambda: print('line\\n' * 100_000))"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=300,
        )
        return ended.returncode, ended.stderr

    def test_reader_that_goes_away_is_no_error(self) -> None:
        """A closed pipe, as that of ``| head``, ends the command without a message."""
        reader, writer = os.pipe()
        os.close(reader)
        self.addCleanup(os.close, writer)
        self.assertEqual((1, ""), self.run_process(writer))

    def test_full_disk_is_told_once(self) -> None:
        """Output that finds no space is an error in one line."""
        full = os.open("/dev/full", os.O_WRONLY)
        self.addCleanup(os.close, full)
        self.assertEqual((1, "x: error: No space left on device\n"), self.run_process(full))
