"""Opens the ports that the daemon listens on."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import Logger

from nixery.runtime.endpoint_strings import PLAIN, speaks_tls
from nixery.runtime.errors import ListeningFailed
from nixery.runtime.public_address import describe_address, is_wildcard

__all__ = ["Listener"]


class Listener:
    """
    Listens on all endpoints, or on none.

    Sockets that were passed to this process come first.  They may have the address of another
    endpoint, which is then reached through them.

    :param endpoints: the endpoints to listen on, by the strings that describe them.
    :param factory: makes the protocols that answer.
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
        passed: dict[str, IAddress] = {}
        for text, endpoint in sorted(
            self._endpoints.items(), key=lambda item: not _passed(item[0])
        ):
            try:
                port = await endpoint.listen(self._factory)
            except CannotListenError as error:
                if _reached_through(passed, text, error):
                    self._log.info(
                        "{endpoint} is the address of a socket that was passed to this process,"
                        " and is reached through that.",
                        endpoint=text,
                    )
                    continue
                reason = getattr(error.socketError, "strerror", None) or str(error)
                raise ListeningFailed(endpoint=text, reason=reason) from error
            except OSError as error:
                # Its text has the names of files that Twisted makes beside the socket.
                reason = error.strerror or str(error)
                raise ListeningFailed(endpoint=text, reason=reason) from error
            self._ports.append(port)
            if _passed(text):
                passed[text] = port.getHost()
        addresses = [port.getHost() for port in self._ports]
        for address in addresses:
            self._log.info(
                "Listening on {address}{notice}",
                address=describe_address(address),
                notice=": every interface of this machine" if is_wildcard(address) else "",
            )
        return addresses

    async def stop(self) -> None:
        """Accept no more connections."""
        while self._ports:
            await maybeDeferred(self._ports.pop().stopListening)


def _passed(text: str) -> bool:
    """Tell, by an endpoint's string, whether the endpoint is a socket that was passed."""
    return text.removeprefix(PLAIN).startswith("systemd:")


def _reached_through(passed: Mapping[str, IAddress], text: str, error: CannotListenError) -> bool:
    """
    Tell whether a client that connects to an endpoint reaches a socket that was passed.

    :param passed: the addresses of the passed sockets, by their strings.
    :param text: the endpoint's string.
    :param error: why it cannot be listened on.
    """
    if getattr(error.socketError, "errno", None) != errno.EADDRINUSE:
        return False
    for other, address in passed.items():
        if isinstance(address, UNIXAddress):
            if address.name is not None and os.fsdecode(address.name) == error.port:
                return True
        elif (
            isinstance(address, IPv4Address | IPv6Address)
            and address.port == error.port
            and (is_wildcard(address) or address.host == error.interface)
            and speaks_tls(other) == speaks_tls(text)
        ):
            return True
    return False
