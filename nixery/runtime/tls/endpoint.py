"""
Wraps endpoints in TLS: each connection uses the certificate that is current when it begins.

A connection keeps the context that it began with. So a renewed certificate is used for the next
connections, and a running download goes on.
"""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

__all__ = ["Contexts", "TLSEndpoint"]


@implementer(IOpenSSLServerConnectionCreator)
class Contexts:
    """
    Makes TLS connections with :attr:`current`, which is replaced when the certificate is renewed.
    """

    current: SSL.Context | None = None

    def serverConnectionForTLS(self, _protocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802
        """Make the TLS state of one connection."""
        # The certificate is read before the daemon listens.
        assert self.current is not None
        return SSL.Connection(self.current, None)


@implementer(IStreamServerEndpoint)
class TLSEndpoint:
    """
    An endpoint whose connections are encrypted.

    :param endpoint: the endpoint that is wrapped.
    :param contexts: makes the TLS connections.
    :param clock: for handshakes.
    """

    def __init__(
        self, endpoint: IStreamServerEndpoint, contexts: Contexts, clock: IReactorTime
    ) -> None:
        self._endpoint = endpoint
        self._contexts = contexts
        self._clock = clock

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Begin to accept connections."""
        return self._endpoint.listen(
            TLSMemoryBIOFactory(self._contexts, False, factory, clock=self._clock)
        )
