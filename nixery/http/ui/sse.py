"""
Send server-sent events: a response that continues for as long as there are new events.

Format: the HTML standard, section 9.2.  A feed is polled whenever there may be new events
and the client accepts data; nothing is queued for a client that does not
(:mod:`nixery.builds.tracker` explains why no queue is needed).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.web.server import Request
from zope.interface import implementer

from nixery.http.responses import set_headers

__all__ = [
    "POLLS_PER_TURN",
    "KEEP_ALIVE_SECONDS",
    "Event",
    "EventStream",
    "Feed",
    "Encoder",
    "ServerSent",
]

KEEP_ALIVE_SECONDS = 15.0
"""Seconds without events after which a comment is sent, since proxies close idle connections."""

POLLS_PER_TURN = 4
"""The number of times a feed is polled before other connections have their turn."""


@frozen(kw_only=True)
class Event:
    """
    An event in a stream.

    :param id: sent back by a client that reconnects, as Last-Event-ID, to continue after
        this event.
    :param type: the name of the event.
    :param data: JSON.
    """

    id: str
    type: str
    data: Mapping[str, object]


class Encoder(Protocol):
    """
    Encodes the events of a single stream, and may therefore keep state between them.

    :cvar media_type: of the whole response.
    :cvar opening: the first bytes of the body.
    """

    media_type: bytes
    opening: bytes

    def encode(self, event: Event) -> bytes:
        """Encode an event; the result may be empty."""

    def idle(self) -> bytes:
        """Return the bytes to be sent after a time without events."""


class ServerSent:
    """Encodes server-sent events, for programs and browsers."""

    media_type = b"text/event-stream"
    # Milliseconds after which a client reconnects when its stream was interrupted.
    opening = b"retry: 3000\n\n"

    def encode(self, event: Event) -> bytes:
        """Encode an event; see :meth:`Encoder.encode`.  The JSON contains no line ends."""
        return f"id: {event.id}\nevent: {event.type}\ndata: {json.dumps(event.data)}\n\n".encode(
            "ascii"
        )

    def idle(self) -> bytes:
        """Return a comment; see :meth:`Encoder.idle`."""
        return b": still here\n\n"


class Feed(Protocol):
    """Supplies the events of one stream."""

    def pull(self) -> Sequence[Event]:
        """Return the events since the last call; empty if there are none."""

    def over(self) -> bool:
        """Tell whether there will be no further events."""

    def watch(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Call ``tell`` soon after there are new events; :return: a function that ends this."""


@implementer(IPushProducer)
class EventStream:
    """
    Sends events to a client until the feed is over or the client leaves.

    :param request: the request to answer.
    :param feed: supplies the events.
    :param clock: for the comments that keep the connection alive.
    :param form: encodes the events.
    """

    def __init__(self, request: Request, feed: Feed, clock: IReactorTime, form: Encoder) -> None:
        self._form = form
        self._request = request
        self._feed = feed
        self._clock = clock
        self._end: Deferred[None] = Deferred(lambda _: self._close())
        self._paused = False
        self._open = True
        self._leave: Callable[[], None] = lambda: None
        self._timer: IDelayedCall | None = None
        self._next: IDelayedCall | None = None

    def send(self) -> Deferred[None]:
        """
        Send headers and events.

        :return: fires when the feed is over, and the request can be finished; is to be
            cancelled when the client disconnects.
        """
        set_headers(
            self._request,
            {
                b"Content-Type": self._form.media_type,
                b"Cache-Control": b"no-store",
                # Without this, nginx would buffer events until it has a page of them.
                b"X-Accel-Buffering": b"no",
            },
        )
        self._request.registerProducer(self, True)
        self._leave = self._feed.watch(self._pump)
        # Even an empty opening sends the headers: without them, a client assumes that the
        # server hangs.
        self._request.write(self._form.opening)
        self._timer = self._clock.callLater(KEEP_ALIVE_SECONDS, self._keep_alive)
        self._pump()
        return self._end

    def _pump(self) -> None:
        """Send new events while the client accepts data, with turns for other connections."""
        if self._next is not None and self._next.active():
            return
        for _ in range(POLLS_PER_TURN):
            if not self._open or self._paused:
                return
            over = self._feed.over()
            events = self._feed.pull()
            if events:
                self._write(b"".join(map(self._form.encode, events)))
                if self._timer is not None:
                    self._timer.reset(KEEP_ALIVE_SECONDS)
            elif over:
                self._finish()
            else:
                return
        self._next = self._clock.callLater(0, self._pump)

    def _keep_alive(self) -> None:
        self._timer = self._clock.callLater(KEEP_ALIVE_SECONDS, self._keep_alive)
        # The client may have lost the right to see more, of which nothing notifies.
        self._pump()
        if self._open and not self._paused:
            self._write(self._form.idle())

    def _write(self, data: bytes) -> None:
        # In a chunked response, an empty chunk would end it.
        if data:
            self._request.write(data)

    def _finish(self) -> None:
        self._close()
        self._request.unregisterProducer()
        self._end.callback(None)

    def _close(self) -> None:
        """Unsubscribe and cancel the timers, unless this was done before."""
        if not self._open:
            return
        self._open = False
        self._leave()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._next is not None and self._next.active():
            self._next.cancel()

    # -- calls from the connection, as twisted.internet.interfaces.IPushProducer --------

    def pauseProducing(self) -> None:
        """Stop sending: the client is slow."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Continue sending: the client has taken all data."""
        self._paused = False
        self._pump()

    def stopProducing(self) -> None:
        """End the stream: the client has disconnected."""
        self._close()
