"""
Convert failures of git commands, and tell the operator the way out.

git has one exit status for all failures, so its messages have to be parsed.  All functions are
pure.
"""

from __future__ import annotations

import re

from attrs import evolve

from nixery.process.errors import OutputTooLarge, ProcessFailed, ProcessTimedOut
from nixery.sources.errors import SourceUnavailable

__all__ = ["advice_on", "git_failure", "git_reason"]

_DENIED = re.compile(
    # git over HTTP, with libcurl's netrc and credential helpers
    r"could not read (?:Username|Password) for|terminal prompts disabled|Authentication failed for"
    r"|requested URL returned error: 40[13]\b"
    # ssh
    r"|Permission denied \((?:publickey|keyboard-interactive|password)"
    # git-lfs
    r"|Authorization error: |Authentication required|Git credentials for .* not found"
)

_UNKNOWN_HOST_KEY = re.compile(r"Host key verification failed")

_CREDENTIALS_ADVICE = (
    "give the registry an SSH key, or a token in ~/.netrc, for it: see Private repositories in the"
    " documentation"
)

_HOST_KEY_ADVICE = (
    "put the host's key, which ssh-keyscan prints, into ~/.ssh/known_hosts of the user that the"
    " registry runs as"
)

MAX_REASON_CHARACTERS = 300
"""The most characters of git's text that are shown to a user."""


def advice_on(stderr: str) -> str | None:
    """Return what to do where the host refused; ``None``: it did not, and a retry may succeed."""
    if _UNKNOWN_HOST_KEY.search(stderr):
        return _HOST_KEY_ADVICE
    return _CREDENTIALS_ADVICE if _DENIED.search(stderr) else None


def git_failure(
    error: ProcessFailed | ProcessTimedOut | OutputTooLarge, *, source: str, what: str
) -> SourceUnavailable:
    """
    Return the error for a git command that failed.

    :param source: a description of the repository.
    :param what: a description of the thing that was asked for.
    """
    stderr = error.output.stderr
    advice = None
    reason = error.message
    if isinstance(error, ProcessFailed):
        advice = advice_on(stderr)
        reason = git_reason(stderr) or error.output.describe()
    failure = SourceUnavailable(source=source, what=what, reason=reason, output=error.output)
    return failure if advice is None else evolve(failure, advice=advice)


def git_reason(stderr: str) -> str:
    """Return the first two error lines that git printed, which usually have the reason."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    # The lines after the reason are advice for people at a terminal.
    reasons = [line for line in lines if _REASON.match(line)] or lines
    return " ".join(reasons[:2])[:MAX_REASON_CHARACTERS]


_REASON = re.compile(
    r"fatal:|error(?: transferring|:)|ssh:|batch response:|.*: Permission denied \("
)
