"""
Serve pages and streams of builds under ``/builds``.

    /builds               the running builds and those that ended recently
    /builds/events        the same as a stream, until the client disconnects
    /builds/ID            one build, with its log
    /builds/ID/events     the same as a stream that ends when the build does

Browsers get pages, all others JSON (:func:`nixery.http.ui.pages.wants_html`).  The streams
are server-sent events of JSON for clients whose ``Accept`` names these, as browsers do;
all others get lines, so that ``curl -N http://registry/builds/ID/events`` reads like the
build's own terminal.  ``?format=html``, ``json``, ``events`` or ``text`` takes precedence,
for clients that cannot choose their headers.

The operator of a private registry can switch these pages off: all paths are then a 404.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from nixery.builds.views import BuildView
from nixery.http.headers import accepted_types
from nixery.http.responses import answer_with, client_disconnected, set_headers
from nixery.http.ui.build_streams import BuildFeed, BuildLines, Builds, OverviewFeed, described
from nixery.http.ui.pages import Pages, add_vary, wants_html
from nixery.http.ui.sse import Encoder, EventStream, Feed, ServerSent
from nixery.http.visibility import AllowAll, VisibilityRules
from nixery.nix.progress import Phase

__all__ = ["BuildPages", "TimelineLane", "timeline"]

MAX_STREAMS = 256
"""The most streams that are open at once: each is a long-lived connection."""

MAX_LOG_LINES_SHOWN = 10_000
"""The most log lines that a page shows: more than are ever kept."""

_CURSOR = re.compile(rb"([0-9a-f]{1,32})-([0-9]{1,15})")


class BuildPages(Resource):
    """
    The resource for ``/builds``.

    :param builds: supplies the builds.
    :param clock: for the streams.
    :param pages: renders the pages.
    :param visibility: decides which builds a client may see.
    """

    def __init__(
        self,
        builds: Builds,
        clock: IReactorTime,
        pages: Pages,
        *,
        visibility: VisibilityRules | None = None,
    ) -> None:
        super().__init__()
        self.isLeaf = True
        self._builds = builds
        self._clock = clock
        self._pages = pages
        self._visibility = visibility or AllowAll()
        self._streams = 0
        # Versions are counted per process: one that a client sends from an earlier
        # process must not be compared with those of this one.
        self._epoch = secrets.token_hex(4)
        self._page = pages.resource(self._answer)

    def render(self, request: Request) -> object:
        """Start a stream, or answer with a page, which may take a while."""
        if (request.postpath or [b""])[-1] != b"events" or request.method not in (b"GET", b"HEAD"):
            return self._page.render(request)
        match [part.decode("utf-8", "backslashreplace") for part in request.postpath or ()]:
            case ["events"]:
                return self._stream(request, lambda: self._overview_feed(request))
            case [build_id, "events"] if self._find(request, build_id) is not None:
                return self._stream(request, lambda: self._build_feed(request, build_id))
        return self._page.render(request)

    async def _answer(self, request: Request, path: Sequence[str]) -> bytes | None:
        match path:
            case [] | [""]:
                return await self._overview(request)
            case [build_id]:
                build = self._find(request, build_id)
                if build is not None:
                    return await self._build(request, build)
        return self._refuse(request, 404, "there is no such build, or no more")

    def _find(self, request: Request, build_id: str) -> BuildView | None:
        build = self._builds.find(build_id)
        if build is None or not self._visibility.may_see(request, build.image):
            return None
        return build

    async def _overview(self, request: Request) -> bytes | None:
        builds = [
            build
            for build in self._builds.overview()
            if self._visibility.may_see(request, build.image)
        ]
        if not wants_html(request):
            body = await self._pages.later(_listing, builds)
            return None if client_disconnected(request) else _send(request, body)
        return await self._pages.answer_later(request, "builds.html", builds=builds)

    async def _build(self, request: Request, build: BuildView) -> bytes | None:
        log = self._builds.log(build.id, 0, MAX_LOG_LINES_SHOWN)
        if not wants_html(request):
            data = {**described(build), "log": {"first": log.first, "lines": log.lines}}
            return _json(request, data)
        return await self._pages.answer_later(
            request, "build.html", build=build, log=log, lanes=timeline(build)
        )

    def _overview_feed(self, request: Request) -> Feed:
        epoch, version = _cursor(request)
        return OverviewFeed(
            self._builds,
            self._epoch,
            version if epoch == self._epoch else 0,
            lambda image: self._visibility.may_see(request, image),
        )

    def _build_feed(self, request: Request, build_id: str) -> Feed:
        version, lines = _cursor(request)
        # The build's id belongs to this process, and so does the cursor.
        return BuildFeed(self._builds, build_id, int(version) if version.isdigit() else 0, lines)

    def _stream(self, request: Request, make_feed: Callable[[], Feed]) -> bytes | int:
        comes_back = request.getHeader(b"Last-Event-ID") is not None
        if comes_back and make_feed().over() and not make_feed().pull():
            # Browsers reconnect to a stream that has ended, until they get a 204.
            request.setResponseCode(204)
            return b""
        form = _form(request)
        add_vary(request)
        if request.method == b"HEAD":
            set_headers(request, {b"Content-Type": form.media_type})
            return b""
        if self._streams >= MAX_STREAMS:
            set_headers(request, {b"Retry-After": b"30"})
            return _json(request, {"error": "too many clients watch builds already"}, 503)
        self._streams += 1
        EventStream(request, make_feed(), self._clock, self._stream_ended, form).start()
        return NOT_DONE_YET

    def _stream_ended(self) -> None:
        self._streams -= 1

    def _refuse(self, request: Request, status: int, message: str) -> bytes:
        if wants_html(request):
            return self._pages.error(request, status, message)
        return _json(request, {"error": message}, status)


@frozen(kw_only=True)
class TimelineLane:
    """
    A stage of a build in the timeline, drawn to scale.

    :param begin: its start, in thousandths of the whole.
    :param width: its duration, in thousandths of the whole.
    :param seconds: its duration, so far if it still runs.
    """

    phase: Phase
    begin: int
    width: int
    seconds: float
    ended: bool


def timeline(build: BuildView) -> tuple[TimelineLane, ...]:
    """Lay out a build's stages for drawing: the first begins at 0, the last ends at 1000."""
    if not build.stages:
        return ()
    now = build.started_at + build.elapsed
    first = build.stages[0].started_at
    last = max(now, build.stages[-1].started_at)
    scale = 1000 / max(last - first, 0.001)
    lanes = []
    for stage in build.stages:
        seconds = (last if stage.ended_at is None else stage.ended_at) - stage.started_at
        width = max(round(seconds * scale), 3)
        begin = min(max(round((stage.started_at - first) * scale), 0), 1000 - min(width, 1000))
        lanes.append(
            TimelineLane(
                phase=stage.phase,
                begin=begin,
                width=min(width, 1000 - begin),
                seconds=seconds,
                ended=stage.ended_at is not None,
            )
        )
    return tuple(lanes)


def _form(request: Request) -> Encoder:
    asked = (request.args or {}).get(b"format", [b""])[-1]
    if asked in (b"events", b"text"):
        return ServerSent() if asked == b"events" else BuildLines()
    types = accepted_types(request.requestHeaders.getRawHeaders(b"Accept", []))
    return ServerSent() if "text/event-stream" in types else BuildLines()


def _cursor(request: Request) -> tuple[str, int]:
    """Return the two parts of the id of the last event that a client has seen."""
    match = _CURSOR.fullmatch(request.getHeader(b"Last-Event-ID") or b"")
    return ("", 0) if match is None else (match[1].decode("ascii"), int(match[2]))


def _listing(builds: Sequence[BuildView]) -> bytes:
    return _encoded({"builds": [described(build) for build in builds]})


def _encoded(value: Mapping[str, object]) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"


def _json(request: Request, value: Mapping[str, object], status: int = 200) -> bytes:
    return _send(request, _encoded(value), status)


def _send(request: Request, body: bytes, status: int = 200) -> bytes:
    request.setResponseCode(status)
    set_headers(request, {b"Cache-Control": b"no-store", b"X-Content-Type-Options": b"nosniff"})
    add_vary(request)
    return answer_with(request, "application/json", body)
