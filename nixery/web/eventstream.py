"""
Server-sent events: an answer that goes on for as long as there is news.

Format: the HTML standard, section 9.2.  A stream is asked for more whenever there
may be something new and the client takes it; nothing is queued for a client that
does not (:mod:`nixery.building.buildbook` says why nothing has to be).
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

from nixery.web.responses import set_headers

__all__ = ["KEEP_ALIVE", "Event", "EventStream", "Feed"]

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent, for proxies hang up on silence."""

_RETRY = b"retry: 3000\n\n"
"""After how many milliseconds a client comes back whose stream has broken."""


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

    def encode(self) -> bytes:
        """As it is sent; JSON has no line ends of its own."""
        return f"id: {self.id}\nevent: {self.type}\ndata: {json.dumps(self.data)}\n\n".encode(
            "ascii"
        )


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
    """

    _log = Logger()

    def __init__(
        self, request: Request, feed: Feed, clock: IReactorTime, ended: Callable[[], None]
    ) -> None:
        self._request = request
        self._feed = feed
        self._clock = clock
        self._ended = ended
        self._paused = False
        self._open = True
        self._leave: Callable[[], None] = lambda: None
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Send headers and what there is; the rest goes on by itself."""
        set_headers(
            self._request,
            {
                b"Content-Type": b"text/event-stream",
                b"Cache-Control": b"no-store",
                # nginx would collect events until it has a page of them.
                b"X-Accel-Buffering": b"no",
            },
        )
        self._request.notifyFinish().addErrback(lambda _: self._close())
        self._request.registerProducer(self, True)
        self._leave = self._feed.watch(self._pump)
        self._request.write(_RETRY)
        self._timer = self._clock.callLater(KEEP_ALIVE, self._keep_alive)
        self._pump()

    def _pump(self) -> None:
        """Send what is new, for as long as the client takes it."""
        while self._open and not self._paused:
            over = self._feed.over()
            events = self._feed.pull()
            if events:
                self._request.write(b"".join(event.encode() for event in events))
                if self._timer is not None:
                    self._timer.reset(KEEP_ALIVE)
            elif over:
                self._finish()
            else:
                return

    def _keep_alive(self) -> None:
        self._timer = self._clock.callLater(KEEP_ALIVE, self._keep_alive)
        if not self._paused:
            self._request.write(b": still here\n\n")

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
