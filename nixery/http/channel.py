"""
HTTP connections with limits on time, bytes, and reactor time per turn.

Twisted's own channel has three weaknesses against slow or hostile clients.  It restarts
its timeout with each byte, so that a request may take days to arrive; it answers all
pipelined requests in one reactor turn, while all other connections wait; and a connection
that it has closed stays open for as long as its client leaves the last response unread.
"""

from __future__ import annotations

from collections.abc import Iterable
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
from nixery.limits.unsent_bytes import UnsentBytes

__all__ = ["MAX_BODY", "RegistryChannel"]

MAX_BODY = 1 << 20
"""
The largest request body that is read, in bytes; it is discarded.  Nothing can be pushed
here: a client that tries gets an error as the response to its first request.
"""

MAX_HEADERS = 100
"""The most headers of a request."""

MAX_LINE = 16 * 1024
"""The longest URL, and the longest header but for Range, in bytes."""

MAX_RANGE_LINE = 32 * 1024 + len(b"Range: ")
"""The longest Range header in bytes: partial pulls ask for up to 1,024 ranges at once."""

MAX_HEADER_BYTES = MAX_LINE + MAX_RANGE_LINE
"""The most bytes of a URL and all headers."""

MAX_BYTES_PER_TURN = 8192
"""
Bytes that are parsed before other connections have their turn: enough for any request,
and for some hundred of the shortest.
"""

CLOSE_TIMEOUT = 120.0
"""Seconds that a client has to read the remaining data when the connection is closed."""

OVER_LIMIT_READ_SECONDS = 5.0
"""Seconds for the request to arrive on a connection above the limit."""

_TLS_HANDSHAKE = b"\x16"
"""The type of the record that a TLS client begins with (RFC 8446, section 5.1)."""


def _raw_response(status: bytes, code: str, message: str, *headers: bytes) -> bytes:
    """Make a raw response for input that was not parsed into a request."""
    body = ErrorResponse(status=int(status[:3]), code=code, message=message).body()
    lines = [
        b"HTTP/1.1 " + status,
        b"Connection: close",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *headers,
    ]
    return b"\r\n".join([*lines, b"", body])


_MALFORMED = _raw_response(
    b"400 Bad Request",
    "UNSUPPORTED",
    f"the request is not HTTP/1.1 as it should be, or has more than {MAX_HEADERS} headers or"
    f" {MAX_HEADER_BYTES} bytes of them",
)
_LONG_URL = _raw_response(b"414 URI Too Long", "UNSUPPORTED", "the URL is longer than 16384 bytes")
_LONG_HEADER = _raw_response(
    b"431 Request Header Fields Too Large", "UNSUPPORTED", "a header is longer than 16384 bytes"
)
# Clients of partial pulls ask for fewer ranges upon 400, and fail upon 431.
_LONG_RANGE = _raw_response(
    b"400 Bad Request",
    "SIZE_INVALID",
    "the Range header is longer than 32768 bytes: ask for fewer ranges",
)
_LONG_BODY = _raw_response(
    b"413 Content Too Large",
    "UNSUPPORTED",
    "this registry builds its images itself: nothing can be pushed to it",
)
_SLOW = _raw_response(
    b"408 Request Timeout",
    "UNSUPPORTED",
    "the request took too long to arrive",
)
_TOO_MANY = _raw_response(
    b"429 Too Many Requests",
    "TOOMANYREQUESTS",
    "this client has as many connections as one may have (connections_per_client)",
    b"Retry-After: 5",
)


class ChannelTransport(Protocol):
    """The transport of a channel: TCP, TLS, UNIX sockets, and the PROXY protocol around these."""

    disconnecting: bool

    def write(self, data: bytes) -> None:
        """Send data."""

    def abortConnection(self) -> None:  # noqa: N802
        """Close the connection at once; data that has not been sent is dropped."""

    def pauseProducing(self) -> None:
        """Stop reading from the client for now."""

    def resumeProducing(self) -> None:
        """Read from the client again."""


class ChannelSite(Protocol):
    """The part of a site's interface that its channels use."""

    admission: AdmissionControl
    unsent: UnsentBytes
    channels: set[RegistryChannel]


