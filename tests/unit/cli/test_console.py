"""Tests of :mod:`nixery.cli.console`."""

from __future__ import annotations

import contextlib
import io
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from nixery.cli.console import error_line, heading, print_warning


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


class ColourTests(SynchronousTestCase):
    """The colours of errors, warnings and headings."""

    def test_errors_warnings_and_headings_are_coloured_on_a_terminal(self) -> None:
        """Errors are red, warnings yellow, headings bold."""
        with patch.dict("os.environ", {"TERM": "xterm"}, clear=True):
            self.assertEqual("x: \x1b[31merror:\x1b[0m y", error_line("x", "y", Terminal()))
            self.assertEqual("\x1b[1mIMAGE\x1b[0m", heading("IMAGE", Terminal()))
            err = Terminal()
            with contextlib.redirect_stderr(err):
                print_warning("x", "y")
            self.assertEqual("x: \x1b[33mwarning:\x1b[0m y\n", err.getvalue())

    def test_nothing_else_is_coloured(self) -> None:
        """There are no colours for a pipe or a file, with NO_COLOR, or on a dumb terminal."""
        for stream, environ in (
            (io.StringIO(), {"TERM": "xterm"}),
            (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}),
            (Terminal(), {"TERM": "dumb"}),
        ):
            with patch.dict("os.environ", environ, clear=True):
                self.assertEqual("x: error: y", error_line("x", "y", stream))
                self.assertEqual("IMAGE", heading("IMAGE", stream))
