"""From coroutines to answers, at once or through Klein."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request

from nixery.http.coroutine_resource import CoroutineResource
from tests.support.http import Connection


class FrontTests(SynchronousTestCase):
    def connect(self, work: Callable[[Request], Awaitable[bytes | None]]) -> Connection:
        async def answer(request: Request) -> bytes | None:
            return await work(request)

        return Connection(CoroutineResource(answer))

    def test_at_once(self) -> None:
        """A coroutine that does not wait is answered at once, with its status and headers."""

        async def work(request: Request) -> bytes:
            request.setResponseCode(404)
            request.setHeader(b"Content-Length", b"3")
            return b"abc"

        connection = self.connect(work)
        for _ in range(2):
            answer = connection.request("GET", "/any/path")
            self.assertEqual((404, b"abc"), (answer.status, answer.body))
            self.assertEqual("3", answer.header("Content-Length"))

    def test_coroutine_that_waits_is_answered_when_it_is_ready(self) -> None:
        """A coroutine that waits is answered when it is ready."""
        ready: Deferred[bytes] = Deferred()

        async def work(request: Request) -> bytes:
            return await ready

        connection = self.connect(work)
        connection.send("GET", "/")
        self.assertEqual(b"", connection.received())
        ready.callback(b"abc")
        self.assertTrue(connection.response().body.startswith(b"3\r\nabc"))

    def test_written_by_itself(self) -> None:
        """A coroutine that returns None has written the body."""

        async def work(request: Request) -> None:
            request.setHeader(b"Content-Length", b"3")
            request.write(b"abc")

        self.assertEqual(b"abc", self.connect(work).request("GET", "/").body)

    def test_client_that_leaves_has_its_answer_cancelled_and_nothing_is_logged(self) -> None:
        """A client that leaves has its answer cancelled, and nothing is logged."""
        cancelled = []

        async def work(request: Request) -> bytes:
            try:
                await Deferred()
            except CancelledError:
                cancelled.append(True)
                raise
            return b""

        connection = self.connect(work)
        connection.send("GET", "/")
        connection.disconnect()
        self.assertEqual([True], cancelled)
        self.assertEqual([], self.flushLoggedErrors())

    def test_strange_requests(self) -> None:
        """Neither a path that is no text nor a strange host is an obstacle to waiting."""
        for path in (b"/v2/%ff", b"/%2f%ff"):
            ready: Deferred[bytes] = Deferred()

            async def work(request: Request, ready: Deferred[bytes] = ready) -> bytes:
                return await ready

            connection = self.connect(work)
            connection.protocol.dataReceived(b"GET %s HTTP/1.1\r\nHost: a \xff:c\r\n\r\n" % path)
            ready.callback(b"abc")
            self.assertEqual(200, connection.response().status)
