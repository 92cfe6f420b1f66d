"""
Convert failures of Nix commands into typed errors.

Nix's exit statuses say little, and less in newer versions, so its messages have to be
parsed.  The messages are those of 2.3 to 2.36 and of Lix; where they differ, the older
one comes first.  All functions are pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import evolve

from nixery.errors import NixeryError
from nixery.nix.arguments import NixSettings
from nixery.nix.errors import (
    BuildFailed,
    BuildTimedOut,
    MissingDerivations,
    NixDiskFull,
    NixMisconfigured,
    NixUnusable,
    NotSubstitutable,
    WrongSystem,
)
from nixery.nix.internal_json import BuildLog
from nixery.process.errors import CommandMissing, CommandOutput, ProcessFailed, ProcessTimedOut

__all__ = [
    "INSTALL",
    "build_deadline_passed",
    "build_failure",
    "command_missing",
    "error_text",
    "nix_at_fault",
    "unusable",
]

INSTALL = "install Nix 2.18 or later"

# -- messages -----------------------------------------------------------------

_DRV = r"(?P<drv>/nix/store/[^'\s!]+\.drv)"
_DERIVATION = re.compile(_DRV)
_MISSING = re.compile(
    r"cannot build missing derivation|failed to obtain derivation"
    r"|path '[^']+\.drv' (?:does not exist and cannot be created|is not valid)"
    r"|opening file '[^']+\.drv': No such file"
)
_WRONG_SYSTEM = (
    re.compile(
        r"a '(?P<required>[^']+)' with features \{(?P<wants>[^}]*)\} is required to build"
        rf" '{_DRV}', but I am a '(?P<available>[^']+)'"
    ),
    re.compile(
        rf"Cannot build '{_DRV}'\.(?s:.*?)Required system: '(?P<required>[^']+)'"
        r"(?: with features \{(?P<wants>[^}]*)\})?(?s:.*?)Current system: '(?P<available>[^']+)'"
    ),
)
_TIMED_OUT = re.compile(r"timed out after \d+ seconds(?P<silent> of silence)?")
_FAILED = (
    re.compile(rf"builder for '{_DRV}' failed"),
    re.compile(rf"hash mismatch in fixed-output derivation '{_DRV}'"),
    re.compile(rf"Cannot build '{_DRV}'\.\s+Reason: (?!\d+ dependenc)"),
    re.compile(rf"output '[^']+' of '{_DRV}'"),
    re.compile(rf"derivation '{_DRV}' (?:failed|produced|may not)"),
    re.compile(rf"(?:building|build) of '{_DRV}"),
)
_BUILD_STATUS = range(100, 108)
_BUILD_TEXT = re.compile(
    r"unable to start any build|unable to download|some substitutes failed"
    r"|build of '.*' failed|dependenc(?:y|ies) (?:of derivation .*)?failed"
)
_NO_BUILDS = re.compile(r"unable to start any build|local builds are disabled", re.IGNORECASE)
_STORE_NAME = re.compile(r"/nix/store/[^-]+-(?P<name>.+)\.drv")
_QUOTED_LOG = re.compile(r"^\s*> ?(.*)$", re.MULTILINE)

_TOO_OLD = re.compile(r"This version of Nixpkgs requires[^\n]*")
_NIX_AT_FAULT = re.compile(
    r"cannot connect to (?:socket|daemon)|cannot open connection to remote store"
    r"|opening lock file|creating (?:directory|file) '/nix[/']|database disk image is malformed"
    r"|attempt to write a readonly database|executing SQLite|opening database|SQLite database"
    r"|No space left on device|Disk quota exceeded|database or disk is full"
    r"|Too many open files|Read-only file system"
    r"|cannot allocate memory|group '[^']*' specified in 'build-users-group'"
    r"|unrecognised (?:option|flag)|is not allowed to connect to the Nix daemon",
    re.IGNORECASE,
)
_DISK_FULL = re.compile(
    r"No space left on device|Disk quota exceeded|database or disk is full", re.IGNORECASE
)
_MISCONFIGURED = re.compile(
    r"creating (?:directory|file) '/nix(?:/[^']*)?': Permission denied|Read-only file system"
    r"|attempt to write a readonly database|group '[^']*' specified in 'build-users-group'"
    r"|unrecognised (?:option|flag)|is not allowed to connect to the Nix daemon",
    re.IGNORECASE,
)
_OUT_OF_MEMORY = re.compile(r"out of memory|std::bad_alloc", re.IGNORECASE)
_ERROR = re.compile(r"^[ \t]*error:[ \t]*(?=\S)", re.MULTILINE)
_LOCATION = re.compile(r"^\s+at .+:\d+(?::\d+)?:?$|^\s*\d*\|.*$|^\(use '--show-trace'.*$")
MAX_TEXT_CHARACTERS = 1500
"""The most characters of Nix's text that are shown to a user."""


