"""Parses and reads the arguments of ``nixery-admin``: sizes, times, lists of images, passwords."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nixery.cli.errors import CommandRefused, WrongCall
from nixery.runtime.sizes import parse_size

__all__ = [
    "count_argument",
    "read_image_list",
    "read_password",
    "seconds_argument",
    "size_argument",
]


def read_image_list(path: str | None) -> list[str]:
    """
    Read names of images, one a line; ``#`` begins a comment.

    :param path: the file; ``-``: standard input; ``None``: there is none.
    :raises CommandRefused: the file cannot be read.
    """
    if path is None:
        return []
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandRefused(reason=f"cannot read {path}: {_describe(error)}") from error
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def read_password(path: str | None) -> str:
    """
    Read the password of the user from a file.

    :raises WrongCall: no file was given.
    :raises CommandRefused: it cannot be read.
    """
    if path is None:
        raise WrongCall(reason="give the password of --user with --password-file")
    try:
        return Path(path).read_text("utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandRefused(reason=f"cannot read {path}: {_describe(error)}") from error


def size_argument(text: str) -> int:
    """Parse a size, for argparse."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}: give one as 200GiB") from None


def seconds_argument(text: str) -> float:
    """Parse a number of seconds, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of seconds, 0 or more")
    return value


def count_argument(text: str) -> int:
    """Parse a number between 1 and 256, for argparse."""
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number between 1 and 256")
    return int(text)


def _describe(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
