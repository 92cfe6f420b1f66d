"""
Parse the standard error of ``nix-build --log-format internal-json``.

An event is a line of ``@nix`` and a JSON object: activities start, have results and stop;
messages belong to no activity.  The numbers of activities and results are those of Nix's
``logging.hh``, the same from 2.3 to 2.36; unknown ones are ignored.  A large download
prints hundreds of thousands of lines, so most of the lines that are not needed are skipped
by a search in their bytes, before any decoding.

What builders print is data.  A builder can have Nix print messages: Nix passes on lines of a
builder that look like its own messages, and its daemon quotes the log in errors.  So errors are
kept apart by what they prove: :attr:`BuildLog.own_errors` cannot come from a builder.  Nix lets
no builder start or stop a build or a download of a store path, or count one as done, so these
events are evidence too.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from attrs import define, field

from nixery.artifacts.provenance import MAX_LISTED_BUILDS, Origins
from nixery.nix.progress import Phase, Progress
from nixery.runtime.terminal import plain_text
from nixery.sources.git_urls import public_url

__all__ = ["FILE_TRANSFER", "LOG_LINE", "QUOTED_LOG", "BuildLog"]

FILE_TRANSFER = 101
COPY_PATHS = 103
BUILDS = 104
BUILD = 105
SUBSTITUTE = 108

LOG_LINE = 101
SET_PHASE = 104
PROGRESS = 105
SET_EXPECTED = 106

MAX_LOG_LINES = 20
"""The number of last lines of each build's log that are kept."""

MAX_LOGGED_BUILDS = 64
"""The most builds whose logs are kept: Nix names the failing one after its end."""

MAX_PHASE_CHARACTERS = 40
"""The most characters of the name of a builder's phase."""

MAX_LINE_CHARACTERS = 2000
"""The most characters of a line of a log; longer lines are cut, and end with an ellipsis."""

MAX_MESSAGES = 50
"""The most messages of Nix that are kept."""

MAX_PLANNED_DERIVATIONS = 10
"""The most derivations that are kept of those that Nix will build."""

_PREFIX = b"@nix "

# Events without any of these are skipped; a line that contains one by chance is decoded
# and then ignored.
_STARTS = tuple(
    b'"type":%d' % kind for kind in (FILE_TRANSFER, COPY_PATHS, BUILDS, BUILD, SUBSTITUTE)
)
_RESULTS = tuple(b'"type":%d' % kind for kind in (LOG_LINE, SET_PHASE, PROGRESS, SET_EXPECTED))
# Errors, warnings, and derivations that will be built.
_MESSAGES = (b'"level":0', b'"level":1', b'.drv"}')
_PLANNED = re.compile(r"\s*(/nix/store/\S+\.drv)")

QUOTED_LOG = re.compile(r"^[ \t]*[Ll]ast \d+ log lines:$.*\Z", re.MULTILINE | re.DOTALL)
"""The end of a log that Nix's daemon quotes in an error, and the advice that follows it."""

Event = Mapping[str, Any]
"""The JSON of an event; its structure is checked by using it."""


@define(kw_only=True, eq=False)
class _Downloads:
    """Sums the bytes of all transfers, those that have ended included."""

    _ended: int = 0
    _current: dict[int, int] = field(factory=dict)
    _expected: dict[int, int] = field(factory=dict)

    def set_done(self, activity: int, done: int) -> None:
        self._current[activity] = done

    def stop(self, activity: int) -> None:
        self._ended += self._current.pop(activity, 0)

    def set_expected(self, activity: int, size: int) -> None:
        """Set the expected bytes of ``activity``, which starts transfers and is not one itself."""
        self._expected[activity] = size

    @property
    def done(self) -> int:
        return self._ended + sum(self._current.values())

    @property
    def expected(self) -> int:
        # Announced and counted sizes of compressed files differ: ``done`` may be the larger one.
        return max(self.done, sum(self._expected.values()))