def command_missing(error: CommandMissing) -> NixUnusable:
    """Return the error for a machine without Nix."""
    return NixUnusable(reason=f"{error.message}; {INSTALL}")


# -- evaluation ---------------------------------------------------------------


def error_text(stderr: str, settings: NixSettings) -> str:
    """
    Return the reason of a failed evaluation: Nix's last error, without source locations.

    Nix prints the trace that led to an error before it (newer versions) and the
    place in the source behind it (all versions).
    """
    if _OUT_OF_MEMORY.search(stderr):
        mebibytes = settings.max_eval_memory // 1024**2
        return f"it needs more than {mebibytes} MiB of memory; max_eval_memory sets the limit"
    starts = list(_ERROR.finditer(stderr))
    text = stderr[starts[-1].end() :] if starts else stderr
    lines: list[str] = []
    for line in text.splitlines():
        if _LOCATION.match(line):
            break
        if line.strip():
            lines.append(line.strip())
    return "\n".join(lines)[:MAX_TEXT_CHARACTERS] or "Nix did not say why"


def nix_at_fault(failure: ProcessFailed) -> NixUnusable | None:
    """Return the error if Nix itself failed, and not the evaluated or built code."""
    stderr = failure.output.stderr
    too_old = _TOO_OLD.search(stderr)
    if too_old:
        return NixMisconfigured(
            reason=f"the package set refuses it as too old ({too_old[0].strip()}): {INSTALL}",
            output=failure.output,
        )
    fault = _NIX_AT_FAULT.search(stderr)
    if fault:
        start = stderr.rfind("\n", 0, fault.start()) + 1
        line = stderr[start:].split("\n", 1)[0].strip()
        return _fault_of(line)(reason=line.removeprefix("error:").strip(), output=failure.output)
    return None


def _fault_of(line: str) -> type[NixUnusable]:
    if _DISK_FULL.search(line):
        return NixDiskFull
    return NixMisconfigured if _MISCONFIGURED.search(line) else NixUnusable


def unusable(failure: ProcessFailed) -> NixUnusable:
    """Return the error for a failed command that fails only if Nix does not work."""
    fault = nix_at_fault(failure)
    if fault is not None:
        return fault
    message = failure.output.stderr.strip()[-MAX_TEXT_CHARACTERS:].removeprefix("error:").strip()
    return NixUnusable(reason=message or failure.output.describe(), output=failure.output)


# -- builds -------------------------------------------------------------------


