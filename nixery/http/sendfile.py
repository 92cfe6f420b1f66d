"""
Duplicate the socket of a connection, for ``sendfile`` on a worker thread.

``sendfile`` moves bytes from the page cache to a socket at a fraction of what reading
and writing them costs.  It blocks on the disk where they are not in the cache, so that it
must be called on a worker thread.  Meanwhile the reactor may close the socket at any
moment, whereupon its descriptor number may be reused for another one.  A
:class:`DupSocket` therefore has a descriptor of its own for the same socket, which stays
open after the connection is lost, until it is closed.

The connection has its own write buffer.  As long as that is not empty, nothing must be
sent past it.
"""

from __future__ import annotations

import os

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFDSet, IWriteDescriptor
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

__all__ = ["DupSocket", "dup_socket"]


def dup_socket(request: Request, reactor: object) -> DupSocket | None:
    """
    Duplicate the socket of a request's connection; ``None`` where ``sendfile`` cannot be
    used: the process itself has to encrypt what it sends over TLS.

    :param reactor: serves the connection.
    """
    transport: object = request.transport
    if not isinstance(transport, Connection) or request.isSecure():
        return None
    if not IReactorFDSet.providedBy(reactor):
        return None
    try:
        return DupSocket(reactor, os.dup(transport.fileno()))
    except OSError:
        return None  # Too many files are open; reading the blob needs no further one.


@implementer(IWriteDescriptor)
class DupSocket:
    """
    A descriptor for a socket that does not block.

    :param reactor: tells when the socket takes more.
    :param descriptor: the duplicate, which this object owns and closes.
    """

    def __init__(self, reactor: IReactorFDSet, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._waiter: Deferred[None] | None = None

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    async def ready(self) -> None:
        """Wait until the socket takes more, or is known to take nothing any more."""
        self._waiter = Deferred()
        self._reactor.addWriter(self)
        await self._waiter

    def close(self) -> None:
        """Close the descriptor, once; a pending :meth:`ready` never fires."""
        self._reactor.removeWriter(self)
        self._waiter = None
        os.close(self._descriptor)

    def doWrite(self) -> None:  # noqa: N802
        self._reactor.removeWriter(self)
        self._wake()

    def connectionLost(self, _reason: Failure) -> None:
        # The reactor has removed this writer.  The next send will raise the error.
        self._wake()

    def logPrefix(self) -> str:  # noqa: N802
        return "line"

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)
