"""
The HTTP server around the resources: limits, an id and one line in the log for each
request.

Twisted's own access log writes lines to a file of its own and none at all for a
client that leaves before its answer is complete; these lines are events like all
others.  Nothing that a client sends can begin a line of its own in a log or act
on the terminal that shows it, and query strings, which may hold secrets, are left
out.

The id is made here, whatever a client sends: it is what a line in the log and an answer
have in common, and nobody else's word is taken for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from itertools import count

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
from nixery.limits.addresses import LOCAL, origin_of
from nixery.limits.admission import AdmissionControl
from nixery.runtime.deferreds import TimedOut, with_timeout
from nixery.version import VERSION

__all__ = ["DRAIN_TIMEOUT", "RegistrySite", "LoggedRequest", "make_site"]

DRAIN_TIMEOUT = 2.0
"""Seconds that clients are given to take what they were answered, when the daemon stops."""

_SERVER = b"nixery/" + VERSION.encode("ascii")

_MAX_FORM = 16384
"""The largest body that is kept, in bytes."""


Ended = Callable[["LoggedRequest", float], None]
"""Called with a request that has ended, and the seconds it took."""


def make_site(
    root: Resource,
    clock: IReactorTime,
    *,
    ended: Ended = lambda _request, _seconds: None,
    door: AdmissionControl | None = None,
) -> RegistrySite:
    """
    The factory that serves a resource tree.

    :param root: the tree's root.
    :param clock: for timeouts, and to tell how long requests took.
    :param ended: told of each request that has ended, however it did; must not fail,
        and take microseconds.
    :param door: what clients may take; by default, as many requests and connections as
        they like.
    """
    return RegistrySite(root, clock, ended, door or AdmissionControl(seconds=clock.seconds))


class RegistrySite(Site):
    """A site whose access log consists of events; see :func:`make_site`."""

    _log = Logger()

    def __init__(
        self, root: Resource, clock: IReactorTime, ended: Ended, door: AdmissionControl
    ) -> None:
        super().__init__(
            root,
            requestFactory=LoggedRequest,
            timeout=door.limits.idle_timeout,
            reactor=clock,
            # What reads a form does so itself, and of what size it likes.
            parsePOSTFormSubmission=False,
        )
        self.clock = clock
        self.door = door
        self.channels: set[RegistryChannel] = set()
        self.ended = ended
        # Ids differ between processes, so that a log of several is searched at once.
        self._id_prefix = secrets.token_hex(4)
        self._ids = count(1)
        # Twisted's types know no other protocol than its own.
        self.protocol = RegistryChannel  # type: ignore[method-assign,assignment]

    def new_id(self) -> str:
        """An id for a request."""
        return f"{self._id_prefix}-{next(self._ids):x}"

    @property
    def in_progress(self) -> int:
        """How many requests are being answered."""
        return sum(1 for channel in self.channels if channel.requests)

    async def finish(self) -> None:
        """
        End all connections, each when its answer is on its way.

        A reactor that stops drops what is written and not yet sent: who has waited
        for a build, and is told now that there will be none, would not hear of it.
        """
        ends = [channel.finish() for channel in tuple(self.channels)]
        with suppress(TimedOut):
            await with_timeout(DRAIN_TIMEOUT, self.clock, _all(ends))

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802
        """What a TLS endpoint offers: the one version that channels speak."""
        return [b"http/1.1"]

    def startFactory(self) -> None:  # noqa: N802
        # Twisted's own begins to format the reactor's time as the time of day, once a
        # second, for lines that are never written.
        pass

    def log(self, request: HTTPRequest) -> None:
        """Write the line for a request that has ended."""
        assert isinstance(request, LoggedRequest)
        client = request.visitor_address
        user = None if request.visitor is None else request.visitor.user
        who = client if user is None else f"{user}@{client}"
        method = log_text(request.method)
        path = log_text(request.path)
        seconds = 0.0 if request.begun is None else self.clock.seconds() - request.begun
        agent = log_text(request.getHeader(b"User-Agent") or b"-")
        end = " (incomplete)" if request.cut_short else ""
        self._log.info(
            # The other fields are for whoever reads events.  Twisted would take as long
            # to put them into a line as a manifest takes to be found and answered.
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
            complete=not request.cut_short,
            request_id=request.id,
        )
        self.ended(request, seconds)


class LoggedRequest(Request):
    """A request that is in the log, however it ends."""

    id = ""
    """What the log and the client know it by; empty: it has not been taken up."""

    begun: float | None = None
    """When it was taken up, by the site's monotonic clock; ``None``: not yet."""

    visitor: Client | None = None
    """Who sends it, where that matters: see :mod:`nixery.http.auth`."""

    _address: str | None = None

    cut_short = False
    """Whether the connection was lost before its answer was complete."""

    def gotLength(self, length: int | None) -> None:  # noqa: N802
        # Twisted keeps a body in memory, or in a temporary file, before anybody
        # has looked at the request.  Hardly any request here has a use for one, and a
        # push of gigabytes is refused without having been stored.  Only forms that
        # fetch a token are wanted, and they are small.
        small = length is not None and 0 < length <= _MAX_FORM
        self.content = BytesIO() if small else _Nowhere()

    def process(self) -> None:
        # Answers name their type themselves.
        self.defaultContentType = None
        super().process()

    def render(self, resrc: Resource) -> None:
        if isinstance(self.site, RegistrySite):
            self.begun = self.site.clock.seconds()
            self.id = self.site.new_id()
            self.responseHeaders.setRawHeaders(b"X-Request-Id", [self.id.encode("ascii")])
            refusal = self.site.door.admit(
                self.path, self.visitor_keys, crowded=getattr(self.channel, "crowded", False)
            )
            if refusal is not None:
                self._refuse(refusal)
                return
        self.responseHeaders.setRawHeaders(b"Server", [_SERVER])
        super().render(resrc)

    @property
    def visitor_address(self) -> str:
        """The address of the client; of the one behind a proxy that is trusted."""
        if self._address is None:
            peer: str | None = getattr(self.client, "host", None)
            self._address = peer or LOCAL
            if isinstance(self.site, RegistrySite) and self.site.door.limits.proxies:
                forwarded = self.requestHeaders.getRawHeaders(b"X-Forwarded-For")
                self._address = self.site.door.client(peer, forwarded)
        return self._address

    @property
    def visitor_keys(self) -> tuple[str, ...]:
        """All that the client is counted by: its address, and its user if there is one."""
        origin = origin_of(self.visitor_address)
        user = None if self.visitor is None else self.visitor.user
        # No address has a space in it.
        return (origin,) if user is None else (origin, f"user {user}")

    def _refuse(self, error: NixeryError) -> None:
        self.responseHeaders.setRawHeaders(b"Server", [_SERVER])
        body = send_error(self, error_response(error))
        if self.method != b"HEAD":
            self.write(body)
        self.finish()

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        self.cut_short = True
        if isinstance(self.site, RegistrySite):  # or else it was never taken up
            self.site.log(self)


async def _all(ends: Sequence[Deferred[None]]) -> None:
    for end in ends:
        await end


class _Nowhere:
    """A file, as a request wants one for its body, that keeps nothing."""

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
