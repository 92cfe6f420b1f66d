"""
Convert failures of Nix commands into typed errors.

Nix's exit statuses say little, and less in newer versions, so its messages have to be
parsed.  The messages are those of 2.3 to 2.36 and of Lix; where they differ, the older
one comes first.  All functions are pure.  Failures of builds are :mod:`nixery.nix.build_errors`.
"""

from __future__ import annotations

import re

from nixery.nix.arguments import NixSettings
from nixery.nix.errors import FlakeRefused, NixDiskFull, NixMisconfigured, NixUnusable
from nixery.process.errors import CommandMissing, CommandOutput, ProcessFailed

__all__ = [
    "INSTALL",
    "MAX_TEXT_CHARACTERS",
    "command_missing",
    "advised",
    "error_text",
    "fetch_forbidden",
    "fault_of",
    "flake_refusal",
    "input_of",
    "memory_exceeded",
    "nix_at_fault",
    "too_old",
    "unanswered_url",
    "unusable",
]

INSTALL = "install Nix 2.18 or later"

_TOO_OLD = re.compile(
    r"evaluation aborted with the following error message: '\s*"
    r"(?P<text>This version of Nixpkgs requires[^\n]*)"
)
_NOT_LOCKED = re.compile(
    r"cannot update (?:unlocked )?flake input '(?P<input>[^']*)' in pure mode"
    r"|requires lock file changes but they're not allowed"
    r"|cannot write modified lock file of flake"
    r"|the inputs of flake\.nix and those of flake\.lock differ"
    r"|lock ?file contains (?:mutable|unlocked) "
)
# By fetch_flake.nix, of which newer versions show the line as well, with the name's variable.
_INPUT = re.compile(r"while fetching the input '([^'$\n]*)' of the flake")
_NO_FLAKE = re.compile(
    r"/flake\.nix'?(?: does not exist|: No such file or directory)|there is no flake\.nix"
)
# Names and paths in a message may be chosen by a package: only the beginning and the end count.
_NIX_AT_FAULT = re.compile(
    r"cannot connect to (?:socket|daemon)|cannot open connection to remote store"
    r"|opening lock file|creating (?:directory|file) '/nix[/']|database disk image is malformed"
    r"|attempt to write a readonly database|opening database"
    r"|(?:cannot open |executing |preparing |creating )?SQLite "
    r"|database or disk is full|(?:the )?group '[^']*' specified in 'build-users-group'"
    r"|unrecognised (?:option|flag)"
    r"|(?s:.*)(?:No space left on device|Disk quota exceeded|Too many open files"
    r"|Read-only file system|cannot allocate memory"
    r"|is not allowed to connect to the Nix daemon)\.?\Z",
    re.IGNORECASE,
)
_DISK_FULL = re.compile(
    r"(?s:.*)(?:No space left on device|Disk quota exceeded)\.?\Z|(?s:.*)database or disk is full",
    re.IGNORECASE,
)
_MISCONFIGURED = re.compile(
    r"creating (?:directory|file) '/nix(?:/[^']*)?': Permission denied"
    r"|(?s:.*)(?:Read-only file system|is not allowed to connect to the Nix daemon)\.?\Z"
    r"|(?s:.*)attempt to write a readonly database"
    r"|(?:the )?group '[^']*' specified in 'build-users-group'|unrecognised (?:option|flag)",
    re.IGNORECASE,
)
# `fetchTree` belongs to a feature, and newer versions do not have it without that.
_FETCH_FORBIDDEN = re.compile(
    r"access to URI '.*' is forbidden in restricted mode"
    r"|experimental Nix feature '(?:flakes|fetch-tree)' is disabled"
    r"|attribute '(?:fetchTree|getFlake)' missing",
    re.DOTALL,
)
_PATH_FORBIDDEN = re.compile(
    r"access to (?:absolute )?path '(?P<path>[^\n]*)' is forbidden in restricted mode\Z"
)
_NOT_IN_SEARCH_PATH = re.compile(
    r"file '(?P<name>[^\n']*)' was not found in the Nix search path \(add it [^\n]*\)"
)
_NO_ANSWER = re.compile(
    r"(?:Failed to open archive \(Source threw exception: error: )?"
    r"unable to download '(?P<url>[^\n']*)': (?!HTTP error 4)"
)
_USER_INFO = re.compile(r"(?<=://)[^/@\s']+@")
_OUR_ABORT = re.compile(
    r"evaluation aborted with the following error message: '(?:nixery: )(?P<text>.*)'\Z", re.DOTALL
)
_OUT_OF_MEMORY = re.compile(r"^error: (?:out of memory|std::bad_alloc)$", re.MULTILINE)
_ERROR = re.compile(r"^[ \t]*error:[ \t]*(?=\S)", re.MULTILINE)
_LOCATION = re.compile(r"^\s+at .+:\d+(?::\d+)?:?$|^\s*\d*\|.*$|^\(use '--show-trace'.*$")
MAX_TEXT_CHARACTERS = 1500
"""The most characters of Nix's text that are shown to a user."""


def command_missing(error: CommandMissing) -> NixUnusable:
    """Return the error for a machine without Nix."""
    return NixUnusable(reason=f"{error.message}; {INSTALL}")


# -- evaluation ---------------------------------------------------------------


