"""Tests for :mod:`nixery.runtime.systemd.unix_socket`."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from nixery.runtime.systemd.unix_socket import PassedUNIXEndpoint


class Greeter(Protocol):
    """Sends a word, and closes the connection."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")
        self.transport.loseConnection()


class Reader(Protocol):
    """Receives all that is sent; :attr:`received` fires when the connection is closed."""

    def __init__(self) -> None:
        self.data = b""
        self.received: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, _reason: Failure = connectionDone) -> None:
        self.received.callback(self.data)


class PassedUNIXEndpointTests(TestCase):
    """Tests of a UNIX socket that another process made."""

    def setUp(self) -> None:
        # Trial's own directories may be too long for the address of a socket.
        directory = tempfile.TemporaryDirectory(prefix="nixery")
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "socket"
        self.manager = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.manager.close)
        self.manager.bind(str(self.path))
        self.path.chmod(0o640)
        self.manager.listen()

    async def listen(self) -> IListeningPort:
        """Listen on the socket."""
        endpoint = PassedUNIXEndpoint(reactor, os.dup(self.manager.fileno()))
        return await endpoint.listen(Factory.forProtocol(Greeter))

    async def pull(self) -> bytes:
        """Connect to the path of the socket, and return what is received."""
        client = UNIXClientEndpoint(reactor, str(self.path))
        reader: Reader = await connectProtocol(client, Reader())
        return await reader.received

    async def test_clients_are_served_and_the_file_keeps_its_mode(self) -> None:
        """Clients are served; the mode of the file remains, which only its owner may change."""
        port = await self.listen()
        self.assertEqual(b"hello", await self.pull())
        await maybeDeferred(port.stopListening)
        self.assertEqual(0o640, stat.S_IMODE(self.path.stat().st_mode))

    async def test_after_end_client_connects_all_same_and_is_served_by_next_start(self) -> None:
        """After the end, a client connects all the same, and is served by the next start."""
        port = await self.listen()
        await maybeDeferred(port.stopListening)
        waiting = Deferred.fromCoroutine(self.pull())
        port = await self.listen()
        self.addCleanup(port.stopListening)
        self.assertEqual(b"hello", await waiting)
