"""
Stream builds: as events for programs and browsers, as lines for terminals.

A feed stores only its position: it asks for the changes since then
(:mod:`nixery.builds.tracker`), so that a slow client needs no queue.

The list of all builds is sent in parts, and only at the start of a stream: 300 builds are
0.5 MB of JSON and 45 ms of CPU time, and there are two changes per second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from nixery.builds.build_failure import BuildFailure
from nixery.builds.views import BuildView, Changes, DerivationView, LogPart
from nixery.http.error_responses import printable
from nixery.http.ui.build_log import BuildLogs
from nixery.http.ui.sse import Event
from nixery.runtime.clocks import WallTime

__all__ = ["BuildFeed", "BuildLines", "Builds", "OverviewFeed", "described", "described_log"]

BUILDS_AT_ONCE = 50
"""The most builds in one event, which is encoded on the reactor thread."""

LINES_AT_ONCE = 250
"""The most lines of a log in one event."""


class Builds(BuildLogs, Protocol):
    """Supplies builds, and notifies of their changes."""

    def overview(self) -> Sequence[BuildView]:
        """Return the running builds, then those that have ended, the youngest first."""

    def find(self, build_id: str) -> BuildView | None:
        """Return the build with an id; ``None`` if there is none."""

    def log(self, build_id: str, after: int, limit: int) -> LogPart:
        """Return at most ``limit`` lines of a build's log, from number ``after`` on."""

    def changes(self, since: int) -> Changes:
        """Return the changes after a version; after 0: all builds."""

    def watch(self, tell: Callable[[], None], build_id: str | None = None) -> Callable[[], None]:
        """Call ``tell`` soon after each change; :return: a function that ends the subscription."""


class OverviewFeed:
    """
    The feed of all builds, with these events: ``builds`` is the first part of the list and
    replaces any earlier list, and ``more`` are the parts that follow; ``build`` is a build
    that is new or has changed; ``removed`` is one that is no longer listed, or that the client
    may not see any more.

    :param may_see: tells whether the client may see an image, by its name.
    """

    def __init__(
        self, builds: Builds, epoch: str, version: int, may_see: Callable[[str], bool]
    ) -> None:
        self._builds = builds
        self._may_see = may_see
        self._epoch = epoch
        self._version = version
        # What a client that returns was told by an earlier stream is not known.
        self._returned = version > 0
        self._told: set[str] = set()
        self._begun = False
        self._rest: deque[BuildView] = deque()

    def pull(self) -> Sequence[Event]:
        if self._rest:
            return self._part("more")
        changes = self._builds.changes(self._version)
        if self._begun and changes.version == self._version:
            return ()
        self._begun = True
        self._version = changes.version
        views = [(build.id, build.seen_by(self._may_see)) for build in changes.builds]
        seen = [view for _, view in views if view is not None]
        if changes.removed is None:
            self._rest = deque(seen)
            self._told = {build.id for build in seen}
            return self._part("builds")
        removed = [
            each.id
            for each in changes.removed
            if each.id in self._told or (self._returned and any(map(self._may_see, each.images)))
        ]
        known = self._told.union(build.id for build in seen)
        removed += [build_id for build_id, view in views if build_id in known and view is None]
        self._told = known.difference(removed)
        return [
            *(self._event("build", described(build)) for build in seen),
            *(self._event("removed", {"id": build_id}) for build_id in removed),
        ]

    def over(self) -> bool:
        return False

    def watch(self, tell: Callable[[], None]) -> Callable[[], None]:
        return self._builds.watch(tell)

    def _part(self, kind: str) -> Sequence[Event]:
        count = min(BUILDS_AT_ONCE, len(self._rest))
        part = [described(self._rest.popleft()) for _ in range(count)]
        return [self._event(kind, {"builds": part})]

    def _event(self, kind: str, data: Mapping[str, object]) -> Event:
        # A client that reconnects after a part of the list gets the whole list again.
        version = 0 if self._rest else self._version
        return Event(id=f"{self._epoch}-{version}", type=kind, data=data)


class BuildFeed:
    """
    The feed of one build, with these events: ``log`` has lines of its log, ``build`` the
    present state of everything else; the last event is the final state.

    :param may_see: tells whether the client may see an image, by its name; if that ends, so
        does the feed.
    """

    def __init__(  # what the stream is of, where it begins, and who reads it
        self,
        builds: Builds,
        build_id: str,
        version: int,
        lines: int,
        may_see: Callable[[str], bool],
    ) -> None:
        self._builds = builds
        self._id = build_id
        self._may_see = may_see
        self._version = version
        self._lines = lines

    def pull(self) -> Sequence[Event]:
        build = self._find()
        if build is None:
            return ()
        changed = build.version > self._version
        log = self._builds.log(self._id, self._lines, LINES_AT_ONCE)
        # The final state comes after the whole log; but while the build runs, a steady
        # flow of lines must not delay changes of state.
        if log.lines and (build.state.is_final or not changed):
            self._lines = log.after
            derivations = self._builds.derivations(self._id, log.derivations)
            return [self._event("log", described_log(log, derivations))]
        if changed:
            self._version = build.version
            return [self._event("build", described(build))]
        return ()

    def over(self) -> bool:
        build = self._find()
        return build is None or build.state.is_final

    def _find(self) -> BuildView | None:
        build = self._builds.find(self._id)
        return None if build is None else build.seen_by(self._may_see)

    def watch(self, tell: Callable[[], None]) -> Callable[[], None]:
        return self._builds.watch(tell, self._id)

    def _event(self, kind: str, data: Mapping[str, object]) -> Event:
        return Event(id=f"{self._version}-{self._lines}", type=kind, data=data)


