"""
Convert failures of ``nix-build`` into typed errors.

What was built is known from the events of :class:`nixery.nix.internal_json.BuildLog`: a build that
stopped without having been counted as done has failed, whatever any text says.  Texts only tell
failures of one kind apart, and only those texts count that no builder can have printed.  They
are those of Nix 2.3 to 2.36 and of Lix; where they differ, the older one comes first.  All
functions are pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import evolve

from nixery.errors import NixeryError
from nixery.nix.arguments import NixSettings
from nixery.nix.error_parsing import MAX_TEXT_CHARACTERS, fault_of
from nixery.nix.errors import (
    BuildFailed,
    BuildTimedOut,
    MissingDerivations,
    NixUnusable,
    NotSubstitutable,
    WrongSystem,
)
from nixery.nix.internal_json import BuildLog
from nixery.process.errors import CommandOutput, ProcessFailed, ProcessTimedOut

__all__ = ["build_deadline_passed", "build_failure"]

_DRV = r"(?P<drv>/nix/store/[^'\s!^]+\.drv)"
_DERIVATION = re.compile(_DRV)
_STORE_NAME = re.compile(r"/nix/store/[^-]+-(?P<name>.+)\.drv")

# All of these are matched against the beginning of a text: names and paths in it may be chosen
# by a package.
_MISSING = re.compile(
    r"(?:Cannot build '[^']+'\.\s+Reason: )?"
    r"(?:cannot build missing derivation|failed to obtain derivation of"
    r"|path '[^']+\.drv' (?:does not exist and cannot be created|is not valid)"
    r"|opening file '[^']+\.drv': No such file)"
)
_WRONG_SYSTEM = (
    re.compile(
        r"a '(?P<required>[^']+)' with features \{(?P<wants>[^}]*)\} is required to build"
        rf" '{_DRV}', but I am a '(?P<available>[^']+)'(?: with features \{{(?P<has>[^}}]*)\}})?"
    ),
    re.compile(
        rf"Cannot build '{_DRV}'\.(?s:.*?)Required system: '(?P<required>[^']+)'"
        r"(?: with features \{(?P<wants>[^}]*)\})?(?s:.*?)Current system: '(?P<available>[^']+)'"
        r"(?: with features \{(?P<has>[^}]*)\})?"
    ),
)
_TIMED_OUT = re.compile(
    r"building (?:of|derivation) '(?s:.*)timed out after \d+ seconds(?P<silent> of silence)?"
    r"|Cannot build '[^']+'\.\s+Reason: (?:[^\n]* )?timed out after \d+ seconds"
    r"(?P<newer_silent> of silence)?"
)
_FAILED = (
    re.compile(rf"builder for '{_DRV}' failed"),
    re.compile(rf"hash mismatch in fixed-output derivation '{_DRV}'"),
    re.compile(rf"Cannot build '{_DRV}'\.\s+Reason: (?!\d+ dependenc)"),
    re.compile(rf"output '[^']+' of '{_DRV}'"),
    re.compile(rf"derivation '{_DRV}' (?:failed|produced|may not)"),
    re.compile(rf"building (?:of|derivation) '{_DRV}"),
    re.compile(rf"cycle detected in build of '{_DRV}'"),
)
# Says which builds were asked for, and not which one has failed.
_ASKED_FOR = re.compile(rf"build of '{_DRV}")
_ELSEWHERE = re.compile(
    r"build of '|Build failed due to failed dependency|\d+ dependenc(?:y|ies) of derivation"
    r"|Cannot build '[^']+'\.\s+Reason: \d+ dependenc(?:y|ies) failed"
)
_BUILD_STATUS = range(100, 108)
_BUILD_TEXT = re.compile(
    r"unable to start any build|unable to download|some substitutes (?:for .*)?failed"
    r"|(?:build|building) of '.*' failed",
    re.IGNORECASE,
)
_NO_BUILDS = re.compile(r"unable to start any build|local builds are disabled", re.IGNORECASE)

# Which derivation failed is said before the reason.
_SAID_BEFORE = re.compile(rf"builder for '{_DRV}' (?=failed)")
_NEW_REASON = re.compile(
    rf"Cannot build '{_DRV}'\.\s+Reason: (?P<reason>(?s:.*?))(?:\s+Output paths:(?s:.*))?\Z"
)


def build_failure(failure: ProcessFailed, log: BuildLog, settings: NixSettings) -> NixeryError:
    """
    Return the error for a failed ``nix-build``.

    When several derivations fail, it names the one that failed first.
    """
    output = evolve(failure.output, stderr=log.text())
    own = log.own_errors
    failed = _failed_derivation(log)
    if any(_MISSING.match(text) for text in own):
        return MissingDerivations(output=output, builds=log.started_builds)
    # Builds that run are stopped when Nix fails: they are no evidence against its own word.
    wrong = _first(_WRONG_SYSTEM, own)
    if not wrong and not log.failed_derivations and any(map(_ELSEWHERE.match, own)):
        # Builders may have printed the same, but what Nix says comes last.
        wrong = _first(_WRONG_SYSTEM, reversed(log.reported_errors))
    if wrong:
        # Where nothing may be built, newer versions say that there is no builder.
        if settings.substitute_only:
            return _not_substitutable(log, output)
        return _wrong_system(wrong, output)
    timed_out = _timed_out(failed, log, output, settings)
    if timed_out is not None:
        return timed_out
    if settings.substitute_only and any(_NO_BUILDS.search(text) for text in own):
        return _not_substitutable(log, output)
    # A full disk of this machine makes builders fail too; Nix reports it in its own words only
    # when Nix itself could not write.
    for text in own:
        fault = fault_of(text, output)
        if fault is not None:
            return fault
    if (
        log.failed_derivations
        or failed
        or output.status in _BUILD_STATUS
        or any(_BUILD_TEXT.match(text) for text in own)
    ):
        return BuildFailed(
            derivation=failed,
            reason=_reason(failed, log),
            log=_log_of(failed, log),
            output=output,
        )
    reason = "\n".join(own)[-MAX_TEXT_CHARACTERS:]
    return NixUnusable(reason=reason or output.describe(), output=output)


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


def _failed_derivation(log: BuildLog) -> str:
    """Return the derivation that failed first, ``""`` if that is not known."""
    named = _first(_FAILED, log.own_errors)
    if named:
        return named["drv"]
    # Behind a daemon, only reported errors name one of several, or a dependency.  Builders may
    # have printed such errors too, but what Nix says comes last.
    for text in reversed(log.reported_errors):
        named = _first(_FAILED, [text])
        if named and log.may_have_failed(named["drv"]):
            return named["drv"]
    candidates = log.failed_derivations
    if len(candidates) > 1:
        # Nix may name an output, whose name begins like that of the derivation.
        for text in [*log.own_errors, *log.reported_errors]:
            for derivation in candidates:
                name = _STORE_NAME.fullmatch(derivation)
                if derivation in text or (name and f"-{name['name']}" in text):
                    return derivation
    if candidates:
        return candidates[0]
    asked_for = _first((_ASKED_FOR,), log.own_errors)
    return asked_for["drv"] if asked_for else ""


def _told_of(derivation: str, log: BuildLog) -> list[str]:
    """Return the errors that say why a build failed."""
    own = [text for text in log.own_errors if not _ELSEWHERE.match(text)]
    # As for its name, the last that was reported is Nix's own word.
    reported = [text for text in log.reported_errors if derivation and derivation in text]
    return own or reported[-1:] or list(log.own_errors)


def _reason(derivation: str, log: BuildLog) -> str:
    """Return in Nix's words why a build failed, without what the error says besides."""
    texts = _told_of(derivation, log)
    text = next((text for text in texts if derivation in text), texts[0] if texts else "")
    newer = _NEW_REASON.match(text)
    text = newer["reason"] if newer else _SAID_BEFORE.sub("builder ", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines)[:MAX_TEXT_CHARACTERS].removesuffix(".").removesuffix(";")


