"""
A connection, and what it may cost: time, bytes, and turns.

Twisted's own channel trusts its clients further than a network should be trusted.  It
waits anew for each byte, so that a request may take days to arrive; it answers all
requests of a pipe in one go, while nobody else has a turn; and a connection that it has
closed stays for as long as its client leaves the last answer unread.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from twisted.web.http_headers import Headers

from nixery.http.error_responses import ErrorResponse
from nixery.limits.admission import AdmissionControl

__all__ = ["MAX_BODY", "RegistryChannel"]

MAX_BODY = 1 << 20
"""
The largest body that is read, in bytes, only to be dropped: nothing can be pushed here,
and whoever tries is told so by the answer to what it sends first.
"""

MAX_HEADERS = 100
"""The most headers of a request; all of them, and its URL, have 16 KiB."""

MAX_BYTES_PER_TURN = 8192
"""
Bytes that are looked at before others have their turn: enough for any request, and some
hundred of the shortest.
"""

CLOSE_TIMEOUT = 120.0
"""Seconds that a client has to take what is left, when the connection is closed."""

CROWDED = 5.0
"""Seconds for the request on a connection that is one too many."""

_TLS_HANDSHAKE = b"\x16"
"""The type of the record that a TLS client begins with (RFC 8446, section 5.1)."""


def _words(status: bytes, code: str, message: str, *headers: bytes) -> bytes:
    """An answer to what has not become a request."""
    body = ErrorResponse(status=int(status[:3]), code=code, message=message).body()
    lines = [
        b"HTTP/1.1 " + status,
        b"Connection: close",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *headers,
    ]
    return b"\r\n".join([*lines, b"", body])


_MALFORMED = _words(
    b"400 Bad Request",
    "UNSUPPORTED",
    f"the request is not HTTP/1.1 as it should be, or has more than {MAX_HEADERS} headers or"
    " 16 KiB of them",
)
_LONG_URL = _words(b"414 URI Too Long", "UNSUPPORTED", "the URL is longer than 16 KiB")
_LONG_HEADER = _words(
    b"431 Request Header Fields Too Large", "UNSUPPORTED", "a header is longer than 16 KiB"
)
_LONG_BODY = _words(
    b"413 Content Too Large",
    "UNSUPPORTED",
    "this registry builds its images itself: nothing can be pushed to it",
)
_SLOW = _words(
    b"408 Request Timeout", "UNSUPPORTED", "the request took too long to arrive (head_timeout)"
)
_TOO_MANY = _words(
    b"429 Too Many Requests",
    "TOOMANYREQUESTS",
    "this client has as many connections as one may have (client_connections)",
    b"Retry-After: 5",
)


class ChannelTransport(Protocol):
    """What carries channels: TCP, TLS, UNIX sockets, and the PROXY protocol around these."""

    disconnecting: bool

    def write(self, data: bytes) -> None:
        """Send something."""

    def abortConnection(self) -> None:  # noqa: N802
        """End at once; what has not been sent is dropped."""

    def pauseProducing(self) -> None:
        """Take nothing from the client for now."""

    def resumeProducing(self) -> None:
        """Take something again."""


class ChannelSite(Protocol):
    """What a channel knows of the site that it belongs to."""

    door: AdmissionControl
    channels: set[RegistryChannel]


class RegistryChannel(HTTPChannel):
    """A connection; one that begins with TLS where none is spoken is ended at once."""

    maxHeaders = MAX_HEADERS  # noqa: N815  # Twisted's name

    # Both are set by Twisted's own, when it makes a channel.
    site: ChannelSite
    transport: ChannelTransport  # type: ignore[assignment]  # and it says less of it

    crowded = False
    """Whether it is one too many, so that it is answered to monitors only."""

    _begun = False
    _gone: Deferred[None] | None = None
    _lost = False
    # Of the request that is arriving.
    _arriving = False
    _body = 0
    # What others' turns come before.
    _rest = b""
    _turn: IDelayedCall | None = None
    _inside = False
    _linger: IDelayedCall | None = None
    _origin: str | None = None
    _peer: str | None = None

    # -- the connection ---------------------------------------------------------------

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)
        room = self.site.door.enter()
        if room is None:
            self.site.door.refused("connections")
            self.transport.abortConnection()
            return
        if not room:
            self.crowded = True
            self.setTimeout(CROWDED)
        self._occupy()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._lost:
            return
        self._lost = True
        self.site.channels.discard(self)
        self.site.door.leave()
        self.site.door.release_client(self._origin)
        for call in (self._turn, self._linger):
            if call is not None and call.active():
                call.cancel()
        self._rest = b""
        super().connectionLost(reason)
        if self._gone is not None:
            self._gone.callback(None)

    def finish(self) -> Deferred[None]:
        """Take no more requests; fires when the connection has ended."""
        self._gone = Deferred()
        if self.requests:
            # The last one ends the connection.
            self.persistent = False
        else:
            self.loseConnection()
        return self._gone

    def loseConnection(self) -> None:  # noqa: N802
        super().loseConnection()
        if self._linger is None and not self._lost:
            self._linger = self.callLater(CLOSE_TIMEOUT, self.transport.abortConnection)

    def timeoutConnection(self) -> None:  # noqa: N802
        """Nothing has come for too long, or not all of a request."""
        if self._arriving:
            self._turn_away("head_timeout", _SLOW)
        else:
            self.loseConnection()

    def _occupy(self) -> None:
        """Count the connection for its client; called again when the address has changed."""
        door = self.site.door
        self._peer = getattr(self.getPeer(), "host", None)
        door.release_client(self._origin)
        self._origin = door.assign_client(self._peer)
        if self._origin is None:
            self._turn_away("client_connections", _TOO_MANY)

    def _turn_away(self, reason: str, words: bytes) -> None:
        """Say something that is the answer to no request, and end the connection."""
        self.site.door.refused(reason)
        self.transport.write(words)
        self.loseConnection()

    # -- what is answered ---------------------------------------------------------------

    def writeHeaders(  # noqa: N802
        self, version: bytes, code: bytes, reason: bytes, headers: Headers
    ) -> None:
        """The head of an answer."""
        # In one piece.  Twisted's own hands over each word by itself, and each is looked
        # at three times on its way.
        lines = [b"%b %b %b" % (version, code, reason)]
        for name, values in headers.getAllRawHeaders():
            lines += [b"%b: %b" % (name, value) for value in values]
        self.transport.write(b"\r\n".join([*lines, b"", b""]))

    # -- what arrives -------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._inside:
            # Twisted's own goes on with what had to wait for an answer.
            self._take(data)
            return
        if not self._begun and not self._begin(data):
            return
        if not self._rest and len(data) <= MAX_BYTES_PER_TURN:
            self._take(data)
            return
        self._rest += data
        self._wait_for_turn()

    def requestDone(self, request: Request) -> None:  # noqa: N802
        inside, self._inside = self._inside, True
        try:
            super().requestDone(request)
        finally:
            self._inside = inside
        if self._rest:
            self._wait_for_turn()

    def _begin(self, data: bytes) -> bool:
        """:return: whether there is a use for what comes."""
        # Docker, podman and skopeo try TLS first, with a registry on the loopback
        # interface too.  A channel that waits for the end of a line lets them wait ten
        # seconds, in every pull, until they give up and go on without.
        if data.startswith(_TLS_HANDSHAKE):
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            self.loseConnection()
            return False
        self._begun = True
        # The PROXY protocol tells by now who it is.
        if getattr(self.getPeer(), "host", None) != self._peer:
            self._occupy()
        return not self.transport.disconnecting

    def _wait_for_turn(self) -> None:
        """Take the rest piece by piece, with others' turns in between."""
        if self._lost or self.transport.disconnecting:
            self._rest = b""
            return
        self.transport.pauseProducing()
        if self._turn is None and not self._answering:
            self._turn = self.callLater(0, self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        piece, self._rest = self._rest[:MAX_BYTES_PER_TURN], self._rest[MAX_BYTES_PER_TURN:]
        self._take(piece)
        if self._rest:
            self._wait_for_turn()
        elif not (
            self._answering
            or self._waitingForTransport
            or self._lost
            or self.transport.disconnecting
        ):
            self.transport.resumeProducing()

    @property
    def _answering(self) -> bool:
        # The clock of what arrives rests meanwhile.
        return self.timeOut is None

    def _take(self, data: bytes) -> None:
        if not self._arriving and not self._answering:
            # From its first byte on, a request has a time to arrive in: it does not
            # begin again with every byte, as Twisted's own would have it.
            self._arriving = True
            self.setTimeout(CROWDED if self.crowded else self.site.door.limits.head_timeout)
        LineReceiver.dataReceived(self, data)

    def allHeadersReceived(self) -> None:  # noqa: N802
        if self.length is not None and self.length > MAX_BODY:
            self._turn_away("body", _LONG_BODY)
            return
        super().allHeadersReceived()
        if self.crowded:
            self.persistent = False
            self.requests[-1].responseHeaders.setRawHeaders(b"Connection", [b"close"])

    def rawDataReceived(self, data: bytes) -> None:  # noqa: N802
        if not self._answering:
            self._body += len(data)
            if self._body > MAX_BODY + MAX_BYTES_PER_TURN:
                self._turn_away("body", _LONG_BODY)
                return
        super().rawDataReceived(data)

    def allContentReceived(self) -> None:  # noqa: N802
        self._arriving = False
        self._body = 0
        # Twisted's own puts it aside while the request is answered.
        self.timeOut = self.site.door.limits.idle_timeout  # type: ignore[assignment]  # seconds
        super().allContentReceived()

    def lineLengthExceeded(self, _line: bytes) -> None:  # noqa: N802
        self._turn_away("malformed", _LONG_HEADER if self.requests else _LONG_URL)

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802
        # Twisted's own, with words.
        self._turn_away("malformed", _MALFORMED)