def build_failure(failure: ProcessFailed, log: BuildLog, settings: NixSettings) -> NixeryError:
    """
    Return the error for a failed ``nix-build``.

    When several derivations fail, it names the one that failed first.
    """
    message = "\n".join(log.errors)
    output = evolve(failure.output, stderr=log.text())
    if _MISSING.search(message):
        return MissingDerivations(output=output)
    wrong = _first(_WRONG_SYSTEM, message)
    if wrong:
        return _wrong_system(wrong, output)
    timed_out = _TIMED_OUT.search(message)
    if timed_out or output.status == 101:
        return _timed_out(log, output, settings, silent=bool(timed_out and timed_out["silent"]))
    if settings.substitute_only and _NO_BUILDS.search(message):
        return _not_substitutable(log, output)
    fault = nix_at_fault(ProcessFailed(output=evolve(output, stderr=message)))
    failed = _first(_FAILED, message)
    if output.status in _BUILD_STATUS or failed or _BUILD_TEXT.search(message):
        # A full disk of this machine makes builders fail too; Nix reports it in its own
        # words only when Nix itself could not write.
        if fault and not failed:
            return fault
        derivation = failed["drv"] if failed else ""
        return BuildFailed(derivation=derivation, log=_log_of(derivation, log), output=output)
    if fault:
        return evolve(fault, output=output)
    return NixUnusable(reason=message[-MAX_TEXT_CHARACTERS:] or output.describe(), output=output)


def build_deadline_passed(
    failure: ProcessTimedOut, log: BuildLog, settings: NixSettings
) -> BuildTimedOut:
    """Return the error for builds of an image that together took too long."""
    unfinished = log.unfinished()
    derivation = unfinished[0] if unfinished else ""
    return BuildTimedOut(
        derivation=derivation,
        seconds=settings.build_deadline,
        setting="build_deadline",
        log=_log_of(derivation, log),
        output=evolve(failure.output, stderr=log.text()),
    )


def _not_substitutable(log: BuildLog, output: CommandOutput) -> NotSubstitutable:
    # Dependencies come first and the requested derivations last: name the last ones.
    named = [match["name"] for path in log.planned if (match := _STORE_NAME.fullmatch(path))]
    return NotSubstitutable(
        derivation=log.planned[-1] if log.planned else "",
        # The warnings may be of unreachable caches, which would explain missing paths.
        log=tuple(_lines(log.warnings))[-3:],
        output=output,
        missing=tuple(reversed(named))[:3],
        count=log.planned_count,
    )


def _wrong_system(match: re.Match[str], output: CommandOutput) -> WrongSystem:
    required, wants = match["required"], (match["wants"] or "").strip()
    # The system can be the same, without a required feature, such as kvm.
    return WrongSystem(
        derivation=match["drv"],
        required=f"{required} (with {wants})" if wants else required,
        available=match["available"],
        output=output,
    )


def _timed_out(
    log: BuildLog, output: CommandOutput, settings: NixSettings, *, silent: bool
) -> BuildTimedOut:
    found = next(
        (
            match
            for message in log.errors
            if _TIMED_OUT.search(message) and (match := _DERIVATION.search(message))
        ),
        None,
    )
    derivation = found["drv"] if found else ""
    return BuildTimedOut(
        derivation=derivation,
        seconds=settings.max_silent if silent else settings.timeout,
        setting="nix_max_silent" if silent else "NIX_TIMEOUT",
        log=_log_of(derivation, log),
        output=output,
        silent=silent,
    )


def _log_of(derivation: str, log: BuildLog) -> tuple[str, ...]:
    """
    Return the last lines of a build's log, or Nix's warnings and errors if there is none.

    A download that fails inside Nix has no log; its warnings and errors have the reason.
    """
    errors = "\n".join(log.errors)
    tail = log.tail(derivation) or tuple(_QUOTED_LOG.findall(errors))
    hash_mismatch = [text for text in log.errors if "hash mismatch" in text]
    if tail and not hash_mismatch:
        return tail
    return (*tail, *_lines([*log.warnings, *log.errors]))[-20:]


def _lines(messages: Iterable[str]) -> list[str]:
    return [line for message in messages for line in message.splitlines() if line.strip()]


def _first(patterns: Iterable[re.Pattern[str]], text: str) -> re.Match[str] | None:
    """Return the earliest match of any pattern; of matches at one place, the first pattern's."""
    matches = [match for pattern in patterns if (match := pattern.search(text))]
    return min(matches, key=lambda match: match.start(), default=None)
