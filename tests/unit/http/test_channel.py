"""Tests of the limits of a connection."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from nixery.http.channel import CLOSE_TIMEOUT, MAX_BODY, MAX_HEADERS, OVER_LIMIT_READ_SECONDS
from nixery.http.server import RegistrySite, make_site
from nixery.limits.addresses import parse_proxies
from nixery.limits.admission import RESERVED_CONNECTIONS, AdmissionControl, AdmissionLimits
from nixery.limits.unsent_bytes import UnsentBytes
from tests.support.http import Connection

HEAD = b"GET /x HTTP/1.1\r\nHost: reg\r\n"


class Page(Resource):
    """Answers at once, or when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.isLeaf = True
        self.held: list[Request] = []
        self.seen: list[bytes] = []

    def render(self, request: Request) -> bytes | int:
        self.seen.append(request.path)
        if request.path == b"/held":
            self.held.append(request)
            return NOT_DONE_YET
        return b"hello"


class ChannelCase(SynchronousTestCase):
    limits = AdmissionLimits(request_read_timeout=30, idle_timeout=60)

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.page = Page()
        self.site = self.make_site(self.limits)
        self.connection = Connection(self.site)

    def make_site(self, limits: AdmissionLimits) -> RegistrySite:
        admission = AdmissionControl(limits=limits, seconds=self.clock.seconds)
        return make_site(self.page, self.clock, admission=admission)

    def give(self, data: bytes) -> None:
        """The client sends something."""
        self.connection.protocol.dataReceived(data)

    def closed(self) -> bool:
        """Tell whether the connection is being ended."""
        return bool(self.connection.transport.disconnecting)

    def turned_away(self, status: int, reason: str) -> None:
        """The client was told why, and the connection ends."""
        answer = self.connection.response()
        self.assertEqual(status, answer.status)
        self.assertTrue(answer.error()["message"])
        self.assertTrue(self.closed())
        self.assertEqual({reason: 1}, self.site.admission.refusals)


class UnsentTests(ChannelCase):
    """Tests of responses that clients do not take."""

    def setUp(self) -> None:
        super().setUp()
        self.unsent = UnsentBytes(max_bytes=1000)
        self.site = make_site(self.page, self.clock, unsent=self.unsent)

    def stall(self, size: int) -> Connection:
        """Send a response to a client that takes nothing."""
        connection = Connection(self.site, slow=True)
        connection.send("GET", "/held")
        self.page.held[-1].setHeader(b"Content-Length", b"10000")
        self.page.held[-1].write(bytes(size))
        return connection

    def test_bytes_count_until_they_are_taken_or_dropped(self) -> None:
        """Bytes that a client does not take count until it does, or leaves, or another leaves."""
        first, second = self.stall(100), self.stall(200)
        self.assertEqual(300, self.unsent.total)
        self.page.held[0].write(bytes(50))
        self.assertEqual(350, self.unsent.total)
        first.resume()
        self.assertEqual(200, self.unsent.total)
        second.disconnect()
        self.assertEqual(0, self.unsent.total)

    def test_slowest_is_ended_when_all_hold_too_much(self) -> None:
        """The connection that has waited longest is ended if all hold too much."""
        first, second = self.stall(600), self.stall(400)
        self.assertFalse(first.transport.disconnecting)
        third = self.stall(1)
        self.assertTrue(first.transport.disconnecting)
        self.assertFalse(second.transport.disconnecting or third.transport.disconnecting)
        self.assertEqual(401, self.unsent.total)

    def test_clients_that_take_everything_count_for_nothing(self) -> None:
        """A response that the transport takes at once is never counted."""
        connection = Connection(self.site)
        connection.send("GET", "/held")
        self.page.held[-1].write(bytes(10_000))
        self.assertEqual(0, self.unsent.total)
        self.assertFalse(connection.transport.disconnecting)


