"""
The HTTP server that serves the resources: limits, an id and one line in the log for each
request.

Twisted's own access log writes lines to a separate file, and none at all for a client
that disconnects before its response is complete; the lines of this one are ordinary log
events.  Data from a client cannot begin a new line in the log or act on the terminal that
shows it, and query strings, which may hold secrets, are left out.

The id is always generated here, since it links a line in the log to a response: an id
that a client sends is not used.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from itertools import count
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from nixery.access.identity import Client
from nixery.errors import NixeryError
from nixery.http.channel import RegistryChannel
from nixery.http.error_responses import error_response, log_text
from nixery.http.responses import send_error
from nixery.limits.addresses import UNIX_SOCKET, client_key_of
from nixery.limits.admission import AdmissionControl
from nixery.limits.unsent_bytes import UnsentBytes
from nixery.runtime.deferreds import TimedOut, with_timeout
from nixery.version import VERSION

__all__ = [
    "DRAIN_TIMEOUT",
    "LoggedRequest",
    "RegistrySite",
    "first_segment",
    "make_site",
    "split_path",
]

DRAIN_TIMEOUT = 2.0
"""Seconds that clients are given to read their responses when the daemon stops."""

_SERVER = b"nixery/" + VERSION.encode("ascii")

_MAX_FORM = 16384
"""The largest request body that is kept, in bytes."""

_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#]+)", re.IGNORECASE)
"""The beginning of a request target that names a host, as clients send it to proxies."""


Ended = Callable[["LoggedRequest", float], None]
"""Called with a request that has ended, and the seconds it took."""


def make_site(
    root: Resource,
    clock: IReactorTime,
    *,
    ended: Ended = lambda _request, _seconds: None,
    admission: AdmissionControl | None = None,
    unsent: UnsentBytes | None = None,
) -> RegistrySite:
    """
    Make the factory that serves a resource tree.

    :param root: the tree's root.
    :param clock: for timeouts, and to measure the duration of requests.
    :param ended: called with each request that has ended, complete or not; must not fail,
        and must return within microseconds.
    :param admission: limits requests and connections of clients; by default, they are not
        limited.
    :param unsent: limits the bytes that wait for clients; by default, with its own default.
    """
    return RegistrySite(
        root,
        clock,
        ended,
        admission or AdmissionControl(seconds=clock.seconds),
        unsent or UnsentBytes(),
    )


class RegistrySite(Site):
    """A site that writes its access log as log events; see :func:`make_site`."""

    _log = Logger()
    noisy = False

    def __init__(
        self,
        root: Resource,
        clock: IReactorTime,
        ended: Ended,
        admission: AdmissionControl,
        unsent: UnsentBytes,
    ) -> None:
        super().__init__(
            root,
            requestFactory=LoggedRequest,
            timeout=admission.limits.idle_timeout,
            reactor=clock,
            # The token endpoint parses its form itself, with its own size limit.
            parsePOSTFormSubmission=False,
        )
        self.clock = clock
        self.admission = admission
        self.unsent = unsent
        self.channels: set[RegistryChannel] = set()
        self.ended = ended
        # Ids differ between processes, so that one search covers the logs of several.
        self._id_prefix = secrets.token_hex(4)
        self._ids = count(1)
        # Twisted's types allow no other protocol than its own.
        self.protocol = RegistryChannel  # type: ignore[method-assign,assignment]

    def new_id(self) -> str:
        """Return a new id for a request."""
        return f"{self._id_prefix}-{next(self._ids):x}"

    @property
    def in_progress(self) -> int:
        """The number of requests that are being answered."""
        return sum(1 for channel in self.channels if channel.requests)

    async def finish(self) -> None:
        """
        End all connections, each when its response has been sent, within ``DRAIN_TIMEOUT``.

        A reactor that stops drops data that is written and not yet sent: a client that has
        waited for a build would not get the response that says the daemon stops.
        """
        ends = [channel.finish() for channel in tuple(self.channels)]
        with suppress(TimedOut):
            await with_timeout(DRAIN_TIMEOUT, self.clock, _all(ends))

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802
        """Return the protocols that a TLS endpoint offers: HTTP/1.1 alone."""
        return [b"http/1.1"]

    def startFactory(self) -> None:  # noqa: N802
        # Twisted's own starts a timer that formats the time of day once a second, for log
        # lines that are never written.
        pass

    def log(self, request: HTTPRequest) -> None:
        """Write the line for a request that has ended."""
        assert isinstance(request, LoggedRequest)
        client = request.client_address
        user = None if request.resolved_client is None else request.resolved_client.user
        who = client if user is None else f"{user}@{client}"
        method = log_text(request.method)
        path = log_text(request.path)
        seconds = 0.0 if request.begun is None else self.clock.seconds() - request.begun
        agent = log_text(request.getHeader(b"User-Agent") or b"-")
        end = " (incomplete)" if request.aborted else ""
        self._log.info(
            # The other fields are for consumers of events.  Formatting them into a line with
            # Twisted would take as long as finding and sending a manifest.
            "{line}",
            line=f"{who} {method} {path} {request.code} {request.sentLength} B"
            f" {seconds:.3f} s {request.id} {agent}{end}",
            client=client,
            user=user,
            method=method,
            path=path,
            status=request.code,
            sent=request.sentLength,
            seconds=seconds,
            agent=agent,
            complete=not request.aborted,
            request_id=request.id,
        )
        self.ended(request, seconds)


class LoggedRequest(Request):
    """A request that is logged when it ends, complete or not."""

    id = ""
    """The id in the log and in the response; empty: processing has not begun."""

    begun: float | None = None
    """The start of processing, by the site's monotonic clock; ``None``: not yet begun."""

    resolved_client: Client | None = None
    """The client, as determined by :mod:`nixery.http.auth`; ``None``: not determined."""

    _address: str | None = None

    aborted = False
    """True if the connection was lost before the response was complete."""

    def gotLength(self, length: int | None) -> None:  # noqa: N802
        # Twisted stores a body in memory, or in a temporary file, before the request is
        # processed.  Hardly any request here needs its body, and a push of gigabytes
        # is refused without having been stored.  Only the forms that fetch a token are
        # kept, and they are small.  The length of a chunked body is not known yet.
        large = length is not None and length > _MAX_FORM
        self.content = _DiscardedBody() if large or length == 0 else _SmallBody()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: N802
        absolute = _ABSOLUTE_FORM.match(path)
        if absolute is not None:
            # Every server has to accept this form, and to take the host from the target and not
            # from the header (RFC 9112, section 3.2.2).
            self.requestHeaders.setRawHeaders(b"Host", [absolute[1].rpartition(b"@")[2]])
            rest = path[absolute.end() :]
            path = rest if rest.startswith(b"/") else b"/" + rest
        super().requestReceived(command, path, version)

    def process(self) -> None:
        # Each resource sets its own Content-Type.
        self.defaultContentType = None
        super().process()

    def render(self, resrc: Resource) -> None:
        self.postpath = split_path(self.path)
        if isinstance(self.site, RegistrySite):
            self.begun = self.site.clock.seconds()
            self.id = self.site.new_id()
            self.responseHeaders.setRawHeaders(b"X-Request-Id", [self.id.encode("ascii")])
            refusal = self.site.admission.check_request(
                self.path, self.client_keys, over_limit=getattr(self.channel, "over_limit", False)
            )
            if refusal is not None:
                self._refuse(refusal)
                return
        self.responseHeaders.setRawHeaders(b"Server", [_SERVER])
        super().render(resrc)

    def getRequestHostname(self) -> bytes:  # noqa: N802
        """Return a fixed name: the Host header may be no host name, and a UNIX socket has none."""
        return b"localhost"

    @property
    def client_address(self) -> str:
        """The client's address; behind a trusted proxy, that of the client of the proxy."""
        if self._address is None:
            peer: str | None = getattr(self.client, "host", None)
            self._address = peer or UNIX_SOCKET
            if isinstance(self.site, RegistrySite) and self.site.admission.limits.proxies:
                forwarded = self.requestHeaders.getRawHeaders(b"X-Forwarded-For")
                self._address = self.site.admission.client_address(peer, forwarded)
        return self._address

    @property
    def has_untrusted_forwarding(self) -> bool:
        """True if the peer names the client that it speaks for, and is not trusted to."""
        peer: str | None = getattr(self.client, "host", None)
        return (
            self.requestHeaders.hasHeader(b"X-Forwarded-For")
            and isinstance(self.site, RegistrySite)
            and not self.site.admission.limits.proxies.trusts(peer or UNIX_SOCKET)
        )

    @property
    def client_keys(self) -> tuple[str, ...]:
        """The keys that the client is counted by: its address, and its user if there is one."""
        key = client_key_of(self.client_address)
        user = None if self.resolved_client is None else self.resolved_client.user
        # No address has a space in it.
        return (key,) if user is None else (key, f"user {user}")

    def _refuse(self, error: NixeryError) -> None:
        self.responseHeaders.setRawHeaders(b"Server", [_SERVER])
        body = send_error(self, error_response(error))
        if self.method != b"HEAD":
            self.write(body)
        self.finish()

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        self.aborted = True
        if isinstance(self.site, RegistrySite):  # otherwise it was never processed
            self.site.log(self)