@define(kw_only=True, eq=False)
class BuildLog:
    """
    Parses the lines of one ``nix-build``.

    :param progress: gets the progress of the build.
    :ivar own_errors: errors that only Nix itself can have printed, without the log lines that it
        quotes, oldest first.
    :ivar reported_errors: errors that a Nix daemon or a builder has printed while builds ran, in
        the same form.
    :ivar notes: other text on the level of errors and warnings, oldest first: warnings, and lines
        that are not events.
    :ivar planned: derivations that Nix said it would build, the last ones.
    :ivar planned_count: the number of derivations that it said it would build.
    :ivar started_builds: the number of builds that have begun.
    """

    progress: Progress
    own_errors: deque[str] = field(init=False, factory=lambda: deque(maxlen=MAX_MESSAGES))
    reported_errors: deque[str] = field(init=False, factory=lambda: deque(maxlen=MAX_MESSAGES))
    notes: deque[str] = field(init=False, factory=lambda: deque(maxlen=MAX_MESSAGES))
    started_builds: int = field(init=False, default=0)
    _messages: deque[str] = field(init=False, factory=lambda: deque(maxlen=MAX_MESSAGES))
    planned: deque[str] = field(init=False, factory=lambda: deque(maxlen=MAX_PLANNED_DERIVATIONS))
    planned_count: int = field(init=False, default=0)
    _activities: dict[int, int] = field(init=False, factory=dict)
    _derivations: dict[int, str] = field(init=False, factory=dict)
    _logs: dict[str, deque[str]] = field(init=False, factory=dict)
    _downloads: _Downloads = field(init=False, factory=_Downloads)
    _phase: Phase | None = field(init=False, default=None)
    # Builds that were done, by the activity that counts them: an evaluation may build too.
    _builds_done: dict[int, int] = field(init=False, factory=dict)
    _built: dict[str, None] = field(init=False, factory=dict)
    _omitted_builds: int = field(init=False, default=0)
    # The binary cache that each store path was last downloaded from, and the number of downloads
    # that succeeded, by the activity that counts them.
    _caches: dict[str, str] = field(init=False, factory=dict)
    _downloads_done: dict[int, int] = field(init=False, factory=dict)
    _succeeded: set[int] = field(init=False, factory=set)
    _succeeded_derivations: set[str] = field(init=False, factory=set)
    _succeeded_builds: int = field(init=False, default=0)
    _failed_derivations: deque[str] = field(init=False, factory=lambda: deque(maxlen=MAX_MESSAGES))

    def feed(self, line: bytes) -> None:
        """Parse a line, without its end.  Never raises."""
        if not line.startswith(_PREFIX):
            # Such as the evaluator's out-of-memory message, a crash, or the operator's hook.
            text = plain_text(line[:MAX_LINE_CHARACTERS]).strip()
            if text:
                self.own_errors.append(text)
                self.notes.append(text)
                self._messages.append(text)
            return
        if not _is_interesting(line):
            return
        try:
            self._event(json.loads(line[len(_PREFIX) :]))
        except (LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            # Another version may have other events: losing progress must not fail the build.
            return

    def tail(self, derivation: str) -> tuple[str, ...]:
        """Return the last lines of a derivation's log."""
        return tuple(self._logs.get(derivation, ()))

    def unfinished(self) -> tuple[str, ...]:
        """Return the derivations whose builds run, then those whose builds failed."""
        return (*self._derivations.values(), *self._failed_derivations)

    def may_have_failed(self, derivation: str) -> bool:
        """True if the build of a derivation has begun, and is not known to have succeeded."""
        return derivation in self._logs and derivation not in self._succeeded_derivations

    @property
    def failed_derivations(self) -> tuple[str, ...]:
        """The derivations whose builds have stopped without having been counted as done."""
        return tuple(self._failed_derivations)

    def origins(self) -> Origins:
        """Return the origins of the store paths that a command has made valid, if it succeeded."""
        # A download may fail and its path be built instead: nothing says which path that was.
        all_succeeded = sum(self._downloads_done.values()) == len(self._caches)
        return Origins(
            built=tuple(self._built),
            omitted_builds=self._omitted_builds,
            substituted=dict(self._caches) if all_succeeded else None,
        )

    def text(self) -> str:
        """Return Nix's warnings and errors as text."""
        return "\n".join(self._messages)

    # -- events -----------------------------------------------------------------

    def _event(self, event: Event) -> None:
        action = event["action"]
        if action == "result":
            self._result(event["id"], event["type"], event["fields"])
        elif action == "start":
            self._start(event)
        elif action == "stop":
            self._stop(event["id"])
        elif action == "msg":
            message = plain_text(event["msg"]).strip()
            if event["level"] in (0, 1):
                self._message(message, event.get("raw_msg"), is_error=event["level"] == 0)
            elif derivation := _PLANNED.fullmatch(message):
                self.planned.append(derivation[1])
                self.planned_count += 1

    def _message(self, message: str, raw: str | None, *, is_error: bool) -> None:
        self._messages.append(message)
        # A daemon passes warnings on as errors.
        if not is_error or message.startswith("warning:"):
            self.notes.append(message)
            return
        text = message.removeprefix("error:") if raw is None else plain_text(raw)
        text = QUOTED_LOG.sub("", text).strip()
        # Nix itself adds the raw text to its own errors (since 2.4), and to no others.
        if raw is not None or not self._derivations:
            self.own_errors.append(text)
        else:
            self.reported_errors.append(text)

    def _start(self, event: Event) -> None:
        activity, kind = event["id"], event["type"]
        self._activities[activity] = kind
        if kind == FILE_TRANSFER and self._phase is None:
            self._set_phase(Phase.DOWNLOADING)
        elif kind == BUILD:
            derivation = str(event["fields"][0])
            self._derivations[activity] = derivation
            self.started_builds += 1
            if len(self._built) < MAX_LISTED_BUILDS or derivation in self._built:
                self._built[derivation] = None
            else:
                self._omitted_builds += 1
            self._logs.pop(derivation, None)
            self._logs[derivation] = deque(maxlen=MAX_LOG_LINES)
            while len(self._logs) > MAX_LOGGED_BUILDS:
                del self._logs[next(iter(self._logs))]
            self._set_phase(Phase.BUILDING)
            self.progress.derivation(derivation)
        elif kind == SUBSTITUTE:
            path, cache = map(str, event["fields"])
            self._caches[path] = public_url(cache)

    def _stop(self, activity: int) -> None:
        derivation = self._derivations.pop(activity, None)
        if derivation is not None:
            # A build that succeeds is counted as done before it stops.
            succeeded = activity in self._succeeded
            if succeeded:
                self._succeeded.discard(activity)
            elif self._succeeded_builds < sum(self._builds_done.values()):
                self._succeeded_builds += 1
                succeeded = True
            else:
                self._failed_derivations.append(derivation)
            self.progress.derivation_ended(derivation, succeeded)
        if self._activities.pop(activity, None) == FILE_TRANSFER:
            self._downloads.stop(activity)

    def _result(self, activity: int, kind: int, fields: list[Any]) -> None:
        if kind == LOG_LINE:
            # One result is one line, even if its text contains line ends.
            line = " ".join(plain_text(_shorten(str(fields[0]))).rstrip().split("\n"))
            derivation = self._derivations.get(activity, "")
            if derivation in self._logs:
                self._logs[derivation].append(line)
            self.progress.log(line, derivation)
        elif kind == SET_PHASE and activity in self._derivations:
            phase = plain_text(str(fields[0])[:MAX_PHASE_CHARACTERS])
            self.progress.derivation_phase(self._derivations[activity], phase)
        elif kind == PROGRESS:
            self._count(activity, int(fields[0]), int(fields[1]))
        elif kind == SET_EXPECTED and fields[0] == FILE_TRANSFER:
            self._downloads.set_expected(activity, int(fields[1]))

    def _count(self, activity: int, done: int, expected: int) -> None:
        kind = self._activities.get(activity)
        if kind == FILE_TRANSFER:
            self._downloads.set_done(activity, done)
            self.progress.count(
                Phase.DOWNLOADING, self._downloads.done, self._downloads.expected, "bytes"
            )
        elif expected and kind == COPY_PATHS:
            self._downloads_done[activity] = done
            self.progress.count(Phase.DOWNLOADING, done, expected, "paths")
        elif expected and kind == BUILDS:
            self._count_done(activity, done)
            self.progress.count(Phase.BUILDING, done, expected, "builds")

    def _count_done(self, activity: int, done: int) -> None:
        before = self._builds_done.get(activity, 0)
        if done <= before:
            return
        self._builds_done[activity] = done
        running = [build for build in self._derivations if build not in self._succeeded]
        # A build that was asked for stops only when all have ended: note which one it was.
        if done == before + 1 and len(running) == 1:
            self._succeeded.add(running[0])
            self._succeeded_derivations.add(self._derivations[running[0]])
            self.progress.derivation_ended(self._derivations[running[0]], True)
            self._succeeded_builds += 1

    def _set_phase(self, phase: Phase) -> None:
        # Downloads go on while builds run: report the same phase only once in a row.
        if self._phase is not phase:
            self._phase = phase
            self.progress.phase(phase)


def _is_interesting(line: bytes) -> bool:
    if b'"result"' in line:
        return any(marker in line for marker in _RESULTS)
    if b'"start"' in line:
        return any(marker in line for marker in _STARTS)
    if b'"msg"' in line:
        return any(marker in line for marker in _MESSAGES)
    return b'"stop"' in line


def _shorten(line: str) -> str:
    return line if len(line) <= MAX_LINE_CHARACTERS else f"{line[:MAX_LINE_CHARACTERS]}…"
