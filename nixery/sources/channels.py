"""
Look up the commits of nixpkgs channels.

A channel host (https://channels.nixos.org) answers ``NAME/git-revision`` with the
commit.  It redirects to another host.  A redirect is followed unless it leads from HTTPS
to HTTP: an attacker who could change the answer would choose the code that is built.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol as Connection
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.client import RequestTransmissionFailed, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from nixery.image.names import is_commit
from nixery.runtime.deferreds import TimedOut, with_timeout
from nixery.runtime.retry import THREE_ATTEMPTS, retry
from nixery.sources.errors import SourceUnavailable
from nixery.sources.source import ResolvedRef
from nixery.sources.tag_policy import ChannelName, NixpkgsCommit, Reference
from nixery.version import VERSION

__all__ = ["ChannelHost", "HttpClient"]

MAX_RESPONSE_BYTES = 1024
"""The most bytes that are read of a response, which should have 41."""

MAX_REDIRECTS = 5

MISSING_STATUSES = (404, 410)

TEMPORARY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses after which another attempt may succeed."""


class HttpClient(Protocol):
    """The part of :class:`treq.client.HTTPClient` that is used."""

    def get(
        self,
        url: str,
        /,
        *,
        headers: dict[bytes | str, bytes | str],
        allow_redirects: bool,
        unbuffered: bool,
    ) -> Awaitable[IResponse]:
        """See :meth:`treq.client.HTTPClient.get`."""


class _Refused(Exception):
    """The host sent an unusable response; ``passing`` if another attempt may succeed."""

    def __init__(self, reason: str, *, passing: bool) -> None:
        super().__init__(reason)
        self.passing = passing


class ChannelHost:
    """
    An implementation of :class:`nixery.sources.interface.RefSource` for channels.

    :param client: makes requests.
    :param url: of the host, without a slash at its end.
    :param clock: measures attempts and the pauses between them.
    :param seconds: the most seconds that a look-up may take, all attempts together.
    """

    def __init__(
        self, client: HttpClient, url: str, *, clock: IReactorTime, seconds: float
    ) -> None:
        self._client = client
        self._url = url
        self._clock = clock
        self._seconds = seconds

    async def check(self) -> None:
        """See :meth:`nixery.sources.interface.RefSource.check`."""

    async def find(self, reference: Reference) -> ResolvedRef | None:
        """See :meth:`nixery.sources.interface.RefSource.find`."""
        if isinstance(reference, NixpkgsCommit):
            return ResolvedRef(commit=reference.commit)
        if not isinstance(reference, ChannelName):
            return None
        url = f"{self._url}/{reference.name}/git-revision"

        async def attempt(seconds: float) -> ResolvedRef | None:
            return await with_timeout(seconds, self._clock, self._ask(url))

        try:
            return await retry(
                attempt, THREE_ATTEMPTS, clock=self._clock, seconds=self._seconds, again=_may_pass
            )
        except CancelledError:
            raise
        # There is no complete list of the exceptions that a request may raise.
        except Exception as error:
            raise SourceUnavailable(
                source=f"the channel host {self._url}",
                what=reference.name,
                reason=_reason(error),
            ) from error

    async def _ask(self, url: str) -> ResolvedRef | None:
        response = await self._follow(url)
        if response.code in MISSING_STATUSES:
            return None
        if response.code != 200:
            raise _Refused(
                f"it answers with status {response.code}",
                passing=response.code in TEMPORARY_STATUSES,
            )
        commit = (await _read(response)).decode("ascii", "replace").strip()
        if not is_commit(commit):
            raise _Refused(f"it answers {commit[:60]!r}, which is no commit", passing=False)
        return ResolvedRef(commit=commit)

    async def _follow(self, url: str) -> IResponse:
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._get(url)
            if response.code not in (301, 302, 303, 307, 308):
                return response
            _drop(response)
            [target, *_] = response.headers.getRawHeaders("Location") or [""]
            previous, url = url, urljoin(url, target)
            if urlsplit(url).scheme != "https" and urlsplit(previous).scheme == "https":
                raise _Refused(f"it redirects to {url}, which is not secure", passing=False)
        raise _Refused("it redirects again and again", passing=False)

    async def _get(self, url: str) -> IResponse:
        try:
            return await self._client.get(
                url,
                headers={"User-Agent": f"nixery/{VERSION}"},
                allow_redirects=False,
                unbuffered=True,
            )
        except ResponseFailed as error:
            # treq reports a cancelled request as a failed response, with the cancellation
            # as the reason: without this, a cancelled request would be retried.
            if any(reason.check(CancelledError) for reason in error.reasons):
                raise CancelledError from error
            raise


class _Body(Connection):
    """Collects a short body, and closes the connection when a body is too long."""

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self.close_pipes())
        self._data = b""

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > MAX_RESPONSE_BYTES:
            self.close_pipes()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if len(self._data) > MAX_RESPONSE_BYTES:
            self.done.errback(_Refused("its answer is too long", passing=False))
        # PotentialDataLoss: a response without a length, as in HTTP/1.0.
        elif reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(self._data)
        else:
            self.done.errback(reason)

    def close_pipes(self) -> None:
        abort = getattr(self.transport, "abortConnection", None)
        if abort is not None:
            abort()


async def _read(response: IResponse) -> bytes:
    body = _Body()
    response.deliverBody(body)
    return await body.done


def _drop(response: IResponse) -> None:
    """Close the connection of a response whose body is not read."""
    body = _Body()
    body.done.addErrback(lambda _: None)
    response.deliverBody(body)
    body.close_pipes()


def _may_pass(error: Exception) -> bool:
    # Any other error is a failed connection.
    return error.passing if isinstance(error, _Refused) else True


def _reason(error: Exception) -> str:
    if isinstance(error, TimedOut):
        return "it does not answer in time"
    if isinstance(error, ResponseFailed | RequestTransmissionFailed) and error.reasons:
        # Twisted's text is a list of failures, each with its address in memory.
        return str(error.reasons[0].getErrorMessage())
    return str(error) or type(error).__name__
