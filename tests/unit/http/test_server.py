"""The HTTP server around the resources."""

from __future__ import annotations

import re

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from nixery.http.server import DRAIN_TIMEOUT, make_site
from tests.support.http import Connection

IDLE_TIMEOUT = 60


class Page(Resource):
    """Answers at once, never, or with an exception."""

    def __init__(self) -> None:
        super().__init__()
        self.isLeaf = True
        self.asked: list[Request] = []

    def render(self, request: Request) -> bytes | int:
        self.asked.append(request)
        if request.path == b"/never":
            return NOT_DONE_YET
        if request.path == b"/broken":
            raise RuntimeError("the secret")
        return b"hello"


class ServerTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.connection = Connection(Page(), self.clock)
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.observe)  # type: ignore[arg-type]  # any callable is one
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)  # type: ignore[arg-type]  # any callable is one

    def observe(self, event: LogEvent) -> None:
        self.events.append(event)

    def lines(self) -> list[str]:
        """The lines of the access log, with the random part of ids left out."""
        return [
            re.sub("^(.* s) [0-9a-f]{8}-([0-9a-f]+) ", r"\1 #\2 ", formatEvent(event))
            for event in self.events
            if event["log_namespace"] == "nixery.http.server.RegistrySite"
        ]


class LogTests(ServerTestCase):
    def test_access_line_has_client_request_outcome_size_and_duration(self) -> None:
        """One line: who, what, how it ended, how much and how long."""
        self.connection.request("GET", "/page?token=secret", ("User-Agent", "docker/20.10"))
        self.assertEqual(["192.0.2.1 GET /page 200 5 B 0.000 s #1 docker/20.10"], self.lines())

    def test_no_byte_of_a_body_is_counted_where_none_is_sent(self) -> None:
        """No byte of a body is counted where none is sent."""
        self.connection.request("HEAD", "/page")
        self.assertEqual(["192.0.2.1 HEAD /page 200 0 B 0.000 s #1 -"], self.lines())

    def test_clients_that_leave(self) -> None:
        """They are in the log too, with the time that they waited."""
        self.connection.send("GET", "/never")
        self.clock.advance(1.5)
        self.assertEqual([], self.lines())
        self.connection.disconnect()
        self.assertEqual(["192.0.2.1 GET /never 200 0 B 1.500 s #1 - (incomplete)"], self.lines())

    def test_duration_is_right_when_the_monotonic_clock_begins(self) -> None:
        """A request that came when the monotonic time began took as long as any other."""
        clock = Clock()
        connection = Connection(Page(), clock)
        connection.send("GET", "/never")
        clock.advance(1.5)
        connection.disconnect()
        self.assertEqual(["192.0.2.1 GET /never 200 0 B 1.500 s #1 - (incomplete)"], self.lines())

    def test_no_request_no_line(self) -> None:
        """A connection that ends between requests, or within a header, is none."""
        self.connection.disconnect()
        half = Connection(Page(), self.clock)
        half.protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: x")
        half.disconnect()
        self.assertEqual([], self.lines())

    def test_nothing_a_client_sends_ends_a_line_colours_it_or_fills_the_disk(self) -> None:
        """Nothing a client sends ends a line, colours it, or fills the disk."""
        self.connection.request(
            "GET",
            b"/{log_level}%1b[31m%0a" + b"x" * 5000,
            ("User-Agent", "a\x1bb\u202ec\x85d"),
        )
        [line] = self.lines()
        self.assertTrue(line.isprintable(), repr(line))
        self.assertIn("/{log_level}%1b[31m%0axxx", line)
        self.assertIn("a\\x1bb\\u202ec", line)
        self.assertLess(len(line), 2000)


class AbsoluteFormTests(ServerTestCase):
    """Requests whose target is a URL, as clients send them to proxies."""

    def test_target_is_the_path_of_the_url(self) -> None:
        """The path and the query of the URL are requested, whatever its host."""
        page = Page()
        connection = Connection(page, self.clock)
        for target, path in (
            (b"http://any/v2/", b"/v2/"),
            (b"HTTPS://any:5000/v2/?n=1", b"/v2/"),
            (b"http://user@any/a%2Fb", b"/a%2Fb"),
            (b"http://[::1]:80//a", b"//a"),
            (b"http://any", b"/"),
            (b"http://any?n=1", b"/"),
            # Neither of them names a host.
            (b"http:///v2/", b"http:///v2/"),
            (b"ftp://any/v2/", b"ftp://any/v2/"),
        ):
            self.assertEqual(200, connection.request("GET", target).status)
            self.assertEqual(path, page.asked[-1].path)
        self.assertEqual(
            [b"1"], [value for page in page.asked for value in page.args.get(b"n", [])][:1]
        )
        self.assertIn("GET /v2/ 200 ", self.lines()[0])

    def test_url_names_the_host(self) -> None:
        """The host of the URL counts, and not that of the header."""
        page = Page()
        connection = Connection(page, self.clock)
        for target, host in ((b"http://user@any:80/v2/", b"any:80"), (b"/v2/", b"reg:1")):
            connection.request("GET", target)
            self.assertEqual([host], page.asked[-1].requestHeaders.getRawHeaders(b"Host"))


