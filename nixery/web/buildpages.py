"""
Builds for those who watch: ``/builds`` and what is below it.

    /builds               the builds that run and those that have ended lately
    /builds/events        the same as a stream of events, for as long as one listens
    /builds/ID            one build, with its log
    /builds/ID/events     the same as a stream that ends when the build does

All of it is JSON, the streams server-sent events of JSON
(``curl -N http://registry/builds/events`` reads well).  Whoever runs a private
registry can switch it off: then there is nothing here.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from nixery.building.builds import BuildView, Changes, LogPart
from nixery.web.eventstream import Event, EventStream, Feed
from nixery.web.responses import answer_with, set_headers

__all__ = ["BuildPages", "Builds"]

MAX_STREAMS = 256
"""How many streams are open at once: each is a connection that stays."""

LINES_AT_ONCE = 250
"""How many lines of a log are in one event."""

LINES_SHOWN = 10_000
"""The most lines that a page shows: more than are ever kept."""

_CURSOR = re.compile(rb"([0-9a-f]{1,32})-([0-9]{1,15})")


class Builds(Protocol):
    """The builds that there are to watch."""

    def overview(self) -> Sequence[BuildView]:
        """Those that run, then those that have ended, the youngest first."""

    def find(self, build_id: str) -> BuildView | None:
        """A build; ``None`` if there is none."""

    def log(self, build_id: str, after: int, limit: int) -> LogPart:
        """At most ``limit`` lines of a build's log, from number ``after`` on."""

    def changes(self, since: int) -> Changes:
        """What has happened after a version; after 0 is everything."""

    def watch(self, tell: Callable[[], None], build_id: str | None = None) -> Callable[[], None]:
        """Call ``tell`` soon after a change; :return: ends that."""


class BuildPages(Resource):
    """
    The resource for ``/builds``.

    :param builds: what is shown.
    :param clock: for the streams.
    """

    def __init__(self, builds: Builds, clock: IReactorTime) -> None:
        super().__init__()
        self.isLeaf = True
        self._builds = builds
        self._clock = clock
        self._streams = 0
        # Versions begin anew with each process: one that a client brings from an
        # earlier one means nothing here.
        self._epoch = secrets.token_hex(4)

    def render(self, request: Request) -> bytes | int:
        """Answer a request."""
        set_headers(request, {b"Cache-Control": b"no-store", b"X-Content-Type-Options": b"nosniff"})
        if request.method not in (b"GET", b"HEAD"):
            set_headers(request, {b"Allow": b"GET, HEAD"})
            return _answer(request, {"error": "this page can only be read"}, 405)
        match [segment.decode("utf-8", "backslashreplace") for segment in request.postpath or ()]:
            case [] | [""]:
                return _answer(request, self._overview())
            case ["events"]:
                return self._stream(request, lambda: self._overview_feed(request))
            case [build_id]:
                build = self._builds.find(build_id)
                if build is not None:
                    return _answer(request, self._build(build))
            case [build_id, "events"]:
                build = self._builds.find(build_id)
                if build is not None:
                    return self._stream(request, lambda: self._build_feed(request, build_id))
        return _answer(request, {"error": "there is no such build, or no more"}, 404)

    def _overview(self) -> Mapping[str, object]:
        return {"builds": [_described(build) for build in self._builds.overview()]}

    def _build(self, build: BuildView) -> Mapping[str, object]:
        log = self._builds.log(build.id, 0, LINES_SHOWN)
        return {**_described(build), "log": {"first": log.first, "lines": log.lines}}

    def _overview_feed(self, request: Request) -> Feed:
        epoch, version = _cursor(request)
        return _OverviewFeed(self._builds, self._epoch, version if epoch == self._epoch else 0)

    def _build_feed(self, request: Request, build_id: str) -> Feed:
        version, lines = _cursor(request)
        # Its id is of this process, and so is the cursor.
        return _BuildFeed(self._builds, build_id, int(version) if version.isdigit() else 0, lines)

    def _stream(self, request: Request, make_feed: Callable[[], Feed]) -> bytes | int:
        comes_back = request.getHeader(b"Last-Event-ID") is not None
        if comes_back and make_feed().over() and not make_feed().pull():
            # Browsers come back to a stream that has ended, until they are told
            # this.
            request.setResponseCode(204)
            return b""
        if request.method == b"HEAD":
            set_headers(request, {b"Content-Type": b"text/event-stream"})
            return b""
        if self._streams >= MAX_STREAMS:
            set_headers(request, {b"Retry-After": b"30"})
            return _answer(request, {"error": "too many clients watch builds already"}, 503)
        self._streams += 1
        EventStream(request, make_feed(), self._clock, self._stream_ended).start()
        return NOT_DONE_YET

    def _stream_ended(self) -> None:
        self._streams -= 1