class RegistryChannel(HTTPChannel):
    """An HTTP connection; one that begins with TLS on a plain port is closed at once."""

    maxHeaders = MAX_HEADERS  # noqa: N815  # Twisted's name
    totalHeadersSize = MAX_HEADER_BYTES  # noqa: N815
    MAX_LENGTH = MAX_RANGE_LINE

    # Both are set by Twisted when it makes a channel.
    site: ChannelSite
    transport: ChannelTransport  # type: ignore[assignment]  # Twisted's type has fewer methods

    over_limit = False
    """True if the connection is above the limit, so that only monitors are answered on it."""

    _begun = False
    _gone: Deferred[None] | None = None
    _lost = False
    # State of the request that is arriving.
    _arriving = False
    _body = 0
    # Data that waits for this connection's next turn.
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
        room = self.site.admission.connection_opened()
        if room is None:
            self.site.admission.count_refusal("connections")
            self.transport.abortConnection()
            return
        if not room:
            self.over_limit = True
            self.setTimeout(OVER_LIMIT_READ_SECONDS)
        self._occupy()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._lost:
            return
        self._lost = True
        self.site.channels.discard(self)
        self.site.admission.connection_closed()
        self.site.admission.release_client(self._origin)
        self.site.unsent.remove(self)
        for call in (self._turn, self._linger):
            if call is not None and call.active():
                call.cancel()
        self._rest = b""
        super().connectionLost(reason)
        if self._gone is not None:
            self._gone.callback(None)

    def finish(self) -> Deferred[None]:
        """Accept no more requests; the Deferred fires when the connection has ended."""
        self._gone = Deferred()
        if self.requests:
            # The response to the last one ends the connection.
            self.persistent = False
        else:
            self.loseConnection()
        return self._gone

    def loseConnection(self) -> None:  # noqa: N802
        super().loseConnection()
        if self._linger is None and not self._lost:
            self._linger = self.callLater(CLOSE_TIMEOUT, self.transport.abortConnection)

    def timeoutConnection(self) -> None:  # noqa: N802
        """Close a connection that was idle too long, or whose request took too long to arrive."""
        if self._arriving:
            self._reject("head_timeout", _SLOW)
        else:
            self.loseConnection()

    def end_slow(self) -> None:
        """Close the connection at once: its client takes too little, and all hold too much."""
        self.transport.abortConnection()

    def _occupy(self) -> None:
        """Count the connection for its client; called again when the address has changed."""
        admission = self.site.admission
        self._peer = getattr(self.getPeer(), "host", None)
        admission.release_client(self._origin)
        self._origin = admission.assign_client(self._peer)
        if self._origin is None:
            self._reject("client_connections", _TOO_MANY)

    def _reject(self, reason: str, words: bytes) -> None:
        """Send a raw response that belongs to no request, and end the connection."""
        self.site.admission.count_refusal(reason)
        self.transport.write(words)
        self.loseConnection()

    # -- responses ----------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Pass a part of a response to the transport."""
        super().write(data)
        # Only what is written while the client takes nothing: the rest is in the transport's
        # buffer for a moment.  The transport has paused this channel by now, if it is full.
        if self._waitingForTransport and not self._lost:
            self.site.unsent.add(self, self._peer, len(data))

    def writeSequence(self, iovec: Iterable[bytes]) -> None:  # noqa: N802
        """Pass parts of a response to the transport."""
        self.write(b"".join(iovec))

    def resumeProducing(self) -> None:
        self.site.unsent.remove(self)
        super().resumeProducing()

    def writeHeaders(  # noqa: N802
        self, version: bytes, code: bytes, reason: bytes, headers: Headers
    ) -> None:
        """Write the status line and the headers of a response."""
        # In one write.  Twisted's own passes each word to the transport separately, and each
        # is processed three times on its way.
        lines = [b"%b %b %b" % (version, code, reason)]
        for name, values in headers.getAllRawHeaders():
            lines += [b"%b: %b" % (name, value) for value in values]
        self.transport.write(b"\r\n".join([*lines, b"", b""]))

    # -- requests -----------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._inside:
            # Twisted's requestDone() passes on the data that had to wait for a response.
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
        """Inspect the first bytes of a connection; :return: true if they are to be parsed."""
        # Docker, podman and skopeo try TLS first, even with a registry on the loopback
        # interface.  A channel that waits for the end of a line delays every pull by ten
        # seconds, after which they give up and go on without TLS.
        if data.startswith(_TLS_HANDSHAKE):
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            self.loseConnection()
            return False
        self._begun = True
        # By now the PROXY protocol has given the client's address.
        if getattr(self.getPeer(), "host", None) != self._peer:
            self._occupy()
        return not self.transport.disconnecting

    def _wait_for_turn(self) -> None:
        """Parse the rest piece by piece, with the turns of other connections in between."""
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
        # Twisted has suspended the timeout while a request is being answered.
        return self.timeOut is None

    def _take(self, data: bytes) -> None:
        if not self._arriving and not self._answering:
            # The timeout for a request to arrive runs from its first byte: unlike Twisted's
            # own, it does not restart with every byte.
            self._arriving = True
            self.setTimeout(
                OVER_LIMIT_READ_SECONDS
                if self.over_limit
                else self.site.admission.limits.request_read_timeout
            )
        LineReceiver.dataReceived(self, data)

    def allHeadersReceived(self) -> None:  # noqa: N802
        if self.length is not None and self.length > MAX_BODY:
            self._reject("body", _LONG_BODY)
            return
        super().allHeadersReceived()
        if self.over_limit:
            self.persistent = False
            self.requests[-1].responseHeaders.setRawHeaders(b"Connection", [b"close"])

    def rawDataReceived(self, data: bytes) -> None:  # noqa: N802
        if not self._answering:
            self._body += len(data)
            if self._body > MAX_BODY + MAX_BYTES_PER_TURN:
                self._reject("body", _LONG_BODY)
                return
        super().rawDataReceived(data)

    def allContentReceived(self) -> None:  # noqa: N802
        self._arriving = False
        self._body = 0
        # Twisted suspends it while the request is answered.
        self.timeOut = self.site.admission.limits.idle_timeout  # type: ignore[assignment]  # seconds
        super().allContentReceived()

    def lineReceived(self, line: bytes) -> None:  # noqa: N802
        if len(line) > MAX_LINE and not (self.requests and _is_range(line)):
            self.lineLengthExceeded(line)
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802
        if not self.requests:
            response = _LONG_URL
        else:
            response = _LONG_RANGE if _is_range(line) else _LONG_HEADER
        self._reject("malformed", response)

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802
        # As Twisted's own, with an error message in the body.
        self._reject("malformed", _MALFORMED)


def _is_range(line: bytes) -> bool:
    """True if a line, or the beginning of one, is a Range header."""
    return line[:6].lower() == b"range:"
