"""The root of what is served: from requests to handlers and answers, through Klein."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request

from nixery.errors import ShuttingDown, StorageError
from nixery.http.root import Root
from nixery.http.routes import READ, Handlers, UIHandlers, make_router
from nixery.http.ui.image_pages import ImagePages
from nixery.http.ui.pages import Pages
from nixery.http.visibility import AllowAll
from nixery.observability.context import current_request
from nixery.testing.fakes import InlineWorkers
from tests.support.http import Connection, make_root
from tests.support.pages import BROWSER, make_pages
from tests.unit.http.ui.test_image_pages import FakeCatalog


class RootTestCase(SynchronousTestCase):
    def connect(
        self, work: Callable[[Request], Awaitable[bytes | None]], pages: Pages | None = None
    ) -> Connection:
        """A connection to a root with one route, /x/..., that a coroutine answers."""
        router = make_router(
            Handlers(ui=None if pages is None else UIHandlers(pages=pages)), "x86_64-linux"
        )

        @router.route("/x/<rest:_path>", methods=READ)
        async def answer(request: Request, _path: str) -> bytes | None:
            return await work(request)

        return Connection(Root(router))


class AnswerTests(RootTestCase):
    def test_coroutine_that_does_not_wait_is_answered_at_once(self) -> None:
        """A coroutine that does not wait is answered at once, with its status and headers."""

        async def work(request: Request) -> bytes:
            request.setResponseCode(404)
            request.setHeader(b"Content-Length", b"3")
            return b"abc"

        connection = self.connect(work)
        for _ in range(2):
            answer = connection.request("GET", "/x/any/path")
            self.assertEqual((404, b"abc"), (answer.status, answer.body))
            self.assertEqual("3", answer.header("Content-Length"))

    def test_coroutine_that_waits_is_answered_when_it_is_ready(self) -> None:
        """A coroutine that waits is answered when it is ready."""
        ready: Deferred[bytes] = Deferred()

        async def work(_request: Request) -> bytes:
            return await ready

        connection = self.connect(work)
        connection.send("GET", "/x/y")
        self.assertEqual(b"", connection.received())
        ready.callback(b"abc")
        self.assertTrue(connection.response().body.startswith(b"3\r\nabc"))

    def test_coroutine_that_returns_none_has_written_the_body(self) -> None:
        """A coroutine that returns None has written the body."""

        async def work(request: Request) -> None:
            request.setHeader(b"Content-Length", b"3")
            request.write(b"abc")

        self.assertEqual(b"abc", self.connect(work).request("GET", "/x/y").body)

    def test_head_is_answered_as_get_without_the_body(self) -> None:
        """A HEAD is answered as GET, without the body, and nothing is logged about that."""

        async def work(request: Request) -> bytes:
            request.setHeader(b"Content-Length", b"3")
            return b"abc"

        answer = self.connect(work).request("HEAD", "/x/y")
        self.assertEqual((200, "3"), (answer.status, answer.header("Content-Length")))
        self.assertEqual(b"", answer.body)
        self.assertEqual([], self.flushLoggedErrors())

    def test_answer_to_a_disconnected_client_is_cancelled(self) -> None:
        """The answer to a client that disconnects is cancelled, and nothing is logged."""
        cancelled = []

        async def work(_request: Request) -> bytes:
            try:
                await Deferred()
            except CancelledError:
                cancelled.append(True)
                raise
            return b""

        connection = self.connect(work)
        connection.send("GET", "/x/y")
        connection.disconnect()
        self.assertEqual([True], cancelled)
        self.assertEqual([], self.flushLoggedErrors())

    def test_failure_for_a_disconnected_client(self) -> None:
        """A typed error that comes after the client has disconnected is not logged again."""

        async def work(_request: Request) -> bytes:
            try:
                await Deferred()
            except CancelledError:
                raise StorageError(operation="read", reason="EIO") from None
            return b""

        connection = self.connect(work)
        connection.send("GET", "/x/y")
        connection.disconnect()
        self.assertEqual([], self.flushLoggedErrors())

    def test_unusual_paths_and_hosts_are_answered(self) -> None:
        """Neither a path that is not UTF-8 nor a Host that is no host name is an obstacle."""
        for path in (b"/x/%ff", b"/x/%2f%ff", b"/x//%00"):
            ready: Deferred[bytes] = Deferred()

            async def work(_request: Request, ready: Deferred[bytes] = ready) -> bytes:
                return await ready

            connection = self.connect(work)
            connection.protocol.dataReceived(b"GET %s HTTP/1.1\r\nHost: a \xff:c\r\n\r\n" % path)
            ready.callback(b"abc")
            self.assertEqual(200, connection.response().status)

    def test_each_request_has_a_context_with_its_id(self) -> None:
        """Each request has a context with its id, which does not leak into the reactor's."""
        seen = []

        async def work(_request: Request) -> bytes:
            seen.append(current_request.get())
            return b""

        connection = self.connect(work)
        ids = [connection.request("GET", "/x/y").header("X-Request-Id") for _ in range(2)]
        self.assertEqual(ids, seen)
        self.assertEqual("", current_request.get())