def _timed_out(
    derivation: str, log: BuildLog, output: CommandOutput, settings: NixSettings
) -> BuildTimedOut | None:
    """Return the error if Nix stopped a build at a limit."""
    match = _first((_TIMED_OUT,), _told_of(derivation, log))
    if match is None and output.status != 101:
        return None
    silent = bool(match and (match["silent"] or match["newer_silent"]))
    named = _DERIVATION.search(match[0]) if match else None
    derivation = named["drv"] if named else derivation
    return BuildTimedOut(
        derivation=derivation,
        seconds=settings.max_silent if silent else settings.timeout,
        setting="half of NIX_TIMEOUT" if silent else "NIX_TIMEOUT",
        log=_log_of(derivation, log),
        output=output,
        silent=silent,
    )


def _not_substitutable(log: BuildLog, output: CommandOutput) -> NotSubstitutable:
    # Dependencies come first and the requested derivations last: name the last ones.
    named = [match["name"] for path in log.planned if (match := _STORE_NAME.fullmatch(path))]
    return NotSubstitutable(
        derivation=log.planned[-1] if log.planned else "",
        # The warnings may be of unreachable caches, which would explain missing paths.
        log=tuple(_lines(log.notes))[-3:],
        output=output,
        missing=tuple(reversed(named))[:3],
        count=log.planned_count,
    )


def _wrong_system(match: re.Match[str], output: CommandOutput) -> WrongSystem:
    required, wants = match["required"], (match["wants"] or "").strip()
    features: tuple[str, ...] = ()
    if required == match["available"]:
        # The system is the same, but it lacks a required feature, such as kvm.
        has = (match["has"] or "").split(", ")
        features = tuple(each for each in wants.split(", ") if each and each not in has)
    return WrongSystem(
        derivation=match["drv"],
        required=f"{required} (with {wants})" if wants else required,
        available=match["available"],
        features=features,
        output=output,
    )


def _log_of(derivation: str, log: BuildLog) -> tuple[str, ...]:
    """
    Return the last lines of a build's log, or Nix's warnings if there is none.

    A download that fails inside Nix has no log; its warnings have the reason.
    """
    return log.tail(derivation) or tuple(_lines(log.notes))[-20:]


def _lines(messages: Iterable[str]) -> list[str]:
    return [line for message in messages for line in message.splitlines() if line.strip()]


def _first(patterns: Iterable[re.Pattern[str]], texts: Iterable[str]) -> re.Match[str] | None:
    """Return the match of any pattern at the beginning of a text, in the order of the texts."""
    patterns = tuple(patterns)
    return next(
        (match for text in texts for pattern in patterns if (match := pattern.match(text))), None
    )
