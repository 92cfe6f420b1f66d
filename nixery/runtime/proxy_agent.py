"""
Makes requests through the proxies that the environment names.

git, Nix and most other programs heed ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY``; Twisted
heeds none of them. An :class:`Agent` does:

- an ``http`` request is sent to the proxy, which asks the server;
- an ``https`` request goes through a tunnel (RFC 9110, section 9.3.6), so that the proxy sees no
  more than the server's name;
- a server that ``NO_PROXY`` lists is asked directly.

``requests`` on a worker thread would do the same without this module, and was weighed: a request
on a thread cannot be cancelled, so that a channel host that does not answer would hold up a look-up
that was given up, and the end of the daemon, until the socket's timeout; clients who make up
channels' names could occupy all threads; certificates would be those of ``certifi``, without the
authority that a proxy which inspects TLS adds to the system's; ``NO_PROXY`` would know no networks
of IPv6, and ``example.org`` would cover ``notexample.org``.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web import client
from twisted.web.http_headers import Headers
from twisted.web.iweb import (
    IAgent,
    IAgentEndpointFactory,
    IBodyProducer,
    IPolicyForHTTPS,
    IResponse,
)
from zope.interface import implementer

__all__ = ["Agent", "Proxies", "Proxy", "ProxyRefused", "read_proxies"]

CONNECT_TIMEOUT = 30.0

MAX_HEAD_BYTES = 16 * 1024
"""Maximum size of the head of a proxy's answer, in bytes."""

_PORTS = {"http": 80, "https": 443}


class ProxyRefused(Exception):
    """A proxy refused to open a tunnel."""


@frozen(kw_only=True)
class Proxy:
    """
    The address and the credentials of a proxy.

    :param secure: whether the connection to the proxy itself uses TLS.
    :param credentials: the ``Proxy-Authorization`` that is sent to it.
    """

    secure: bool
    host: str
    port: int
    credentials: str | None = field(default=None, repr=False)


@frozen(kw_only=True)
class Proxies:
    """
    The proxies that the environment names.

    :param by_scheme: the proxy for ``http`` and the one for ``https``.
    :param direct: servers that are asked without a proxy: lower-case host names, which include
        their subdomains, addresses, networks, each optionally with a port, or ``*``.
    """

    by_scheme: Mapping[str, Proxy]
    direct: tuple[str, ...] = ()

    def find(self, scheme: str, host: str, port: int) -> Proxy | None:
        """Return the proxy by which a server is asked, if there is one."""
        host = host.lower().strip("[]").rstrip(".")
        if any(_covers(entry, host, port) for entry in self.direct):
            return None
        return self.by_scheme.get(scheme)


def read_proxies(environ: Mapping[str, str]) -> Proxies:
    """
    Read the proxies of an environment; lower-case names win, as in other programs.

    A value that is no URL of a proxy counts as no proxy, as with git.
    """

    def value(name: str) -> str:
        return environ.get(name) or environ.get(name.upper()) or ""

    found = {scheme: _parse(value(f"{scheme}_proxy") or value("all_proxy")) for scheme in _PORTS}
    return Proxies(
        by_scheme={scheme: proxy for scheme, proxy in found.items() if proxy is not None},
        direct=tuple(
            entry.strip().lower() for entry in value("no_proxy").split(",") if entry.strip()
        ),
    )


@implementer(IAgent)
class Agent:
    """
    A :class:`twisted.web.client.Agent` that heeds proxies.

    :param proxies: the proxies of the environment.
    :param connect_timeout: seconds that a connection may take, to a proxy or a server.
    :param pool: keeps connections; without one, each request has its own.
    :param policy: the certificates that are trusted; those of the system by default.
    """

    def __init__(
        self,
        # Any: the global reactor has no type.
        reactor: Any,
        proxies: Proxies,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        pool: client.HTTPConnectionPool | None = None,
        policy: IPolicyForHTTPS | None = None,
    ) -> None:
        policy = client.BrowserLikePolicyForHTTPS() if policy is None else policy

        def endpoint(proxy: Proxy) -> IStreamClientEndpoint:
            plain = HostnameEndpoint(reactor, proxy.host, proxy.port, timeout=connect_timeout)
            if not proxy.secure:
                return plain
            return wrapClientTLS(policy.creatorForNetloc(proxy.host.encode(), proxy.port), plain)

        self._proxies = proxies
        self._direct = client.Agent(
            reactor, contextFactory=policy, connectTimeout=connect_timeout, pool=pool
        )
        # One object for each proxy: a pool distinguishes its connections by these endpoints.
        self._asking = {
            proxy: client.ProxyAgent(endpoint(proxy), reactor, pool)
            for proxy in proxies.by_scheme.values()
        }
        self._tunnelling = {
            proxy: client.Agent.usingEndpointFactory(
                reactor, _Tunnels(proxy, endpoint(proxy), policy), pool
            )
            for proxy in proxies.by_scheme.values()
        }

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803  # the interface names it
    ) -> Deferred[IResponse]:
        """As :meth:`twisted.web.iweb.IAgent.request` says."""
        parsed = client.URI.fromBytes(uri)
        proxy = self._proxies.find(
            parsed.scheme.decode("ascii"), parsed.host.decode("ascii"), parsed.port
        )
        agent: Any  # three kinds, whose types have nothing in common
        if proxy is None:
            agent = self._direct
        elif parsed.scheme == b"https":
            agent = self._tunnelling[proxy]
        else:
            agent = self._asking[proxy]
            if proxy.credentials is not None:
                headers = Headers() if headers is None else headers.copy()
                headers.setRawHeaders("Proxy-Authorization", [proxy.credentials])
        answered: Deferred[IResponse] = agent.request(method, uri, headers, bodyProducer)
        return answered


