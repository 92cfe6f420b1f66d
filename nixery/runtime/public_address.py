"""The address at which clients reach the daemon, which is known when the daemon listens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import ip_address

from attrs import frozen
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

__all__ = ["PublicAddress", "describe_address", "find_public_address", "is_loopback", "is_wildcard"]


@frozen(kw_only=True)
class PublicAddress:
    """
    The address at which clients reach the daemon.

    :param url: the URL of the daemon's root, without a slash at its end.
    :param known: false if the daemon is reached through a UNIX socket only, and no URL is
        configured: ``url`` is that of localhost then, and of no use to clients.
    :param configured: true if it is the configured URL, and not one of the daemon's own addresses,
        by which clients elsewhere may not reach it.
    """

    url: str
    known: bool = True
    configured: bool = False

    @property
    def host(self) -> str:
        """The host that clients write before an image's name: ``127.0.0.1:8080``."""
        return self.url.split("://", 1)[1]


def find_public_address(
    public_url: str | None, scheme: str, addresses: Sequence[IAddress]
) -> PublicAddress:
    """
    Find the address at which clients reach the daemon.

    :param public_url: the configured URL, which wins.
    :param scheme: the URL scheme of the daemon's own ports.
    :param addresses: the addresses that the daemon listens on.
    """
    if public_url is not None:
        return PublicAddress(url=public_url, configured=True)
    for address in addresses:
        if isinstance(address, IPv4Address | IPv6Address):
            # From this machine, a wildcard is reached through its loopback, and
            # Docker trusts a loopback address without TLS.
            local = is_wildcard(address)
            host = f"127.0.0.1:{address.port}" if local else describe_address(address)
            return PublicAddress(url=f"{scheme}://{host}")
    return PublicAddress(url=f"{scheme}://localhost", known=False)


def is_wildcard(address: IAddress) -> bool:
    """Tell whether an address stands for every interface of this machine."""
    if not isinstance(address, IPv4Address | IPv6Address):
        return False
    return ip_address(address.host.split("%")[0]).is_unspecified


def is_loopback(address: IAddress) -> bool:
    """Tell whether only this machine reaches an address; a UNIX socket is such an address too."""
    if not isinstance(address, IPv4Address | IPv6Address):
        return True
    return ip_address(address.host.split("%")[0]).is_loopback


def describe_address(address: IAddress) -> str:
    """Return an address as it is written in a URL, if it is one of TCP; else a description."""
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, UNIXAddress) and address.name is not None:
        return f"the UNIX socket {os.fsdecode(address.name)}"
    return str(address)
