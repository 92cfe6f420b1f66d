"""
Errors of the commands.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError
from nixery.image.errors import InvalidDigest, InvalidName, InvalidReference

__all__ = ["USAGE_ERRORS", "CommandRefused", "WrongCall", "describe_os_error"]


@frozen(kw_only=True)
class CommandRefused(NixeryError):
    """A command cannot do what was asked."""

    reason: str

    @property
    def message(self) -> str:
        return self.reason or "the command was refused"


@frozen(kw_only=True)
class WrongCall(CommandRefused):
    """A command was called wrongly."""


USAGE_ERRORS = (InvalidDigest, InvalidName, InvalidReference, WrongCall)
"""Errors of arguments, for which a command exits with 2."""


def describe_os_error(error: OSError) -> str:
    """Return an error of the operating system with its file, without its number."""
    text = error.strerror or str(error)
    return text if error.filename is None else f"{error.filename}: {text}"