@implementer(IAgentEndpointFactory)
@frozen
class _Tunnels:
    """Makes endpoints for servers behind a proxy."""

    proxy: Proxy
    endpoint: IStreamClientEndpoint
    policy: IPolicyForHTTPS

    def endpointForURI(self, uri: client.URI) -> IStreamClientEndpoint:  # noqa: N802  # as above
        # An IPv6 address stands in brackets.
        host = b"[%b]" % uri.host if b":" in uri.host.strip(b"[]") else uri.host
        tunnel = _Tunnel(self.proxy, self.endpoint, b"%b:%d" % (host, uri.port))
        return wrapClientTLS(self.policy.creatorForNetloc(uri.host, uri.port), tunnel)


@implementer(IStreamClientEndpoint)
@frozen
class _Tunnel:
    """An endpoint that reaches a server through a proxy."""

    proxy: Proxy
    endpoint: IStreamClientEndpoint
    server: bytes

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803  # as above
    ) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        digging = self.endpoint.connect(
            Factory.forProtocol(lambda: _Digger(self.proxy, self.server, factory))
        )
        return await cast(_Digger, await digging).dug


class _Digger(Protocol):
    """
    Asks a proxy for a tunnel, and then passes the tunnel's bytes on.

    :param factory: makes the protocol that is spoken through the tunnel.
    """

    def __init__(self, proxy: Proxy, server: bytes, factory: IProtocolFactory) -> None:
        self.dug: Deferred[IProtocol] = Deferred(lambda _: self._give_up())
        self._proxy = proxy
        self._server = server
        self._factory = factory
        self._head = b""
        self._inner: IProtocol | None = None

    def connectionMade(self) -> None:
        lines = [b"CONNECT %b HTTP/1.1" % self._server, b"Host: " + self._server]
        if self._proxy.credentials is not None:
            lines.append(b"Proxy-Authorization: " + self._proxy.credentials.encode("ascii"))
        self._connection.write(b"\r\n".join([*lines, b"", b""]))

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end and len(head) <= MAX_HEAD_BYTES:
            return
        status = head.split(b"\r\n", 1)[0].split(None, 2)[1:]
        if not end or not status or not status[0].startswith(b"2"):
            said = b" ".join(status)[:80].decode("latin-1") or "what is no HTTP"
            self._fail(f"answers {said}")
            return
        self._head = b""
        inner = self._factory.buildProtocol(self._connection.getPeer())
        if inner is None:
            self._fail("is not needed any more")
            return
        self._inner = inner
        inner.makeConnection(self._connection)
        if rest:
            inner.dataReceived(rest)
        self.dug.callback(inner)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        else:
            self._fail("hangs up")

    @property
    def _connection(self) -> Any:  # the transports of endpoints differ, and all have what is used
        return self.transport

    def _fail(self, how: str) -> None:
        if not self.dug.called:
            proxy = f"{self._proxy.host}:{self._proxy.port}"
            self.dug.errback(ProxyRefused(f"the proxy {proxy} {how}"))
        self._give_up()

    def _give_up(self) -> None:
        self._connection.abortConnection()


def _parse(url: str) -> Proxy | None:
    if not url:
        return None
    try:
        # Many users write only a host and a port.
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None
    if not parts.hostname:
        return None
    credentials = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        credentials = "Basic " + b64encode(pair.encode()).decode("ascii")
    return Proxy(
        secure=parts.scheme == "https", host=parts.hostname, port=port, credentials=credentials
    )


def _covers(entry: str, host: str, port: int) -> bool:
    """Tell whether an entry of ``NO_PROXY`` means a server."""
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass  # one of them is a name, or the entry has a port
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal():
        if int(number) != port:
            return False
        entry = name.strip("[]")
    entry = entry.removeprefix("*").lstrip(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))
