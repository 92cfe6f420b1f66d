"""Requests through a proxy of this test's own, on the loopback interface."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import treq
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate, PrivateCertificate
from twisted.internet.task import deferLater
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from nixery.runtime.proxy_agent import Agent, Proxies, Proxy, ProxyRefused, read_proxies

NAME = "server.example"
"""A host name that only the proxy can resolve."""

PROXY = Proxy(secure=False, host="proxy", port=3128)


class EnvironmentTests(SynchronousTestCase):
    """Tests of the proxy settings in the environment."""

    def test_proxy_is_a_url_or_a_host_and_a_port(self) -> None:
        """A proxy is a URL, or a host and a port; with a password, it is told of that."""
        for text, proxy in {
            "http://proxy:3128": PROXY,
            "http://proxy:3128/": PROXY,
            "proxy:3128": PROXY,
            "https://proxy": Proxy(secure=True, host="proxy", port=443),
            "http://[::1]": Proxy(secure=False, host="::1", port=80),
            "http://me:s%40c@proxy:3128": Proxy(
                secure=False, host="proxy", port=3128, credentials="Basic bWU6c0Bj"
            ),
            "": None,
            "socks5://proxy": None,
            "http://proxy:port": None,
            "http://": None,
        }.items():
            found = read_proxies({"HTTP_PROXY": text}).find("http", "server", 80)
            self.assertEqual(found, proxy, text)

    def test_each_scheme_has_a_proxy(self) -> None:
        """Each scheme has a proxy; lower-case names win, and one may be for all."""
        other = "http://other:1"
        for environ, http, https in (
            ({}, None, None),
            ({"HTTP_PROXY": other}, "other", None),
            ({"HTTPS_PROXY": other}, None, "other"),
            ({"https_proxy": "http://proxy", "HTTPS_PROXY": other}, None, "proxy"),
            ({"ALL_PROXY": other, "http_proxy": "http://proxy"}, "proxy", "other"),
        ):
            proxies = read_proxies(environ)
            found = [proxies.find(scheme, "server", 1) for scheme in ("http", "https")]
            self.assertEqual([each.host if each else None for each in found], [http, https])

    def test_some_servers_are_asked_without_a_proxy(self) -> None:
        """Some servers are asked without a proxy."""
        listed = "localhost, .corp.example,*.wide.example,only.example:8080,10.0.0.0/8,::1,"
        proxies = Proxies(
            by_scheme={"https": PROXY},
            direct=read_proxies({"NO_PROXY": listed}).direct,
        )
        for host, port, direct in (
            ("localhost", 443, True),
            ("LOCALHOST.", 443, True),
            ("notlocalhost", 443, False),
            ("deep.corp.example", 443, True),
            ("corp.example", 443, True),
            ("a.wide.example", 443, True),
            ("only.example", 8080, True),
            ("only.example", 443, False),
            ("10.1.2.3", 443, True),
            ("11.1.2.3", 443, False),
            ("[::1]", 443, True),
            ("channels.nixos.org", 443, False),
        ):
            self.assertEqual(proxies.find("https", host, port) is None, direct, host)
        for everything in ("*", "x,*"):
            environ = {"HTTP_PROXY": "http://proxy", "NO_PROXY": everything}
            self.assertIsNone(read_proxies(environ).find("http", "server", 80))

    def test_password_is_not_shown(self) -> None:
        """A password is not shown."""
        proxy = read_proxies({"HTTP_PROXY": "http://me:secret@proxy"}).find("http", "server", 80)
        self.assertNotIn("Basic", repr(proxy))


class ProxyProtocol(Protocol):
    """A proxy: one request a connection, or a tunnel to the server that it knows."""

    def __init__(self, kit: AgentTests) -> None:
        self.kit = kit
        self.data = b""
        self.far: Any = None
        self.near: Any = None  # the transport, whose type says too little

    def connectionMade(self) -> None:
        self.near = self.transport

    def dataReceived(self, data: bytes) -> None:
        if self.far is not None:
            self.far.transport.write(data)
            return
        self.data += data
        if b"\r\n\r\n" not in self.data:
            return
        self.kit.heads.append(self.data.decode())
        if self.kit.answer is not None:
            self.near.write(self.kit.answer)
        elif self.data.startswith(b"CONNECT "):
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.kit.server)
            connectProtocol(endpoint, Far(self)).addCallback(self.reached)
        else:
            self.near.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nproxy")

    def reached(self, far: Far) -> None:
        self.far = far
        self.near.write(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.far is not None:
            self.far.transport.loseConnection()


class Far(Protocol):
    """The proxy's side of a connection to a server."""

    def __init__(self, near: ProxyProtocol) -> None:
        self.near = near

    def dataReceived(self, data: bytes) -> None:
        self.near.near.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.near.near.loseConnection()


class Server(Resource):
    def getChild(self, path: bytes, request: Request) -> Resource:  # noqa: N802  # Twisted's name
        return self

    def render_GET(self, request: Request) -> bytes:  # noqa: N802  # Twisted looks for it
        return b"server" * 10_000


