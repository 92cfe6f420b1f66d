"""Tests for ``python -m demoset``."""

from __future__ import annotations

import os
import sys
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from demoset import __main__ as command
from demoset.errors import DemoFailed
from demoset.package_set import default_directory


class CommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.out, self.err = StringIO(), StringIO()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)

    def test_prints_the_directory(self) -> None:
        """Scripts read from standard output where the set is, and nothing else."""
        calls: list[tuple[Path, bool]] = []
        self.patch(
            command, "prepare", lambda directory, *, refresh: calls.append((directory, refresh))
        )
        self.assertEqual(command.main(["/some/where", "--refresh"]), 0)
        self.assertEqual(self.out.getvalue(), "/some/where\n")
        self.assertEqual(calls, [(Path("/some/where"), True)])

    def test_command_alone_makes_the_default_directory_ready(self) -> None:
        """The command alone makes the default directory ready."""
        calls: list[Path] = []
        self.patch(command, "prepare", lambda directory, **_: calls.append(directory))
        self.assertEqual(command.main([]), 0)
        self.assertEqual(calls, [default_directory(os.environ)])

    def test_failure_is_one_message_with_what_to_do_and_a_status_that_says_so(self) -> None:
        """A failure is one message with what to do, and a status that says so."""

        def fail(*_: object, **__: object) -> None:
            raise DemoFailed(reason="there is no apt", advice="use Debian")

        self.patch(command, "prepare", fail)
        self.assertEqual(command.main(["x"]), 1)
        self.assertEqual(self.err.getvalue(), "there is no apt: use Debian\n")
        self.assertEqual(self.out.getvalue(), "")
