"""The parser of a command's arguments: a version for every command, and errors before help."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from nixery.cli.console import error_line
from nixery.version import VERSION

__all__ = ["CommandParser"]

USAGE = 2


class CommandParser(argparse.ArgumentParser):
    """
    A parser that takes ``--version``, and prints an error alone, in one line with what to do.

    Subcommands get parsers of this class too.

    :param examples: commands that are shown at the end of the help.
    """

    # Any: argparse has a dozen parameters, which pass through.
    def __init__(self, *, examples: Sequence[str] = (), **details: Any) -> None:
        if examples:
            details["epilog"] = "\n".join(["examples:", *(f"  {each}" for each in examples)])
        details.setdefault("formatter_class", _HelpFormatter)
        super().__init__(**details)
        # Parsers that are parents of others must not have it: both would.
        if self.add_help:
            self.add_argument(
                "--version",
                action="version",
                version=f"{self.prog.split()[0]} {VERSION}",
                help="print the version",
            )

    def error(self, message: str) -> NoReturn:
        """Print what is wrong on standard error, and exit with 2."""
        hint = self._suggest(message)
        sys.stderr.write(error_line(self.prog, f"{message}{hint}", sys.stderr) + "\n")
        sys.stderr.write(f"See {self.prog} --help\n")
        self.exit(USAGE)

    def _suggest(self, message: str) -> str:
        """Return the known option or command that is nearest to an unknown one, as a question."""
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice is not None:
            unknown, known = choice[1], re.findall(r"[\w-]+", choice[2])
        elif message.startswith("unrecognized arguments: "):
            unknown = message.removeprefix("unrecognized arguments: ").split()[0].partition("=")[0]
            visible = [each for each in self._iterate() if each.help is not argparse.SUPPRESS]
            known = sorted({option for action in visible for option in action.option_strings})
        else:
            return ""
        near = difflib.get_close_matches(unknown, known, n=1, cutoff=0.6)
        return f" (did you mean {near[0]}?)" if near else ""

    def _iterate(self) -> list[argparse.Action]:
        actions = list(self._actions)
        for action in self._actions:
            # argparse reports options that a subcommand does not know by the main parser.
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # no public name
                for parser in action.choices.values():
                    actions += parser._iterate()  # noqa: SLF001  # of this class
        return actions


class _HelpFormatter(argparse.HelpFormatter):
    """Keeps the lines of examples, and wraps all other text at the width of the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return text
        return super()._fill_text(text, width, indent)
