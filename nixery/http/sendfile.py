"""
The socket of a connection, for the system call that sends a file without copying it.

``sendfile`` takes bytes from the page cache to a socket at a fraction of what reading
and writing them costs.  It also waits for the disk where they are not in the cache, so
that it is a worker thread's to call, and a socket may be closed at any moment by the
reactor, whereupon its number may stand for another one.  A line is therefore a
descriptor of its own for the same socket, which outlives the connection until whoever
uses it lets go.

The connection has its own queue of what is to be written.  As long as something is in
there, nothing must be sent beside it.
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
    The line of a request's connection; ``None`` where files cannot be sent this way:
    what is encrypted has to pass through our hands.

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
        return None  # There are too many files open; a blob that is read needs no more.


@implementer(IWriteDescriptor)
class DupSocket:
    """
    A descriptor for a socket that does not block.

    :param reactor: tells when the socket takes more.
    :param descriptor: belongs to the line.
    """

    def __init__(self, reactor: IReactorFDSet, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._waiter: Deferred[None] | None = None

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    async def ready(self) -> None:
        """Wait until the socket takes more, or is known to take nothing any more."""
        self._waiter = Deferred()
        self._reactor.addWriter(self)
        await self._waiter

    def close(self) -> None:
        """Let go of the socket, once, and of whoever waits for it."""
        self._reactor.removeWriter(self)
        self._waiter = None
        os.close(self._descriptor)

    def doWrite(self) -> None:  # noqa: N802
        self._reactor.removeWriter(self)
        self._wake()

    def connectionLost(self, _reason: Failure) -> None:
        # The reactor has removed this writer.  Sending will say what has happened.
        self._wake()

    def logPrefix(self) -> str:  # noqa: N802
        return "line"

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)
