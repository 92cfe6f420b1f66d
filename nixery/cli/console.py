"""Prints what commands tell beside their results, in colour where a person reads it."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from tqdm import tqdm

__all__ = ["error_line", "heading", "is_coloured", "print_note", "print_warning"]

_RED, _YELLOW, _BOLD, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[1m", "\x1b[0m"


def is_coloured(stream: TextIO) -> bool:
    """Tell whether a stream gets colours: it is a terminal that has them, and nobody objects."""
    environ = os.environ
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def heading(text: str, stream: TextIO) -> str:
    """Return the heading of a table as it is printed on a stream."""
    return _painted(_BOLD, text, stream)


def error_line(command: str, text: str, stream: TextIO) -> str:
    """Return an error as it is printed on a stream."""
    return f"{command}: {_painted(_RED, 'error:', stream)} {text}"


def print_warning(command: str, text: str) -> None:
    """Print a warning on standard error."""
    print_note(f"{command}: {_painted(_YELLOW, 'warning:', sys.stderr)} {text}")


def print_note(text: str) -> None:
    """Print a line on standard error, above a bar that is shown there."""
    tqdm.write(text, file=sys.stderr)


def _painted(colour: str, text: str, stream: TextIO) -> str:
    return f"{colour}{text}{_PLAIN}" if is_coloured(stream) else text