def split_path(path: bytes) -> list[bytes]:
    """
    Split a path into decoded segments, which Klein joins again and decodes as UTF-8.

    Paths are split before they are percent-decoded: decoded first, ``a%2Fb`` would be two
    packages.  A slash within a segment becomes a backslash escape, which no grammar allows, as
    do bytes that are not UTF-8.  So does an empty first segment, which would be dropped; and a
    target that is no path (``*``) becomes a single segment.

    :param path: of the request, without its query.
    """
    if path.startswith(b"/") and not path.startswith(b"//") and b"%" not in path and path.isascii():
        return path[1:].split(b"/")
    segments = path[1:].split(b"/") if path.startswith(b"/") else [path]
    if len(segments) > 1 and not segments[0]:
        segments[0] = b"/"
    return [
        unquote_to_bytes(segment)
        .decode("utf-8", "backslashreplace")
        .replace("/", "\\x2f")
        .encode("utf-8")
        for segment in segments
    ]


def first_segment(request: Request) -> bytes:
    """Return the first segment of a request's path, decoded."""
    # Klein moves segments from one list to the other.
    segments = request.prepath or request.postpath or [b""]
    return segments[0]


async def _all(ends: Sequence[Deferred[None]]) -> None:
    for end in ends:
        await end


class _SmallBody(BytesIO):
    """A file object that keeps a request's body of up to :data:`_MAX_FORM` bytes, or nothing."""

    _discarded = False

    def write(self, data: Any) -> int:
        size = len(data)
        self._discarded = self._discarded or self.tell() + size > _MAX_FORM
        if self._discarded:
            self.truncate(0)
            return size
        return super().write(data)


class _DiscardedBody:
    """A file object for a request's body that discards what is written to it."""

    def write(self, data: bytes) -> int:
        return len(data)

    def read(self, _size: int = -1) -> bytes:
        return b""

    def seek(self, _offset: int, _whence: int = 0) -> int:
        return 0

    def tell(self) -> int:
        return 0

    def close(self) -> None:
        pass