class _OverviewFeed:
    """
    The events of all builds: ``builds`` is all of them, to begin with or to begin
    anew; ``build`` is one that is new or has changed; ``removed`` is one that is
    gone.
    """

    def __init__(self, builds: Builds, epoch: str, version: int) -> None:
        self._builds = builds
        self._epoch = epoch
        self._version = version
        self._begun = False

    def pull(self) -> Sequence[Event]:
        changes = self._builds.changes(self._version)
        if self._begun and changes.version == self._version:
            return ()
        self._begun = True
        self._version = changes.version
        if changes.removed is None:
            every = [_described(build) for build in changes.builds]
            return [self._event("builds", {"builds": every})]
        return [
            *(self._event("build", _described(build)) for build in changes.builds),
            *(self._event("removed", {"id": build_id}) for build_id in changes.removed),
        ]

    def over(self) -> bool:
        return False

    def watch(self, tell: Callable[[], None]) -> Callable[[], None]:
        return self._builds.watch(tell)

    def _event(self, kind: str, data: Mapping[str, object]) -> Event:
        return Event(id=f"{self._epoch}-{self._version}", type=kind, data=data)


class _BuildFeed:
    """
    The events of one build: ``log`` has lines of its log, ``build`` everything else
    as it is now; the last one says how it ended.
    """

    def __init__(self, builds: Builds, build_id: str, version: int, lines: int) -> None:
        self._builds = builds
        self._id = build_id
        self._version = version
        self._lines = lines

    def pull(self) -> Sequence[Event]:
        build = self._builds.find(self._id)
        if build is None:
            return ()
        changed = build.version > self._version
        log = self._builds.log(self._id, self._lines, LINES_AT_ONCE)
        # How a build ended stands at the end; but while it runs, lines that never
        # cease must not hide everything else.
        if log.lines and (build.state.ended or not changed):
            self._lines = log.after
            return [self._event("log", {"first": log.first, "lines": log.lines})]
        if changed:
            self._version = build.version
            return [self._event("build", _described(build))]
        return ()

    def over(self) -> bool:
        build = self._builds.find(self._id)
        return build is None or build.state.ended

    def watch(self, tell: Callable[[], None]) -> Callable[[], None]:
        return self._builds.watch(tell, self._id)

    def _event(self, kind: str, data: Mapping[str, object]) -> Event:
        return Event(id=f"{self._version}-{self._lines}", type=kind, data=data)


def _cursor(request: Request) -> tuple[str, int]:
    """The two parts of the last event's id that a client has seen."""
    match = _CURSOR.fullmatch(request.getHeader(b"Last-Event-ID") or b"")
    return ("", 0) if match is None else (match[1].decode("ascii"), int(match[2]))


def _described(build: BuildView) -> dict[str, object]:
    """A build as JSON, without its log."""
    return {
        "id": build.id,
        "image": build.image,
        "tag": build.tag,
        "system": build.system,
        "state": build.state.value,
        "position": build.position,
        "begun": _time(build.begun),
        "ended": None if build.ended is None else _time(build.ended),
        "elapsed": round(build.elapsed, 3),
        "stages": [
            {
                "phase": stage.phase.value,
                "begun": _time(stage.begun),
                "ended": None if stage.ended is None else _time(stage.ended),
            }
            for stage in build.stages
        ],
        "counts": [
            {
                "phase": count.phase.value,
                "unit": count.unit,
                "done": count.done,
                "expected": count.expected,
            }
            for count in build.counts
        ],
        "derivation": build.derivation,
        "follows": build.follows,
        "digest": build.digest,
        "problem": None
        if build.problem is None
        else {
            "message": build.problem.message,
            "derivation": build.problem.derivation,
            "log": build.problem.log,
        },
        "log_lines": build.log_lines,
    }


def _time(seconds: float) -> str:
    """As RFC 3339 writes it, in UTC and to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _answer(request: Request, value: Mapping[str, object], status: int = 200) -> bytes:
    request.setResponseCode(status)
    body = answer_with(request, "application/json", json.dumps(value).encode("ascii") + b"\n")
    # Twisted makes a note in the log of a body that it has to drop.
    return b"" if request.method == b"HEAD" else body
