"""
Listens on a UNIX socket that the service manager made, and leaves the socket as it is.

Twisted's own port treats such a socket as if it had bound it: it changes the mode of the file,
which only the file's owner may do, and when it stops it shuts the socket down and removes the file.
The service manager, which listens on for the next start, would then be out of reach.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["PassedUNIXEndpoint"]


@implementer(IStreamServerEndpoint)
class PassedUNIXEndpoint:
    """
    An endpoint for a UNIX socket that was passed to this process.

    :param descriptor: the socket, which listens already. It is closed with the port.
    """

    # Any: the global reactor has no type.
    def __init__(self, reactor: Any, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Begin to accept connections."""
        return maybeDeferred(self._listen, factory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        passed = socket.socket(fileno=self._descriptor)
        passed.setblocking(False)
        port = _Port(passed, factory, self._reactor)
        port.startListening()
        return port


class _Port(unix.Port):
    """Differs from Twisted's in that neither its start nor its end changes the socket."""

    _shouldShutdown = False  # noqa: N815  # Twisted's name

    def __init__(self, passed: socket.socket, factory: IProtocolFactory, reactor: Any) -> None:
        super().__init__(passed.getsockname(), factory, reactor=reactor)
        self._passed = passed

    def startListening(self) -> None:  # noqa: N802
        assert self.factory is not None
        self.factory.doStart()
        self.socket = self._passed
        self.fileno = self._passed.fileno  # type: ignore[method-assign]  # as Twisted's own does
        self.connected = True
        self.numberAccepts = 100
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        # Not the method that is overridden, which removes the file.
        tcp.Port.connectionLost(self, reason)
