"""
Serve pages and streams of builds under ``/builds``.

    /builds               the running builds and those that ended recently, filtered by
                          ``state`` and ``q`` (:mod:`nixery.http.ui.build_list`)
    /builds/events        the same as a stream, until the client disconnects
    /builds/ID            one build, with its log
    /builds/ID/log        its log as plain text
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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request

from nixery.builds.views import BuildView
from nixery.http.client_address import client_keys
from nixery.http.headers import accepted_types
from nixery.http.responses import answer_with, set_headers
from nixery.http.ui.build_list import BuildFilter
from nixery.http.ui.build_log import log_page, part_to_show, send_log
from nixery.http.ui.build_streams import (
    BuildFeed,
    BuildLines,
    Builds,
    OverviewFeed,
    described,
    described_log,
)
from nixery.http.ui.client_commands import guess_program
from nixery.http.ui.pages import Pages, add_vary, wants_html
from nixery.http.ui.query import number
from nixery.http.ui.sse import Encoder, EventStream, Feed, ServerSent
from nixery.http.visibility import AllowAll, VisibilityRules
from nixery.nix.progress import Phase

__all__ = ["BuildPages", "TimelineLane", "timeline"]

MAX_STREAMS = 256
"""The most streams that are open at once: each is a long-lived connection."""

MAX_STREAMS_PER_CLIENT = 16
"""The most streams of one client: its address, or its user."""

_ALL = "all"
"""Stands for all clients among the keys of clients, which are addresses and users."""

MAX_LOG_LINES_SHOWN = 10_000
"""The most log lines in the JSON of a build: more than are ever kept in memory."""

_CURSOR = re.compile(rb"([0-9a-f]{1,32})-([0-9]{1,15})")


class BuildPages:
    """
    Serves the pages and streams of builds.

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
        self._builds = builds
        self._clock = clock
        self._pages = pages
        self._visibility = visibility or AllowAll()
        self._streams = Counter[str]()
        # Versions are counted per process: one that a client sends from an earlier
        # process must not be compared with those of this one.
        self._epoch = secrets.token_hex(4)

    async def overview(self, request: Request) -> bytes | None:
        """Answer with all builds that match the query; pages have them in parts."""
        wanted = BuildFilter.from_request(request)
        builds = [
            seen
            for build in self._builds.overview()
            if (seen := build.seen_by(partial(self._visibility.may_see, request))) is not None
        ]
        if not wants_html(request):
            return _send(request, await self._pages.later(_listing, wanted.apply(builds)))
        return await self._pages.answer_later(
            request, "builds.html", wanted=wanted, part=wanted.page(builds, request)
        )

    async def overview_events(self, request: Request) -> bytes | None:
        """Stream all builds, until the client disconnects."""
        epoch, version = _cursor(request)
        since = version if epoch == self._epoch else 0
        return await self._stream(
            request,
            lambda: OverviewFeed(
                self._builds,
                self._epoch,
                since,
                partial(self._visibility.may_see, request),
            ),
        )

    async def build(self, request: Request, build_id: str) -> bytes | None:
        """Answer with one build and its log."""
        build = self._find(request, build_id)
        if build is None:
            return await self.unknown(request)
        if not wants_html(request):
            log = self._builds.log(build.id, 0, MAX_LOG_LINES_SHOWN)
            derivations = self._builds.derivations(build.id, log.derivations)
            return _json(request, {**described(build), "log": described_log(log, derivations)})
        return await self._pages.answer_later(
            request,
            "build.html",
            build=build,
            log=await log_page(self._builds, build, part_to_show(request, build)),
            lanes=timeline(build),
            program=guess_program(build.image, {}),
        )

    async def build_log(self, request: Request, build_id: str) -> bytes | None:
        """Answer with the log of a build as plain text: all lines that are kept so far."""
        if self._find(request, build_id) is None:
            return await self.unknown(request)
        await send_log(request, self._builds, build_id, self._clock)
        return b"" if request.method == b"HEAD" else None

    async def build_events(self, request: Request, build_id: str) -> bytes | None:
        """Stream one build, until it ends."""
        if self._find(request, build_id) is None:
            return await self.unknown(request)
        # The build's id belongs to this process, and so does the cursor.
        version, lines = _cursor(request)
        since = int(version) if version.isdigit() else 0
        lines = max(lines, number(request, b"after", 0))
        return await self._stream(
            request,
            lambda: BuildFeed(
                self._builds,
                build_id,
                since,
                lines,
                partial(self._visibility.may_see, request),
            ),
        )

    async def unknown(self, request: Request) -> bytes:
        """Say that there is no such build."""
        message = "there is no such build, or no more"
        if wants_html(request):
            return self._pages.error(request, 404, message)
        return _json(request, {"error": message}, 404)

    def _find(self, request: Request, build_id: str) -> BuildView | None:
        build = self._builds.find(build_id)
        return None if build is None else build.seen_by(partial(self._visibility.may_see, request))

    async def _stream(self, request: Request, make_feed: Callable[[], Feed]) -> bytes | None:
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
        clients = client_keys(request)
        if any(self._streams[key] >= MAX_STREAMS_PER_CLIENT for key in clients):
            set_headers(request, {b"Retry-After": b"30"})
            return _json(request, {"error": "this client watches too many builds already"}, 429)
        if self.open_streams >= MAX_STREAMS:
            set_headers(request, {b"Retry-After": b"30"})
            return _json(request, {"error": "too many clients watch builds already"}, 503)
        self._streams.update([_ALL, *clients])
        try:
            await EventStream(request, make_feed(), self._clock, form).send()
        finally:
            self._streams.subtract([_ALL, *clients])
            self._streams += Counter()  # without those that have none
        return None

    @property
    def open_streams(self) -> int:
        """The number of streams that are open."""
        return self._streams[_ALL]


@frozen(kw_only=True)
class TimelineLane:
    """
    A stage of a build in the timeline, drawn to scale.

    :param platform: of a stage of an index, its platform; else empty.
    :param begin: its start, in thousandths of the whole.
    :param width: its duration, in thousandths of the whole.
    :param seconds: its duration, so far if it still runs.
    """

    phase: Phase
    platform: str
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
                platform=stage.platform,
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
