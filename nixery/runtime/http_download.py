"""
Fetches files of moderate size by their URLs.

The daemon fetches URLs that its operator configured, but a web server may answer without
end, too slowly, or cut short.  A :class:`Fetcher` either returns a whole file within a limit
of size and time, or raises one type of error.  It goes through the proxies that the environment
names, and follows redirects unless they lead from HTTPS to HTTP: an attacker who could change the
answer would choose the code that is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from attrs import frozen
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol as ByteProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from nixery.runtime.deferreds import TimedOut, shield, with_timeout
from nixery.runtime.errors import FetchFailed
from nixery.runtime.proxy_agent import Agent, read_proxies
from nixery.runtime.retry import parse_retry_after
from nixery.runtime.workers import Workers
from nixery.version import VERSION

__all__ = ["Fetcher", "make_fetcher", "shown"]

TIMEOUT = 120.0
"""Maximum duration of one download in seconds."""

MAX_REDIRECTS = 5

REDIRECT_STATUSES = (301, 302, 303, 307, 308)

TEMPORARY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses after which another attempt may succeed."""

_USER_AGENT = f"nixery/{VERSION}"


@frozen(kw_only=True)
class Fetcher:
    """
    Fetches files.

    :param client: for ``http`` and ``https``.
    :param workers: for ``file``.
    :param clock: measures the duration.
    :param timeout: maximum duration in seconds.
    """

    client: HTTPClient
    workers: Workers
    clock: IReactorTime
    timeout: float = TIMEOUT

    async def fetch(self, url: str, limit: int, /, timeout: float | None = None) -> bytes:
        """
        Fetch a whole file.

        :param url: ``http``, ``https`` or ``file``.
        :param limit: maximum size in bytes.
        :param timeout: maximum duration in seconds, if it differs from the usual one.
        :raises FetchFailed: it could not be fetched, for any reason.
        """
        if urlsplit(url).scheme == "file":
            return await self.workers.run(_read, url, limit)
        seconds = self.timeout if timeout is None else timeout
        try:
            return await with_timeout(seconds, self.clock, self._get(url, limit))
        except TimedOut:
            raise FetchFailed(url=shown(url), reason=f"it took longer than {seconds:g} s") from None
        except (CancelledError, FetchFailed):
            raise
        # Unresolvable names, refused connections, broken TLS and protocol errors: each
        # library involved has exception types of its own.
        except Exception as error:
            raise FetchFailed(url=shown(url), reason=_reason(error)) from error

    async def _get(self, url: str, limit: int) -> bytes:
        response = await self._follow(url)
        # The body of an error is read too: the connection can be used again after it.
        body = await _collect(response, limit)
        if response.code != 200:
            [retry_after, *_] = response.headers.getRawHeaders("Retry-After") or [None]
            raise FetchFailed(
                url=shown(url),
                reason=f"the server answered with status {response.code}",
                status=response.code,
                retry_after=parse_retry_after(retry_after),
                temporary=response.code in TEMPORARY_STATUSES,
            )
        if body is None:
            raise FetchFailed(
                url=shown(url), reason=f"it has more than {limit} bytes", temporary=False
            )
        return body

    async def _follow(self, url: str) -> IResponse:
        """
        Request a URL, and what it redirects to.

        treq's own redirects lead anywhere, and leave the bodies of redirects unread, with their
        connections open.
        """
        plain, auth = _without_password(url)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._request(plain, auth)
            if response.code not in REDIRECT_STATUSES:
                return response
            _drop(response)
            [location, *_] = response.headers.getRawHeaders("Location") or [""]
            previous, plain = urlsplit(plain), urljoin(plain, location)
            target = urlsplit(plain)
            if previous.scheme == "https" and target.scheme != "https":
                raise FetchFailed(
                    url=shown(url),
                    reason=f"it redirects to {shown(plain)}, which is not secure",
                    temporary=False,
                )
            if (previous.scheme, previous.netloc) != (target.scheme, target.netloc):
                auth = None
        raise FetchFailed(url=shown(url), reason="it redirects again and again", temporary=False)

    async def _request(self, url: str, auth: tuple[str, str] | None) -> IResponse:
        task = self.client.get(
            url,
            auth=auth,
            headers=Headers({"User-Agent": [_USER_AGENT]}),
            allow_redirects=False,
            unbuffered=True,
            # Used for timeouts only, which are not set here; without this argument the
            # global reactor would be imported.
            reactor=cast(Any, self.clock),
        )
        try:
            return await shield(task)
        except CancelledError:
            # A cancelled request fails with different errors, depending on its progress:
            # unresolved name, aborted connection, missing response.
            task.cancel()
            raise


def make_fetcher(
    # Any: the global reactor has no type.
    reactor: Any,
    workers: Workers,
    environ: Mapping[str, str],
    *,
    timeout: float = TIMEOUT,
    pool: HTTPConnectionPool | None = None,
) -> Fetcher:
    """
    Make a fetcher.

    :param environ: the environment, which may name proxies.
    :param timeout: maximum duration of one download in seconds.
    :param pool: keeps connections; without one, each request has its own.
    """
    client = HTTPClient(Agent(reactor, read_proxies(environ), pool=pool))
    return Fetcher(client=client, workers=workers, clock=reactor, timeout=timeout)


def shown(url: str) -> str:
    """Remove the possibly secret parts of a URL: user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class _Body(ByteProtocol):
    """Collects the body of a response."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0
        self.whole: Deferred[bytes | None] = Deferred(lambda _: self._leave())

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._limit:
            self._pieces.append(data)
        elif not self.whole.called:
            self.whole.callback(None)
            self._leave()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        # An HTTP 1.0 server ends a body by closing the connection; whether it is complete
        # is checked when it is read.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(b"".join(self._pieces))
        else:
            self.whole.errback(reason)

    def _leave(self) -> None:
        self._pieces.clear()
        if self.transport is not None:
            self.transport.loseConnection()


async def _collect(response: IResponse, limit: int) -> bytes | None:
    """Return the body of a response; ``None`` if it has more than ``limit`` bytes."""
    body = _Body(limit)
    response.deliverBody(body)
    return await body.whole


def _drop(response: IResponse) -> None:
    """Close the connection of a response whose body is not read."""
    body = _Body(0)
    response.deliverBody(body)
    body.whole.addErrback(lambda _: None)
    body.whole.cancel()


def _without_password(url: str) -> tuple[str, tuple[str, str] | None]:
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, None
    given, _, host = parts.netloc.rpartition("@")
    user, _, password = given.partition(":")
    plain = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    return plain, (unquote(user), unquote(password))


def _reason(error: Exception) -> str:
    if isinstance(error, ResponseFailed | RequestTransmissionFailed) and error.reasons:
        error = error.reasons[-1].value
    return str(error) or type(error).__name__


def _read(url: str, limit: int) -> bytes:
    """Read a local file.  Blocks."""
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_absolute():
        raise FetchFailed(url=shown(url), reason="write a path of this machine: file:///path")
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FetchFailed(url=shown(url), reason=reason) from error
    if len(data) > limit:
        raise FetchFailed(url=shown(url), reason=f"it has more than {limit} bytes")
    return data