class IdTests(ServerTestCase):
    """Tests of the ids of requests, and of the observer of their end."""

    def test_client_and_log(self) -> None:
        """The client gets the id that the log has, whatever it sent itself."""
        ids = []
        for path in ("/page", "/broken"):
            answer = self.connection.request("GET", path, ("X-Request-Id", "mine"))
            ids.append(answer.header("X-Request-Id"))
        self.flushLoggedErrors(RuntimeError)
        logged = [event["request_id"] for event in self.events if "request_id" in event]
        self.assertEqual(ids, logged)
        self.assertEqual(2, len(set(ids)))
        self.assertNotIn("mine", ids)

    def test_two_processes_give_different_ids(self) -> None:
        """Two processes give different ids."""
        other = Connection(Page(), self.clock)
        first, second = (each.request("GET", "/page") for each in (self.connection, other))
        self.assertNotEqual(first.header("X-Request-Id"), second.header("X-Request-Id"))

    def test_observer_is_told_of_each_request_that_has_ended(self) -> None:
        """The observer is told of each request that has ended, and how long it took."""
        ended: list[tuple[bytes, float]] = []
        site = make_site(
            Page(), self.clock, ended=lambda request, took: ended.append((request.path, took))
        )
        connection = Connection(site)
        connection.send("GET", "/never")
        self.assertEqual(1, site.in_progress)
        self.clock.advance(2)
        connection.disconnect()
        self.assertEqual([(b"/never", 2.0)], ended)
        self.assertEqual(0, site.in_progress)


class LimitTests(ServerTestCase):
    def test_idle_connection_is_closed_before_and_after_a_request(self) -> None:
        """They are closed, before the first request and after it."""
        self.clock.advance(IDLE_TIMEOUT)
        self.assertTrue(self.connection.transport.disconnecting)
        second = Connection(Page(), self.clock)
        second.request("GET", "/page")
        self.clock.advance(IDLE_TIMEOUT - 1)
        self.assertFalse(second.transport.disconnecting)
        self.clock.advance(1)
        self.assertTrue(second.transport.disconnecting)

    def test_waiting_is_not_idling(self) -> None:
        """The idle time is not counted while a request is being answered."""
        self.connection.send("GET", "/never")
        self.clock.advance(100 * IDLE_TIMEOUT)
        self.assertFalse(self.connection.transport.disconnecting)

    def test_tls_without_tls(self) -> None:
        """A client that begins with TLS on a plain port is told at once."""
        self.connection.protocol.dataReceived(b"\x16\x03\x01\x00\xee\x01\x00\x00\xea\x03\x03")
        self.assertEqual(400, self.connection.response().status)
        self.assertTrue(self.connection.transport.disconnecting)
        self.assertEqual([], self.lines())

    def test_bodies_are_read_and_dropped(self) -> None:
        """They are read and dropped, whether or not their length is announced."""
        self.connection.send("POST", "/page", ("Transfer-Encoding", "chunked"))
        for _ in range(20):
            self.connection.protocol.dataReceived(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
            self.clock.pump([0] * 5)
        self.connection.protocol.dataReceived(b"0\r\n\r\n")
        self.assertEqual(b"hello", self.connection.response().body)

    def test_what_is_told(self) -> None:
        """The server's name, and neither Twisted's nor a traceback."""
        answer = self.connection.request("GET", "/broken")
        self.assertEqual(500, answer.status)
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        server = answer.header("Server")
        assert server is not None
        self.assertTrue(server.startswith("nixery/"))

    def test_no_type_is_made_up(self) -> None:
        """An answer without a media type is not said to be HTML."""
        self.assertIsNone(self.connection.request("GET", "/page").header("Content-Type"))


class FinishTests(ServerTestCase):
    """Connections when the daemon stops."""

    def finish(self) -> Deferred[None]:
        site = self.connection.protocol.factory
        return Deferred.fromCoroutine(site.finish())

    def test_client_that_has_an_answer_gets_all_of_it_and_the_connection_ends(self) -> None:
        """A client that has an answer gets all of it, and the connection ends."""
        self.connection.send("GET", "/page")
        finished = self.finish()
        self.assertTrue(self.connection.transport.disconnecting)
        self.assertIn(b"hello", self.connection.received())
        self.assertNoResult(finished)
        self.connection.disconnect()
        self.successResultOf(finished)

    def test_client_that_waits_for_an_answer_gets_it_before_the_connection_ends(self) -> None:
        """A client that waits for an answer gets it before the connection ends."""
        page = Page()
        self.connection = Connection(page, self.clock)
        self.connection.send("GET", "/never")
        finished = self.finish()
        self.assertFalse(self.connection.transport.disconnecting)
        page.asked[0].write(b"goodbye")
        page.asked[0].finish()
        self.assertIn(b"goodbye", self.connection.received())
        self.assertTrue(self.connection.transport.disconnecting)
        self.connection.disconnect()
        self.successResultOf(finished)

    def test_answer_without_end_is_waited_for_until_the_drain_timeout(self) -> None:
        """An answer that does not end is waited for until DRAIN_TIMEOUT, and no longer."""
        self.connection.send("GET", "/never")
        finished = self.finish()
        self.clock.advance(DRAIN_TIMEOUT - 0.1)
        self.assertNoResult(finished)
        self.clock.advance(0.2)
        self.successResultOf(finished)
        self.connection.disconnect()

    def test_nothing_is_waited_for_if_no_client_is_connected(self) -> None:
        """Nothing is waited for if no client is connected."""
        self.connection.disconnect()
        self.successResultOf(self.finish())
