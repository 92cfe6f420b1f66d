"""
Server-sent events: an answer that goes on for as long as there is news.

Format: the HTML standard, section 9.2.  A stream is asked for more whenever there
may be something new and the client takes it; nothing is queued for a client that
does not (:mod:`nixery.builds.tracker` says why nothing has to be).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.web.server import Request
from zope.interface import implementer

from nixery.http.responses import set_headers

__all__ = ["AT_ONCE", "KEEP_ALIVE", "Event", "EventStream", "Feed", "Encoder", "ServerSent"]

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent, for proxies hang up on silence."""

AT_ONCE = 4
"""How often a feed is asked before others have their turn."""


@frozen(kw_only=True)
class Event:
    """
    One event.

    :param id: what a client that comes back sends as Last-Event-ID, to go on after
        this event.
    :param type: the name of the event.
    :param data: JSON.
    """

    id: str
    type: str
    data: Mapping[str, object]


class Encoder(Protocol):
    """
    How events are written.  One belongs to one stream: it may remember what it wrote.

    :cvar media_type: of the whole.
    :cvar opening: what it begins with.
    """

    media_type: bytes
    opening: bytes

    def encode(self, event: Event) -> bytes:
        """An event as it is sent; may be nothing."""

    def idle(self) -> bytes:
        """What is sent after a silence."""


class ServerSent:
    """Server-sent events, for programs and browsers."""

    media_type = b"text/event-stream"
    # After how many milliseconds a client comes back whose stream has broken.
    opening = b"retry: 3000\n\n"

    def encode(self, event: Event) -> bytes:
        """As :meth:`Encoder.encode` says; JSON has no line ends of its own."""
        return f"id: {event.id}\nevent: {event.type}\ndata: {json.dumps(event.data)}\n\n".encode(
            "ascii"
        )

    def idle(self) -> bytes:
        """As :meth:`Encoder.idle` says: a comment."""
        return b": still here\n\n"


class Feed(Protocol):
    """Where the events of one stream come from."""

    def pull(self) -> Sequence[Event]:
        """What is new since the last call; empty when nothing is."""

    def over(self) -> bool:
        """Whether nothing will ever be new again."""

    def watch(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Call ``tell`` soon after something is new; :return: ends that."""


@implementer(IPushProducer)
class EventStream:
    """
    Sends events to a client until the feed is over or the client leaves.

    :param request: is answered, and finished.
    :param feed: what to send.
    :param clock: for the comments that keep the connection alive.
    :param ended: is called once, when nothing is sent any more.
    :param form: how events are written.
    """

    _log = Logger()

    def __init__(
        self,
        request: Request,
        feed: Feed,
        clock: IReactorTime,
        ended: Callable[[], None],
        form: Encoder,
    ) -> None:
        self._form = form
        self._request = request
        self._feed = feed
        self._clock = clock
        self._ended = ended
        self._paused = False
        self._open = True
        self._leave: Callable[[], None] = lambda: None
        self._timer: IDelayedCall | None = None
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        """Send headers and what there is; the rest goes on by itself."""
        set_headers(
            self._request,
            {
                b"Content-Type": self._form.media_type,
                b"Cache-Control": b"no-store",
                # nginx would collect events until it has a page of them.
                b"X-Accel-Buffering": b"no",
            },
        )
        self._request.notifyFinish().addErrback(lambda _: self._close())
        self._request.registerProducer(self, True)
        self._leave = self._feed.watch(self._pump)
        # With nothing to begin with, the headers go alone: until they come, a client takes
        # the server for stuck.
        self._request.write(self._form.opening)
        self._timer = self._clock.callLater(KEEP_ALIVE, self._keep_alive)
        self._pump()

    def _pump(self) -> None:
        """Send what is new, for as long as the client takes it and others do not wait."""
        if self._next is not None and self._next.active():
            return
        for _ in range(AT_ONCE):
            if not self._open or self._paused:
                return
            over = self._feed.over()
            events = self._feed.pull()
            if events:
                self._write(b"".join(map(self._form.encode, events)))
                if self._timer is not None:
                    self._timer.reset(KEEP_ALIVE)
            elif over:
                self._finish()
            else:
                return
        self._next = self._clock.callLater(0, self._pump)

    def _keep_alive(self) -> None:
        self._timer = self._clock.callLater(KEEP_ALIVE, self._keep_alive)
        if not self._paused:
            self._write(self._form.idle())

    def _write(self, data: bytes) -> None:
        # In a chunked answer, an empty piece would be its end.
        if data:
            self._request.write(data)

    def _finish(self) -> None:
        if self._close():
            self._request.unregisterProducer()
            self._request.finish()

    def _close(self) -> bool:
        """Let go of everything; :return: whether it has not been done before."""
        if not self._open:
            return False
        self._open = False
        self._leave()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._ended()
        return True

    # -- what the connection says, as twisted.internet.interfaces.IPushProducer ---------

    def pauseProducing(self) -> None:
        """The client is slow."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The client has taken what was sent."""
        self._paused = False
        self._pump()

    def stopProducing(self) -> None:
        """The client has left."""
        self._close()
