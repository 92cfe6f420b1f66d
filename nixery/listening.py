"""Where the daemon is reached: the ports it listens on, and what it says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import Logger

from nixery.errors import ListeningFailed

__all__ = ["Listener", "registry_host"]


class Listener:
    """
    Listens on all endpoints, or on none.

    :param endpoints: where, by the strings that describe them.
    :param factory: what answers.
    """

    _log = Logger()

    def __init__(
        self, endpoints: Mapping[str, IStreamServerEndpoint], factory: IProtocolFactory
    ) -> None:
        self._endpoints = endpoints
        self._factory = factory
        self._ports: list[IListeningPort] = []

    async def start(self) -> Sequence[IAddress]:
        """
        Begin to accept connections.

        :return: the addresses that clients can connect to.
        :raises ListeningFailed: one of the endpoints cannot be listened on.
        """
        for text, endpoint in self._endpoints.items():
            try:
                port = await endpoint.listen(self._factory)
            except CannotListenError as error:
                reason = getattr(error.socketError, "strerror", None) or str(error)
                raise ListeningFailed(endpoint=text, reason=reason) from error
            except OSError as error:
                raise ListeningFailed(endpoint=text, reason=str(error)) from error
            self._ports.append(port)
        addresses = [port.getHost() for port in self._ports]
        for address in addresses:
            self._log.info(
                "Listening on {address}{notice}",
                address=_describe(address),
                notice=": every interface of this machine" if _is_wildcard(address) else "",
            )
        return addresses

    async def stop(self) -> None:
        """Accept no more connections."""
        while self._ports:
            await maybeDeferred(self._ports.pop().stopListening)


def registry_host(public_url: str | None, addresses: Sequence[IAddress]) -> str | None:
    """
    What clients write before an image's name: ``127.0.0.1:8080``.

    ``None`` where nobody knows, because the daemon is reached through a UNIX
    socket only.
    """
    if public_url is not None:
        return public_url.split("://", 1)[1]
    for address in addresses:
        if isinstance(address, IPv4Address | IPv6Address):
            # From this machine, a wildcard is reached through its loopback, and
            # Docker trusts a loopback address without TLS.
            return f"127.0.0.1:{address.port}" if _is_wildcard(address) else _describe(address)
    return None


def _is_wildcard(address: IAddress) -> bool:
    if not isinstance(address, IPv4Address | IPv6Address):
        return False
    return ip_address(address.host.split("%")[0]).is_unspecified


def _describe(address: IAddress) -> str:
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    return str(address)
