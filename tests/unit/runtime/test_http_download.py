"""Tests for :mod:`nixery.runtime.http_download`."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import evolve
from klein import Klein
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.client import HTTPConnectionPool
from twisted.web.iweb import IRequest
from twisted.web.server import Site

from nixery.runtime.errors import FetchFailed
from nixery.runtime.http_download import Fetcher, make_fetcher, shown
from nixery.testing.fakes import InlineWorkers

LIMIT = 1000


class Server:
    """Web pages that answer well, and badly."""

    app = Klein()

    @app.route("/good")
    def good(self, request: IRequest) -> bytes:
        return b"x" * LIMIT

    @app.route("/who")
    def who(self, request: IRequest) -> bytes:
        agent = request.getHeader(b"User-Agent") or b""
        return b"%s %s:%s" % (agent[:7], request.getUser(), request.getPassword())

    @app.route("/moved")
    def moved(self, request: IRequest) -> bytes:
        request.redirect(b"/good")
        return b""

    @app.route("/redirect")
    def redirect(self, request: IRequest) -> bytes:
        request.redirect(request.args[b"to"][0])
        return b""

    @app.route("/packed")
    def packed(self, request: IRequest) -> bytes:
        request.setHeader(b"Content-Encoding", b"gzip")
        return gzip.compress(b"y" * 500)

    @app.route("/bomb")
    def bomb(self, request: IRequest) -> bytes:
        request.setHeader(b"Content-Encoding", b"gzip")
        return gzip.compress(bytes(10_000_000))

    @app.route("/large")
    def large(self, request: IRequest) -> bytes:
        return b"x" * (LIMIT + 1)

    @app.route("/endless")
    def endless(self, request: Any) -> Deferred[None]:
        def more() -> None:
            request.write(b"x" * 100)

        def gone(_failure: Failure) -> None:
            repeated.stop()

        repeated = _Repeat(more)
        ended: Deferred[None] = request.notifyFinish()
        return ended.addErrback(gone)

    @app.route("/busy")
    def busy(self, request: IRequest) -> bytes:
        request.setResponseCode(429)
        request.setHeader(b"Retry-After", b"7")
        return b"later"

    @app.route("/silent")
    def silent(self, request: IRequest) -> Deferred[bytes]:
        return Deferred()


class _Repeat:
    """Calls something again and again."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._timer = _reactor.callLater(0, self._run)

    def _run(self) -> None:
        self._function()
        self._timer = _reactor.callLater(0.001, self._run)

    def stop(self) -> None:
        self._timer.cancel()


