"""
Count the bytes of a response that the client's host has acknowledged.

A server has written more than it has sent: megabytes may wait in the socket's buffer, and are
dropped when the client closes the connection, as clients do that request the rest of a blob and
take a part of it.  The kernel knows how much the client's host has received.  A connection is
closed before its protocol is told, so that the socket is duplicated here; the counters outlast
the connection.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import termios

from twisted.internet.tcp import Connection
from twisted.protocols.policies import ProtocolWrapper
from twisted.web.server import Request

__all__ = ["Acknowledgements", "acknowledgements_of"]

_BYTES_ACKED = struct.Struct("120xQ")
"""``tcpi_bytes_acked`` in ``struct tcp_info`` (``linux/tcp.h``), from Linux 4.1 on."""

_QUEUED = struct.Struct("i")
"""The result of ``SIOCOUTQ``, which is ``TIOCOUTQ``: bytes that are not acknowledged yet."""


def acknowledgements_of(request: Request) -> Acknowledgements | None:
    """
    Begin to count for a request; ``None`` where the kernel does not tell: on UNIX sockets and
    systems other than Linux.

    :return: the counter, which the caller must close.
    """
    transport: object = request.transport
    while isinstance(transport, ProtocolWrapper):  # TLS and the PROXY protocol
        transport = transport.transport
    if sys.platform != "linux" or not isinstance(transport, Connection):
        return None
    try:
        duplicate = socket.socket(fileno=os.dup(transport.fileno()))
    except OSError:
        return None  # Too many files are open.
    try:
        return Acknowledgements(duplicate)
    except (OSError, struct.error):
        duplicate.close()
        return None


class Acknowledgements:
    """
    Counts the bytes that were acknowledged of those written from now on.

    :param connection: a duplicate of the socket, which this object owns and closes.
    :raises OSError: the kernel does not tell of this socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        queued = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(_QUEUED.size))
        self._written_before = self._acknowledged() + int(_QUEUED.unpack(queued)[0])

    def count(self) -> int:
        """Return the number of bytes; with TLS, those of its records."""
        return max(0, self._acknowledged() - self._written_before)

    def close(self) -> None:
        """Close the duplicate."""
        self._connection.close()

    def _acknowledged(self) -> int:
        info = self._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
        return int(_BYTES_ACKED.unpack(info)[0])
