"""
The tree of typed errors.

Every failure that a person may read is a type here, with the facts as fields and one sentence or
more that says what happened and what to do (:attr:`NixeryError.message`). The types know nothing of
HTTP: one module decides the status of each failure, ``nixery.http.error_responses``.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import asdict, field, frozen

__all__ = ["NixeryError", "ShuttingDown", "StorageError", "UnexpectedOutput", "UnusableFile"]


class NixeryError(Exception):
    """The root of the tree: a failure that says what to do about it."""

    @property
    def message(self) -> str:
        """The text for users: complete sentences, without markup."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.message


# -- configuration ------------------------------------------------------------


@frozen(kw_only=True)
class UnusableFile(NixeryError):
    """
    The base of errors of files and directories that the configuration names.

    A subclass says which one cannot be used (``problem``), and what to do (``advice``); both may
    have its fields in braces.

    :param path: the file.
    :param reason: why it cannot be used.
    """

    problem: ClassVar[str]
    advice: ClassVar[str] = ""
    path: str
    reason: str

    @property
    def message(self) -> str:
        template = f"{self.problem}: {{reason}}" + (f"; {self.advice}" if self.advice else "")
        return template.format_map(asdict(self))


# -- Nix ----------------------------------------------------------------------


@frozen(kw_only=True)
class UnexpectedOutput(NixeryError):
    """A child process succeeded, but its output cannot be understood."""

    what: str
    excerpt: str = field(repr=False)

    @property
    def message(self) -> str:
        return f"{self.what} was not understood: {self.excerpt[:200]!r}"


# -- images -------------------------------------------------------------------


@frozen(kw_only=True)
class ShuttingDown(NixeryError):
    """The daemon is stopping and takes no new builds."""

    @property
    def message(self) -> str:
        return "the registry is shutting down: try again in a moment"


# -- storage ------------------------------------------------------------------


@frozen(kw_only=True)
class StorageError(NixeryError):
    """
    The storage failed.

    :param operation: the operation that failed, as a verb phrase.
    :param reason: the operating system's or the service's own words.
    """

    operation: str
    reason: str

    @property
    def message(self) -> str:
        return f"storage failed to {self.operation}: {self.reason}"