class CutShort(Protocol):
    """Answers less than it announces."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nxxx")
        self.transport.loseConnection()


_reactor: Any = reactor


class FetchTests(TestCase):
    """Fetching over the loopback interface."""

    def setUp(self) -> None:
        # Waiting clients are dropped, not waited for.
        site = Site(Server().app.resource())
        self.address = self.listen(site)
        pool = HTTPConnectionPool(_reactor)
        self.addCleanup(pool.closeCachedConnections)
        self.fetcher = make_fetcher(_reactor, InlineWorkers(), {}, pool=pool)

    @property
    def path(self) -> Path:
        """Return a path at which a file may be made."""
        return Path(self.mktemp()).absolute()

    def listen(self, factory: Any) -> str:
        port: IListeningPort = _reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"127.0.0.1:{port.getHost().port}"  # type: ignore[attr-defined]  # IAddress has none

    async def failure(self, url: str, fetcher: Fetcher | None = None) -> FetchFailed:
        try:
            await (fetcher or self.fetcher).fetch(url, LIMIT)
        except FetchFailed as error:
            return error
        raise AssertionError("it was fetched")

    async def test_file_comes_as_it_is_even_one_that_is_as_large_as_allowed(self) -> None:
        """A file comes as it is, even one that is as large as allowed."""
        for path in ("good", "moved"):
            data = await self.fetcher.fetch(f"http://{self.address}/{path}", LIMIT)
            self.assertEqual(b"x" * LIMIT, data)

    async def test_body_with_a_content_encoding_is_decompressed_within_the_bound(self) -> None:
        """A body with a content encoding is decompressed, within the bound."""
        data = await self.fetcher.fetch(f"http://{self.address}/packed", LIMIT)
        self.assertEqual(b"y" * 500, data)
        error = await self.failure(f"http://{self.address}/bomb")
        self.assertIn("more than", error.reason)
        # The connection goes back to the pool when all has been read from it.
        await deferLater(_reactor, 0)

    async def test_user_and_password_in_a_url_are_sent_and_never_shown(self) -> None:
        """User and password in a URL are sent, and never shown."""
        data = await self.fetcher.fetch(f"http://me:s%40crt@{self.address}/who", LIMIT)
        self.assertEqual(b"nixery/ me:s@crt", data.replace(b"b'", b"").replace(b"'", b""))
        error = await self.failure(f"http://me:s%40crt@{self.address}/no?token=s%40crt")
        self.assertNotIn("crt", str(error))

    async def test_password_and_redirects(self) -> None:
        """The password goes on to the same server, and to no other."""
        other = self.listen(Site(Server().app.resource()))
        for target, sent in (
            ("/who", True),
            (f"http://{self.address}/who", True),
            (f"http://{other}/who", False),
        ):
            url = f"http://me:s%40crt@{self.address}/redirect?to={target}"
            data = await self.fetcher.fetch(url, LIMIT)
            self.assertEqual(b"s@crt" in data, sent, target)

    async def test_more_than_allowed_is_an_error_also_where_the_end_is_never_reached(self) -> None:
        """More than allowed is an error, also where the end is never reached."""
        for path in ("large", "endless"):
            error = await self.failure(f"http://{self.address}/{path}")
            self.assertEqual(f"it has more than {LIMIT} bytes", error.reason)

    async def test_refusal_of_the_server_is_reported_with_its_status(self) -> None:
        """A refusal of the server is reported with its status."""
        error = await self.failure(f"http://{self.address}/nowhere")
        self.assertEqual((404, None), (error.status, error.retry_after))
        error = await self.failure(f"http://{self.address}/busy")
        self.assertEqual((429, 7.0), (error.status, error.retry_after))

    async def test_file_that_ends_before_its_end_is_none(self) -> None:
        """A file that ends before its end is none."""
        address = self.listen(Factory.forProtocol(CutShort))
        error = await self.failure(f"http://{address}/")
        self.assertEqual(None, error.status)

    async def test_server_that_says_nothing_is_given_up(self) -> None:
        """A server that says nothing is given up."""
        url = f"http://{self.address}/silent"
        error = await self.failure(url, evolve(self.fetcher, timeout=0.05))
        self.assertIn("0.05 s", error.reason)
        with self.assertRaises(FetchFailed) as caught:
            await self.fetcher.fetch(url, LIMIT, 0.03)
        self.assertIn("0.03 s", caught.exception.reason)

    async def test_fetch_that_is_cancelled_at_any_stage_raises_no_error_of_the_network(
        self,
    ) -> None:
        """A fetch that is cancelled at any stage raises no error of the network."""
        for url in (f"http://{self.address}/silent", "http://127.0.0.1:1/", "http://192.0.2.1/"):
            task = Deferred.fromCoroutine(self.fetcher.fetch(url, LIMIT))
            task.cancel()
            self.failureResultOf(task, CancelledError)
        task = Deferred.fromCoroutine(self.fetcher.fetch(f"http://{self.address}/silent", LIMIT))
        await deferLater(_reactor, 0.02)
        task.cancel()
        self.failureResultOf(task, CancelledError)

    async def test_refused_connection_is_reported_if_there_is_no_server(self) -> None:
        """A refused connection is reported if there is no server."""
        port = _reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        error = await self.failure(f"http://127.0.0.1:{number}/x")
        self.assertIn("refused", error.reason)

    async def test_files_are_read_by_absolute_paths(self) -> None:
        """Files of this machine, by absolute paths."""
        path = self.path
        path.write_bytes(b"x" * LIMIT)
        for url in (f"file://{path}", f"file://localhost{path}"):
            self.assertEqual(b"x" * LIMIT, await self.fetcher.fetch(url, LIMIT))
        path.write_bytes(b"x" * (LIMIT + 1))
        self.assertIn("more than", (await self.failure(f"file://{path}")).reason)
        self.assertIn("No such file", (await self.failure(f"file://{path}x")).reason)
        for url in (f"file://elsewhere{path}", "file:x", "file:///", "file:///a%00b"):
            await self.failure(url)

    def test_parts_of_a_url_that_may_be_secret_are_not_shown(self) -> None:
        """Parts of a URL that may be secret are not shown."""
        self.assertEqual("https://h:1/p", shown("https://user:secret@h:1/p?token=secret#x"))
