"""
Errors of child processes, with the command's exit status and standard error.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError

__all__ = ["CommandMissing", "CommandOutput", "OutputTooLarge", "ProcessFailed", "ProcessTimedOut"]


@frozen(kw_only=True)
class CommandOutput:
    """
    The exit status and standard error of a child process that failed.

    :param argv: the command as it was run.
    :param status: its exit status, ``None`` when a signal ended it, or when it could
        not be started.
    :param signal: the signal that ended it, if one did.
    :param stderr: the tail of its standard error, bounded, decoded and without
        terminal escapes.
    """

    argv: tuple[str, ...]
    status: int | None = None
    signal: int | None = None
    stderr: str = ""

    def describe(self) -> str:
        """Describe in one line how the command ended."""
        if self.signal is not None:
            return f"{self.argv[0]} was ended by signal {self.signal}"
        if self.status is None:
            return f"{self.argv[0]} did not start"
        return f"{self.argv[0]} exited with status {self.status}"


@frozen(kw_only=True)
class CommandMissing(NixeryError):
    """A program is not on PATH."""

    command: str

    @property
    def message(self) -> str:
        return f"{self.command} was not found on PATH: install it or extend PATH"


@frozen(kw_only=True)
class ProcessFailed(NixeryError):
    """A child ended with a signal or a status other than 0, or could not be started."""

    output: CommandOutput

    @property
    def message(self) -> str:
        return f"{self.output.describe()}: {self.output.stderr.strip() or 'it printed nothing'}"


@frozen(kw_only=True)
class ProcessTimedOut(NixeryError):
    """A child was stopped at its deadline, ``seconds`` after its start."""

    output: CommandOutput
    seconds: float

    @property
    def message(self) -> str:
        return f"{self.output.argv[0]} was stopped after {self.seconds:g} s"


@frozen(kw_only=True)
class OutputTooLarge(NixeryError):
    """A child was stopped because it printed more than ``limit`` bytes."""

    output: CommandOutput
    limit: int

    @property
    def message(self) -> str:
        return f"{self.output.argv[0]} was stopped: it printed more than {self.limit} bytes"