class AgentTests(TestCase):
    """Tests of requests that go through a proxy, and of those that do not."""

    timeout = 10

    def setUp(self) -> None:
        self.addCleanup(lambda: Deferred.fromCoroutine(self.settle()))
        self.heads: list[str] = []
        self.answer: bytes | None = None
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
        now = datetime.now(UTC)
        pem = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
            .sign(key, SHA256())
            .public_bytes(Encoding.PEM)
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.policy = BrowserLikePolicyForHTTPS(trustRoot=Certificate.loadPEM(pem))
        certificate = PrivateCertificate.loadPEM(pem + private)
        self.server = self.listen(
            Site(Server(), timeout=None),
            lambda factory: self.reactor.listenSSL(
                0, factory, certificate.options(), interface="127.0.0.1"
            ),
        )
        self.proxy = self.listen(Factory.forProtocol(lambda: ProxyProtocol(self)))

    reactor: Any = reactor

    async def pause(self) -> None:
        await deferLater(self.reactor, 0.01)

    async def settle(self) -> None:
        """Wait until both ends of all connections have noticed that they are closed."""
        while any(isinstance(each, Connection) for each in self.reactor.getReaders()):
            await self.pause()

    def listen(self, factory: Any, how: Any = None) -> int:
        port: IListeningPort = (
            how(factory)
            if how is not None
            else self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        )
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port  # type: ignore[attr-defined]  # IAddress has none
        return number

    def client(self, pool: HTTPConnectionPool | None = None, **environ: str) -> HTTPClient:
        proxy = f"http://me:secret@127.0.0.1:{self.proxy}"
        proxies = read_proxies({"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy} | environ)
        return HTTPClient(Agent(self.reactor, proxies, pool=pool, policy=self.policy))

    async def get(self, url: str, client: HTTPClient | None = None) -> bytes:
        response = await (client or self.client()).get(url, reactor=self.reactor)
        return await treq.content(response)

    async def test_proxy_makes_a_tunnel_to_a_server_that_only_it_knows(self) -> None:
        """A proxy makes a tunnel to a server that only it knows, and sees nothing else."""
        self.assertEqual(await self.get(f"https://{NAME}/secret"), b"server" * 10_000)
        [head] = self.heads
        self.assertTrue(head.startswith(f"CONNECT {NAME}:443 HTTP/1.1\r\nHost: {NAME}:443\r\n"))
        self.assertIn("\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n", head)

    async def test_tunnel_is_used_again(self) -> None:
        """A tunnel is used again."""
        pool = HTTPConnectionPool(self.reactor)
        self.addCleanup(pool.closeCachedConnections)
        client = self.client(pool)
        for _ in range(3):
            await self.get(f"https://{NAME}:8443/", client)
        [head] = self.heads
        self.assertTrue(head.startswith(f"CONNECT {NAME}:8443 "))

    async def test_plain_http_request_is_sent_to_the_proxy_itself(self) -> None:
        """A plain HTTP request is sent to the proxy itself."""
        self.assertEqual(await self.get("http://server.example/x?y"), b"proxy")
        [head] = self.heads
        self.assertTrue(head.startswith("GET http://server.example/x?y HTTP/1.1\r\n"), head)
        self.assertIn("Basic bWU6c2VjcmV0", head)

    async def test_host_in_no_proxy_is_reached_directly(self) -> None:
        """A host in NO_PROXY is reached directly."""
        client = self.client(NO_PROXY="127.0.0.1")
        with self.assertRaises(Exception) as caught:
            await self.get(f"https://127.0.0.1:{self.server}/", client)
        # It was reached, and is not the server of that name.
        self.assertIn("VerificationError", repr(caught.exception))
        self.assertEqual(self.heads, [])

    async def test_proxy_that_makes_no_tunnel_is_told(self) -> None:
        """A proxy that makes no tunnel is told, with its reason and without the password."""
        for answer, reason in (
            (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "answers 407 Proxy Auth"),
            (b"HTTP/1.1 403\r\n\r\n", "answers 403"),
            (b"SSH-2.0\r\n\r\n", "answers what is no HTTP"),
            (b"x" * 20_000, "answers what is no HTTP"),
        ):
            self.answer = answer
            with self.assertRaises(ProxyRefused) as caught:
                await self.get(f"https://{NAME}/")
            self.assertIn(f"127.0.0.1:{self.proxy} {reason}", str(caught.exception))
            self.assertNotIn("secret", str(caught.exception))

    async def test_proxy_that_hangs_up_or_is_not_there_is_an_error(self) -> None:
        """So is one that hangs up, and one that is not there."""
        closing = self.listen(Factory.forProtocol(HangsUp))
        with self.assertRaises(ProxyRefused) as caught:
            await self.get(
                f"https://{NAME}/", self.client(HTTPS_PROXY=f"http://127.0.0.1:{closing}")
            )
        self.assertIn("hangs up", str(caught.exception))
        with self.assertRaises(Refused):
            await self.get(f"https://{NAME}/", self.client(HTTPS_PROXY="http://127.0.0.1:1"))

    async def test_cancelled_request_leaves_no_connection_to_a_silent_proxy(self) -> None:
        """A cancelled request leaves no connection to a proxy that does not answer."""
        self.answer = b""
        asked = Deferred.fromCoroutine(self.get(f"https://{NAME}/"))
        asked.addErrback(lambda failure: failure.trap(CancelledError))
        while not self.heads:
            await self.pause()
        asked.cancel()
        await asked


class HangsUp(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.loseConnection()