def memory_exceeded(settings: NixSettings) -> str:
    """Return the reason for an evaluation that ran out of the memory that it may use."""
    mebibytes = settings.max_eval_memory // 1024**2
    return f"it needs more than {mebibytes} MiB of memory; max_eval_memory sets the limit"


def error_text(stderr: str, settings: NixSettings) -> str:
    """
    Return the reason of a failed evaluation: Nix's last error, without source locations.

    Nix prints the trace that led to an error before it (newer versions) and the
    place in the source behind it (all versions).
    """
    if _OUT_OF_MEMORY.search(stderr):
        return memory_exceeded(settings)
    starts = list(_ERROR.finditer(stderr))
    text = stderr[starts[-1].end() :] if starts else stderr
    lines: list[str] = []
    for line in text.splitlines():
        if _LOCATION.match(line):
            break
        if line.strip():
            lines.append(line.strip())
    return "\n".join(lines)[:MAX_TEXT_CHARACTERS] or "Nix did not say why"


def fetch_forbidden(text: str) -> bool:
    """Return true if ``text``, one whole error of Nix's, says that nothing may be fetched."""
    return _FETCH_FORBIDDEN.match(text) is not None


def unanswered_url(text: str) -> str | None:
    """Return the URL if ``text``, one whole error of Nix's, says that its host gave no answer."""
    match = _NO_ANSWER.match(text)
    return None if match is None else match["url"]


def advised(text: str) -> str:
    """
    Return an error of Nix's with what to do about it, where a setting of ours is for that.

    A package may throw the same text, and is then advised as well.  Passwords in URLs, which
    package sets may fetch, are left out.
    """
    text = _USER_INFO.sub("", text)
    if match := _OUR_ABORT.match(text):
        return match["text"]
    if text.startswith("access to URI '") and _FETCH_FORBIDDEN.fullmatch(text):
        return (
            f"{text}: an evaluation fetches by HTTP, SSH and git alone, and reads archives of this"
            " machine, but no repositories, where extra_paths allows it"
        )
    if match := _PATH_FORBIDDEN.match(text):
        return (
            f"{text}: an evaluation reads {match['path']} only if it is in the package set, below"
            " one of extra_paths, or in an entry of nix_path"
        )
    if match := _NOT_IN_SEARCH_PATH.match(text):
        name = match["name"].partition("/")[0]
        return (
            f"{text[: match.end()]}: <{name}> means what nix_path says of {name}, and never what"
            " NIX_PATH of the machine says"
        )
    return text


def too_old(text: str, output: CommandOutput) -> NixMisconfigured | None:
    """Return the error if the package set refuses this version of Nix; ``text`` is its error."""
    match = _TOO_OLD.search(text)
    if match is None:
        return None
    return NixMisconfigured(
        reason=f"the package set refuses it as too old ({match['text'].strip()}): {INSTALL}",
        output=output,
    )


def input_of(stderr: str) -> str | None:
    """Return the name of the input of a flake that could not be fetched, by Nix's trace."""
    names = _INPUT.findall(stderr)
    return names[-1] if names else None


def flake_refusal(text: str, output: CommandOutput) -> FlakeRefused | None:
    """Return the error if ``text``, Nix's, says that a flake is none, or is not locked."""
    match = _NOT_LOCKED.search(text)
    if match is not None:
        inputs = f" (it does not name {match['input']})" if match["input"] else ""
        return FlakeRefused(
            reason=f"its flake.lock is missing, or does not fit its flake.nix{inputs}",
            advice="run nix flake lock there, with a version of Nix as the registry's, and commit"
            " flake.lock; or let inputs move with allow_unlocked_flake",
            output=output,
        )
    if _NO_FLAKE.search(text):
        return FlakeRefused(
            reason="there is no flake.nix",
            advice="name its directory in the URL of the setting flake, as ?dir=packages",
            output=output,
        )
    return None


# -- faults of Nix --------------------------------------------------------------


def fault_of(text: str, output: CommandOutput) -> NixUnusable | None:
    """Return the error if ``text``, one whole error of Nix's, says that Nix itself failed."""
    if not _NIX_AT_FAULT.match(text):
        return None
    kind = NixUnusable
    if _DISK_FULL.match(text):
        kind = NixDiskFull
    elif _MISCONFIGURED.match(text):
        kind = NixMisconfigured
    return kind(reason=text, output=output)


def nix_at_fault(failure: ProcessFailed) -> NixUnusable | None:
    """
    Return the error if Nix itself failed, or is refused as too old.

    Only for commands that print no texts of packages, or packages that the operator trusts.
    """
    refused = too_old(failure.output.stderr, failure.output)
    if refused is not None:
        return refused
    for line in failure.output.stderr.splitlines():
        text = line.strip().removeprefix("error:").strip()
        fault = fault_of(text, failure.output)
        if fault is not None:
            return fault
    return None


def unusable(failure: ProcessFailed) -> NixUnusable:
    """Return the error for a failed command that fails only if Nix does not work."""
    fault = nix_at_fault(failure)
    if fault is not None:
        return fault
    message = failure.output.stderr.strip()[-MAX_TEXT_CHARACTERS:].removeprefix("error:").strip()
    return NixUnusable(reason=message or failure.output.describe(), output=failure.output)
