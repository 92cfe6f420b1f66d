"""The parser of a command's arguments: a version for every command, and errors before help."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from typing import Any, NoReturn, TextIO

from nixery.version import VERSION

__all__ = ["CommandParser", "error_line"]

USAGE = 2


class CommandParser(argparse.ArgumentParser):
    """
    A parser that takes ``--version``, and prints an error alone, in one line with what to do.

    Subcommands get parsers of this class too.
    """

    # Any: argparse has a dozen parameters, which pass through.
    def __init__(self, **details: Any) -> None:
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
        """Return the known option that is nearest to an unknown one, as a question."""
        if not message.startswith("unrecognized arguments: "):
            return ""
        unknown = message.removeprefix("unrecognized arguments: ").split()[0].partition("=")[0]
        visible = [action for action in self._iterate() if action.help is not argparse.SUPPRESS]
        options = {option for action in visible for option in action.option_strings}
        near = difflib.get_close_matches(unknown, sorted(options), n=1, cutoff=0.7)
        return f" (did you mean {near[0]}?)" if near else ""

    def _iterate(self) -> list[argparse.Action]:
        actions = list(self._actions)
        for action in self._actions:
            # argparse reports options that a subcommand does not know by the main parser.
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # no public name
                for parser in action.choices.values():
                    actions += parser._iterate()  # noqa: SLF001  # of this class
        return actions


def error_line(command: str, text: str, stream: TextIO) -> str:
    """Return an error as it is printed: the command in red where a person reads it."""
    coloured = stream.isatty() and not os.environ.get("NO_COLOR")
    return f"\x1b[31m{command}:\x1b[0m {text}" if coloured else f"{command}: {text}"
