"""
Determines the client address of a request, also behind trusted proxies.

A connection from a proxy carries the requests of other clients, and the proxy names them in
``X-Forwarded-For``.  Each proxy appends the address of its peer to the list that it received,
and any client can send a forged list: so the list is read from its end, for as long as the
hops that wrote it are trusted proxies; entries before that are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from attrs import field, frozen

__all__ = ["UNIX_SOCKET", "TrustedProxies", "client_key_of", "parse_proxies"]

UNIX_SOCKET = "unix"
"""The address of all clients on a UNIX socket, which has no addresses."""

MAX_HOPS = 16
"""Maximum length of a chain of trusted proxies."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@frozen(kw_only=True)
class TrustedProxies:
    """
    The proxies whose ``X-Forwarded-For`` is trusted.

    :param networks: their networks.
    :param trust_unix_sockets: whether the peer on a UNIX socket is such a proxy.
    """

    networks: tuple[Network, ...] = ()
    trust_unix_sockets: bool = False
    _cache: dict[str, bool] = field(factory=dict, init=False, eq=False, repr=False)

    def __bool__(self) -> bool:
        return self.trust_unix_sockets or bool(self.networks)

    def trusts(self, host: str) -> bool:
        """Tell whether a peer is a trusted proxy."""
        if host == UNIX_SOCKET:
            return self.trust_unix_sockets
        if not self.networks:
            return False
        trusted = self._cache.get(host)
        if trusted is None:
            if len(self._cache) >= 4096:
                self._cache.clear()
            address = _parse(host)
            trusted = self._cache[host] = address is not None and self._contains(address)
        return trusted

    def client_address(self, peer: str, forwarded: Iterable[bytes]) -> str:
        """
        Return the address of the client behind a peer.

        :param peer: the address of the connection's other end.
        :param forwarded: the values of ``X-Forwarded-For``, in their order.
        """
        client = peer
        hops = b",".join(forwarded).rsplit(b",", MAX_HOPS)
        while self.trusts(client) and hops:
            address = _parse_hop(hops.pop())
            if address is None:
                break
            client = str(address)
        return client

    def _contains(self, address: Address) -> bool:
        return any(
            address.version == network.version and address in network for network in self.networks
        )


def parse_proxies(values: Sequence[str]) -> TrustedProxies:
    """
    Parse networks and addresses; ``unix`` stands for UNIX sockets.

    :raises ValueError: an item is neither a network, nor an address, nor ``unix``.
    """
    return TrustedProxies(
        networks=tuple(ip_network(text, strict=False) for text in values if text != UNIX_SOCKET),
        trust_unix_sockets=UNIX_SOCKET in values,
    )


@lru_cache(maxsize=8192)
def client_key_of(host: str) -> str:
    """
    Return the key that a client is counted under.

    An IPv6 client has a network of at least 2^64 addresses, so its /64 network counts as one.
    """
    address = _parse(host)
    if address is None:
        return host
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)


def _parse(host: str) -> Address | None:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    # A dual-stack socket reports IPv4 peers as IPv4-mapped IPv6 addresses.
    return getattr(address, "ipv4_mapped", None) or address


def _parse_hop(text: bytes) -> Address | None:
    """Parse an address as proxies write it, with a port or without."""
    if len(text) > 64:
        return None
    host = text.decode("latin-1").strip().strip('"')
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    return _parse(host)
