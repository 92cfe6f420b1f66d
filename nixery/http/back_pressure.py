"""Suspend the sending of a body while the client takes nothing, and give a slow client up."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.web.server import Request
from zope.interface import implementer

__all__ = ["DROP_SECONDS", "STALL_LIMIT_SECONDS", "BackPressure", "SendLimits", "abort"]

STALL_LIMIT_SECONDS = 600.0
"""
Seconds after which a client that takes no data at all is disconnected.  Twisted's idle
timeout is suspended while a request is being answered, and a peer that keeps its TCP
window closed would hold a descriptor for ever.  Engines that unpack while they download
may well pause for minutes.
"""

MIN_BYTES_PER_SECOND = 1024.0
"""
Bytes per second that a client must have taken on average, not counting one pause of the
stall limit: slower than any connection over which an image can be pulled.  Without it, a
client that takes a byte now and then would keep a connection for years.
"""

DROP_SECONDS = 0.1
"""
Seconds for which a slice may wait until the rest of its piece is dropped: less, and clients on
ordinary lines would have everything read in slices; more, and many clients that stall at once
would hold their pieces together.
"""


@frozen(kw_only=True)
class SendLimits:
    """
    Limits on the slowness of a client.

    :param stall: seconds for which it may take nothing at all.
    :param rate: bytes per second that it must have taken on average besides; 0: no minimum.
    :param on_disconnect: called for each client that was disconnected for being slower.
    """

    stall: float = STALL_LIMIT_SECONDS
    rate: float = MIN_BYTES_PER_SECOND
    on_disconnect: Callable[[], None] = lambda: None

    def left(self, sent: int, seconds: float) -> float:
        """
        Return the seconds for which a client may still take nothing.

        :param sent: bytes that it was sent.
        :param seconds: since the sending began.
        """
        if not self.rate:
            return self.stall
        return max(0.0, min(self.stall, self.stall + sent / self.rate - seconds))


@implementer(IPushProducer)
class BackPressure:
    """
    Back pressure: suspends a coroutine while the connection's write buffer is full.

    :param drop: called when nothing was taken for :data:`DROP_SECONDS`.
    """

    def __init__(
        self,
        request: Request,
        clock: IReactorTime,
        limits: SendLimits,
        drop: Callable[[], None],
    ) -> None:
        self._drop = drop
        self._request = request
        self._clock = clock
        self._limits = limits
        self._begun = self._deadline = clock.seconds()
        self._paused = False
        self._waiter: Deferred[None] | None = None
        self._stall: IDelayedCall | None = None

    async def passage(self) -> bool:
        """
        Wait until the connection accepts more data.

        :return: true if it has waited, and the write buffer is therefore empty: a connection
            that was paused resumes when its buffer is empty.
        """
        if not self._paused:
            return False
        self._waiter = Deferred()
        await self._waiter
        return True

    def close(self) -> None:
        """Drop the waiter and cancel the stall timeout."""
        self._waiter = None
        self._resumed()

    def pauseProducing(self) -> None:
        self._paused = True
        if self._stall is None:
            left = self._limits.left(self._request.sentLength, self._clock.seconds() - self._begun)
            self._deadline = self._clock.seconds() + left
            self._stall = self._clock.callLater(min(left, DROP_SECONDS), self._wait_on)

    def resumeProducing(self) -> None:
        self._resumed()
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    def stopProducing(self) -> None:
        # The connection is lost.  The request is notified too, and Klein then cancels the
        # coroutine at whatever it awaits.
        self._resumed()

    def _wait_on(self) -> None:
        """Free what can be read again, and wait until the deadline."""
        self._drop()
        left = max(0.0, self._deadline - self._clock.seconds())
        self._stall = self._clock.callLater(left, self._give_up)

    def _give_up(self) -> None:
        self._limits.on_disconnect()
        abort(self._request)

    def _resumed(self) -> None:
        self._paused = False
        if self._stall is not None:
            if self._stall.active():
                self._stall.cancel()
            self._stall = None


def abort(request: Request) -> None:
    """Close the connection at once; data that has not been sent is dropped."""
    # All transports of HTTP have this method: TCP, TLS and UNIX sockets.
    request.transport.abortConnection()  # type: ignore[union-attr]