class TimeTests(ChannelCase):
    """Tests of the limits on time."""

    def test_request_that_drops_in_byte_by_byte_has_its_time_and_no_more(self) -> None:
        """A request that drops in byte by byte has its time and no more."""
        for _ in range(29):
            self.give(b"x")
            self.clock.advance(1)
            self.assertFalse(self.closed())
        self.give(b"x")
        self.clock.advance(1)
        self.turned_away(408, "head_timeout")

    def test_same_goes_for_its_body(self) -> None:
        """The same goes for its body."""
        self.give(b"POST /x HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(29):
            self.give(b"x")
            self.clock.advance(1)
        self.assertFalse(self.closed())
        self.clock.advance(1)
        self.turned_away(408, "head_timeout")

    def test_each_request_has_a_time_limit_of_its_own(self) -> None:
        """Each request has its own time, and the time between them is another one."""
        for _ in range(3):
            self.give(HEAD)
            self.clock.advance(29)
            self.give(b"\r\n")
            self.assertEqual(200, self.connection.response().status)
            self.clock.advance(59)
            self.assertFalse(self.closed())
        self.clock.advance(1)
        self.assertTrue(self.closed())

    def test_client_that_waits_for_an_answer_has_no_time_limit(self) -> None:
        """A client that waits for an answer has no time limit, even within its next request."""
        self.give(b"GET /held HTTP/1.1\r\n\r\n" + HEAD[:5])
        self.clock.advance(10_000)
        self.assertFalse(self.closed())
        self.page.held[0].finish()
        self.clock.advance(29)
        self.assertFalse(self.closed())
        self.clock.advance(1)
        self.assertTrue(self.closed())

    def test_connection_whose_end_is_left_unread_is_dropped_after_close_timeout(self) -> None:
        """A connection whose end is left unread is dropped after CLOSE_TIMEOUT."""
        self.give(b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n")
        self.assertTrue(self.closed())
        self.assertFalse(self.connection.transport.disconnected)
        self.clock.advance(CLOSE_TIMEOUT)
        self.assertTrue(self.connection.transport.disconnected)

    def test_ended_connection_leaves_no_timer(self) -> None:
        """A connection that has ended leaves nothing behind."""
        self.connection.disconnect()
        for data in (b"", b"G", HEAD, HEAD + b"\r\n", HEAD * 2000, b"GET /held HTTP/1.1\r\n\r\n"):
            self.connection = Connection(self.site)
            self.give(data)
            self.connection.disconnect()
        self.clock.advance(1000)
        self.assertEqual([], self.clock.getDelayedCalls())


class SizeTests(ChannelCase):
    """Tests of the limits on the size of a request."""

    def test_number_of_headers_is_limited(self) -> None:
        """They are counted."""
        self.give(HEAD + b"X: y\r\n" * (MAX_HEADERS - 1) + b"\r\n")
        self.assertEqual(200, self.connection.response().status)
        self.give(HEAD + b"X: y\r\n" * MAX_HEADERS + b"\r\n")
        self.turned_away(400, "malformed")

    def test_urls_and_headers_one_by_one_and_together(self) -> None:
        """URLs, and headers one by one and together."""
        for data, status in (
            (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n", 414),
            (b"GET /" + b"x" * 40_000, 414),
            (HEAD + b"X: " + b"y" * 20_000 + b"\r\n", 431),
            (HEAD + b"X: " + b"y" * 40_000, 431),
            (HEAD + (b"X: " + b"y" * 1000 + b"\r\n") * 60, 400),
            (HEAD + b"Range: bytes=" + b"9" * 40_000, 400),
        ):
            self.site = self.make_site(self.limits)
            self.connection = Connection(self.site)
            self.give(data)
            self.clock.pump([0] * 12)
            self.turned_away(status, "malformed")

    def test_range_header_of_partial_pulls(self) -> None:
        """A Range header may be longer than others: partial pulls ask for many ranges at once."""
        self.give(HEAD + b"range: bytes=" + b"1-2," * 8_000 + b"\r\n\r\n")
        self.clock.pump([0] * 9)
        self.assertEqual(200, self.connection.response().status)

    def test_announced_body_that_is_too_long_is_refused_unread(self) -> None:
        """One that is too long is not waited for, and not asked for."""
        self.give(
            b"PUT /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            % (MAX_BODY + 1)
        )
        self.turned_away(413, "body")
        self.assertEqual([], self.page.seen)

    def test_endless_body_is_cut_off(self) -> None:
        """One that does not end is cut off."""
        self.give(b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(MAX_BODY // 65536 + 1):
            self.give(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            self.clock.pump([0] * 10)
        self.turned_away(413, "body")

    def test_ambiguous_request_is_refused_as_malformed(self) -> None:
        """A request that two servers might read differently is refused as malformed."""
        for lines in (
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            b"Content-Length: 5\r\nContent-Length: 6\r\n",
            b"Content-Length: +5\r\n",
            b"Content-Length: 5, 5\r\n",
            b"Transfer-Encoding: chunked, identity\r\n",
            b"Transfer-Encoding: \x0bchunked\r\n",
            b"Content-Length : 5\r\n",
            b"X\r\n",
            b"X: a\rb\r\n",
            b"X: a\x00b\r\n",
        ):
            self.site = self.make_site(self.limits)
            self.connection = Connection(self.site)
            self.give(b"POST /x HTTP/1.1\r\n" + lines + b"\r\n0\r\n\r\nGET /y HTTP/1.1\r\n\r\n")
            self.turned_away(400, "malformed")
        self.assertEqual([], self.page.seen)

    def test_bare_line_feeds(self) -> None:
        """They end no line."""
        self.give(b"GET /x HTTP/1.1\n\n")
        self.assertEqual([], self.page.seen)
        self.give(b"\r\n\r\n")
        self.turned_away(400, "malformed")


class TurnTests(ChannelCase):
    """Many requests on one connection."""

    def test_pipe_of_them_is_answered_bit_by_bit_in_order_and_to_the_end(self) -> None:
        """A pipe of them is answered bit by bit, in order, and to the end."""
        paths = [b"/%d" % number for number in range(1200)]
        pipe = b"".join(b"GET %s HTTP/1.1\r\n\r\n" % path for path in paths)
        self.give(pipe[:16_000])
        self.assertLess(len(self.page.seen), 500)
        self.give(pipe[16_000:])
        self.assertLess(len(self.page.seen), 500)
        self.clock.pump([0] * 20)
        self.assertEqual(paths, self.page.seen)
        self.assertEqual(1200, self.connection.received().count(b"hello"))

    def test_requests_behind_one_that_is_held_wait_and_are_answered_in_order(self) -> None:
        """Requests behind one that is held wait, and are answered in order."""
        pipe = b"".join(
            b"GET /%s HTTP/1.1\r\n\r\n" % (b"held" if number % 100 == 0 else b"%d" % number)
            for number in range(500)
        )
        self.give(pipe)
        for number in range(5):
            self.clock.pump([0] * 20)
            self.assertEqual(number + 1, len(self.page.held))
            self.page.held[-1].finish()
        self.clock.pump([0] * 20)
        expected = [b"/held" if number % 100 == 0 else b"/%d" % number for number in range(500)]
        self.assertEqual(expected, self.page.seen)


class RoomTests(ChannelCase):
    """Tests of the limits on the number of connections."""

    limits = AdmissionLimits(
        max_connections=2, connections_per_client=1000, request_read_timeout=30
    )

    def test_one_connection_too_many_is_for_monitors(self) -> None:
        """One too many is for monitors, for a moment, and when others have gone for all."""
        other = Connection(self.site)
        for path, status in (("/v2/", 503), ("/healthz", 200)):
            extra = Connection(self.site)
            answer = extra.request("GET", path)
            self.assertEqual(status, answer.status)
            self.assertEqual("close", answer.header("Connection"))
            self.assertTrue(extra.transport.disconnecting)
            extra.disconnect()
        silent = Connection(self.site)
        self.clock.advance(OVER_LIMIT_READ_SECONDS)
        self.assertTrue(silent.transport.disconnecting)
        silent.disconnect()
        other.disconnect()
        self.assertEqual(200, Connection(self.site).request("GET", "/v2/").status)

    def test_beyond_reserved_connections_one_more_is_dropped_without_answer(self) -> None:
        """Beyond the reserved connections, one more is dropped without an answer."""
        extra = [Connection(self.site) for _ in range(RESERVED_CONNECTIONS + 1)]
        self.assertFalse(extra[-1].transport.disconnected)
        self.assertTrue(Connection(self.site).transport.disconnected)

    def test_client_has_so_many_and_is_told(self) -> None:
        """A client has so many, and is told."""
        self.site = self.make_site(AdmissionLimits(connections_per_client=2))
        first = Connection(self.site)
        Connection(self.site)
        self.connection = Connection(self.site)
        self.turned_away(429, "client_connections")
        self.connection.disconnect()
        first.disconnect()
        self.assertEqual(200, Connection(self.site).request("GET", "/").status)


class ClientTests(ChannelCase):
    """Tests of which client a request or connection is counted for."""

    limits = AdmissionLimits(requests_per_second=1, burst=2, proxies=parse_proxies(["192.0.2.1"]))

    def test_client_that_sends_too_many_requests_is_told_when_to_come_back(self) -> None:
        """A client that sends too many requests is told when to come back."""
        for _ in range(2):
            self.assertEqual(200, self.connection.request("GET", "/x").status)
        answer = self.connection.request("GET", "/x")
        self.assertEqual((429, "1"), (answer.status, answer.header("Retry-After")))
        self.assertEqual("TOOMANYREQUESTS", answer.error()["code"])
        self.assertEqual(b"", self.connection.request("HEAD", "/x").body)
        self.assertEqual(200, self.connection.request("GET", "/healthz").status)
        self.clock.advance(1)
        self.assertEqual(200, self.connection.request("GET", "/x").status)

    def test_behind_a_proxy(self) -> None:
        """Clients of a proxy are counted one by one."""
        for client, statuses in (("198.51.100.1", (200, 200, 429)), ("198.51.100.2", (200,))):
            for status in statuses:
                answer = self.connection.request(
                    "GET", "/x", ("X-Forwarded-For", f"6.6.6.6, {client}")
                )
                self.assertEqual(status, answer.status)

    def test_address_of_the_proxy_protocol_counts_for_requests_and_connections(self) -> None:
        """The address is that which the PROXY protocol tells, for requests and connections."""
        self.site = self.make_site(
            AdmissionLimits(requests_per_second=1, burst=1, connections_per_client=1)
        )
        factory = HAProxyWrappingFactory(self.site)
        for client, statuses in (("198.51.100.1", (200, 429)), ("198.51.100.2", (200,))):
            transport = StringTransport(peerAddress=IPv4Address("TCP", "192.0.2.9", 1))
            protocol = factory.buildProtocol(IPv4Address("TCP", "192.0.2.9", 1))
            assert protocol is not None
            protocol.makeConnection(transport)
            protocol.dataReceived(f"PROXY TCP4 {client} 192.0.2.3 1000 80\r\n".encode())
            for status in statuses:
                transport.clear()
                protocol.dataReceived(HEAD + b"\r\n")
                self.assertIn(b" %d " % status, transport.value().split(b"\r\n")[0])