def described(build: BuildView) -> dict[str, object]:
    """Return a build as JSON, without its log."""
    return {
        "id": build.id,
        "image": build.image,
        "tag": build.tag,
        "also": [str(label) for label in build.also],
        "system": build.system,
        "state": build.state.value,
        "doing": build.describe_activity(),
        "position": build.position,
        "clients": build.clients,
        "attempts": build.attempts,
        "begun": rfc3339(build.started_at),
        "ended": None if build.ended_at is None else rfc3339(build.ended_at),
        "elapsed": round(build.elapsed, 3),
        "stages": [
            {
                "phase": stage.phase.value,
                "begun": rfc3339(stage.started_at),
                "ended": None if stage.ended_at is None else rfc3339(stage.ended_at),
                **({"platform": stage.platform} if stage.platform else {}),
            }
            for stage in build.stages
        ],
        "counts": [
            {
                "phase": count.phase.value,
                "unit": count.unit,
                "done": count.done,
                "expected": count.expected,
                **({"platform": count.platform} if count.platform else {}),
            }
            for count in build.counts
        ],
        "derivation": build.derivation,
        "running": [
            {
                "derivation": each.derivation,
                "package": each.package,
                "begun": rfc3339(each.started_at),
                "phase": each.phase or None,
                **({"platform": each.platform} if each.platform else {}),
            }
            for each in build.running
        ],
        "follows": build.follows,
        "digest": build.digest,
        "problem": None if build.failure is None else _described_failure(build.failure),
        "log_lines": build.log_lines,
        "derivations": [described_derivation(each) for each in build.derivations],
    }


def described_derivation(derivation: DerivationView) -> dict[str, object]:
    """Return a derivation of a build as JSON; times are seconds since the build began."""
    return {
        "number": derivation.number,
        "path": derivation.path,
        "name": derivation.name,
        "state": derivation.state.value,
        "begun": round(derivation.begun, 3),
        "ended": None if derivation.ended is None else round(derivation.ended, 3),
        "lines": derivation.lines,
    }


def described_log(log: LogPart, derivations: Sequence[DerivationView]) -> dict[str, object]:
    """
    Return lines of a log as JSON.

    :param derivations: those that the lines are from.
    """
    return {
        "first": log.first,
        "lines": log.lines,
        "seconds": [round(each, 1) for each in log.seconds],
        "origins": log.derivations,
        "derivations": [described_derivation(each) for each in derivations],
    }


def rfc3339(time: WallTime) -> str:
    """Format a time as in RFC 3339, in UTC and to the millisecond."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")


def _described_failure(failure: BuildFailure) -> dict[str, object]:
    return {
        "title": failure.title or None,
        "package": failure.package,
        "message": failure.message,
        "derivation": failure.derivation,
        "log": failure.log,
        "advice": None if failure.advice is None else failure.advice.text,
        "topic": None if failure.advice is None else failure.advice.anchor,
        "retry_at": None if failure.retry_at is None else rfc3339(failure.retry_at),
    }


class BuildLines:
    """
    Encodes events as lines for a terminal; an implementation of
    :class:`nixery.http.ui.sse.Encoder`.

    It writes the log unchanged, and between its lines one with the build's progress, whenever
    that has changed.  Characters that could act on a terminal are escaped.
    """

    media_type = b"text/plain; charset=utf-8"
    opening = b""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def encode(self, event: Event) -> bytes:
        """Encode an event; see :meth:`nixery.http.ui.sse.Encoder.encode`."""
        match event.type:
            case "log":
                lines = [printable(str(line)) for line in _list(event.data["lines"])]
            case "build":
                lines = self._build(event.data)
            case "builds" | "more":
                lines = [line for each in _list(event.data["builds"]) for line in self._build(each)]
            case _:
                self._said.pop(str(event.data.get("id")), None)
                lines = []
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")

    def idle(self) -> bytes:
        """Return a line; see :meth:`nixery.http.ui.sse.Encoder.idle`."""
        return b"== still here\n"

    def _build(self, build: Mapping[str, Any]) -> list[str]:
        said = f"== {build['image']}:{build['tag']}: {build['doing']}"
        packages = [str(each["package"]) for each in _list(build["running"])]
        if packages and not build["doing"].endswith(packages[-1]):
            said += f": {packages[-1]}"
        if build["clients"] > 1:
            said += f"; {build['clients']} clients waiting"
        said = printable(said)
        if self._said.get(build["id"]) == said:
            return []
        self._said[build["id"]] = said
        if build["ended"] is None:
            return [said]
        lines = [f"{said} after {build['elapsed']:.1f} s"]
        if build["digest"]:
            lines.append(f"== {build['digest']}")
        if build["problem"]:
            message = printable(build["problem"]["message"]).split("\n")
            # The rest of the message is the log, which has been sent already.
            lines += [
                f"== {line}" for line in (message[:1] if build["problem"]["log"] else message)
            ]
        return lines


def _list(value: object) -> Sequence[Any]:
    """Return a list in an event's data, whose values have no static types."""
    return value if isinstance(value, Sequence) else ()