class FailureTests(RootTestCase):
    def fail_with(self, error: BaseException, pages: Pages | None = None) -> Connection:
        async def work(_request: Request) -> bytes:
            raise error

        return self.connect(work, pages)

    def test_cancelled_answer_says_that_the_daemon_stops(self) -> None:
        """A coroutine that is cancelled while its client waits means that the daemon stops."""
        for error in (CancelledError(), ShuttingDown()):
            answer = self.fail_with(error).request("GET", "/x/y")
            self.assertEqual((503, "5"), (answer.status, answer.header("Retry-After")))

    def test_unexpected_exception_is_logged_and_not_sent(self) -> None:
        """An unexpected exception is logged under the request's id, and its text is not sent."""
        answer = self.fail_with(RuntimeError("secret")).request("GET", "/x/y")
        self.assertEqual(500, answer.status)
        self.assertNotIn(b"secret", answer.body)
        self.assertIn((answer.header("X-Request-Id") or "").encode(), answer.body)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_head_that_fails_has_the_status_of_get(self) -> None:
        """A HEAD that fails has the GET's status and no body."""
        answer = self.fail_with(StorageError(operation="read", reason="EIO")).request(
            "HEAD", "/x/y"
        )
        self.assertEqual((503, b""), (answer.status, answer.body))


class RouteTests(SynchronousTestCase):
    def test_path_without_a_route_is_a_404(self) -> None:
        """A path without a route is a 404, in a line of text, even if it is not UTF-8."""
        connection = Connection(make_root())
        for path in (b"/", b"/x", b"/%ff", b"/v2%2Fx", b"/index.html", b"//v3/", b"http://a/b"):
            answer = connection.request("GET", path)
            self.assertEqual((404, b"there is nothing here\n"), (answer.status, answer.body), path)
            self.assertEqual("nosniff", answer.header("X-Content-Type-Options"))
        self.assertEqual(b"", connection.request("HEAD", "/x").body)

    def test_root_is_a_404_as_well_if_pages_are_switched_off(self) -> None:
        """The root is a 404 as well if pages are switched off, and in text for browsers too."""
        answer = Connection(make_root()).request("GET", "/", BROWSER)
        self.assertEqual((404, b"there is nothing here\n"), (answer.status, answer.body))

    def test_path_that_is_the_name_of_an_image_is_redirected_for_browsers(self) -> None:
        """The name of an image leads browsers to its page, unless the site's own paths begin so."""
        pages = make_pages()
        images = ImagePages(FakeCatalog(), pages, InlineWorkers(), AllowAll())
        connection = Connection(make_root(ui=UIHandlers(pages=pages, images=images)))
        for path, location in (
            ("/shell/git", "/images/shell/git:latest"),
            ("/git/shell:x/", "/images/git/shell:x"),
            ("/index.html:22.05", "/images/index.html:22.05"),
            ("/git?with=git%2Fx:v1%0d", "/images/git:latest?with=git/x:v1%0D"),
            ("/search/git", None),
            ("/builds", None),
            ("/%61pi/x", None),
            ("/Git", None),
            ("/git:.x", None),
            ("/%ff", None),
        ):
            answer = connection.request("GET", path, BROWSER)
            expected = (302, location) if location else (404, None)
            self.assertEqual(expected, (answer.status, answer.header("Location")), path)
            self.assertEqual(404, connection.request("GET", path).status, path)

    def test_path_that_is_the_name_of_an_image_links_to_it(self) -> None:
        """A path that is the name of an image links to its page, with ``shell`` at the start."""
        connection = Connection(make_root(ui=UIHandlers(pages=make_pages())))
        for path, linked in (
            ("/shell/git", ["shell/git:latest"]),
            ("/search/git:22.05/", ["search/git:22.05"]),
            ("/git/shell:x", ["git/shell:x", "shell/git:x"]),
            ("/Git", []),
            ("/git:", ["git:latest"]),
            ("/git:.x", []),
            ("/%ff", []),
        ):
            answer = connection.request("GET", path, BROWSER)
            found = re.findall(rb'href="/images/([^"]+)"', answer.body)
            self.assertEqual(
                (404, linked), (answer.status, [each.decode() for each in found]), path
            )

    def test_browsers_get_a_page_for_an_unknown_path(self) -> None:
        """Browsers get a page that says that there is nothing, other clients a line."""
        connection = Connection(make_root(ui=UIHandlers(pages=make_pages())))
        answer = connection.request("GET", "/x", BROWSER)
        self.assertEqual(
            (404, "text/html; charset=utf-8"), (answer.status, answer.header("Content-Type"))
        )
        answer = connection.request("GET", "/x")
        self.assertEqual((404, b"there is nothing here\n"), (answer.status, answer.body))
