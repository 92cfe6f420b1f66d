"""Files that go to a socket without being read."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast
from unittest import mock

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFDSet, IReactorTCP, IWriteDescriptor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import Request

from nixery.errors import StorageError
from nixery.http.registry.api import Registry
from nixery.http.registry.blob_readers import FileReader
from nixery.http.sendfile import DupSocket, dup_socket
from nixery.http.server import make_site
from nixery.runtime.workers import WorkerPool, Workers
from nixery.storage.interface import ByteRange
from nixery.testing.fakes import InlineWorkers
from tests.support.http import Connection, FakeImages, FileStorage, make_root

P = ParamSpec("P")
T = TypeVar("T")

DATA = os.urandom(3 * 1024 * 1024)


class FakeReactor:
    """Knows who waits until something can be written."""

    def __init__(self) -> None:
        self.writers: list[IWriteDescriptor] = []

    def addWriter(self, writer: IWriteDescriptor) -> None:  # noqa: N802  # the interface's name
        self.writers.append(writer)

    def removeWriter(self, writer: IWriteDescriptor) -> None:  # noqa: N802  # the interface's name
        if writer in self.writers:
            self.writers.remove(writer)


class LineCase(SynchronousTestCase):
    """A line to one end of a pair of sockets."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.ours, self.theirs = socket.socketpair()
        self.addCleanup(self.ours.close)
        self.addCleanup(self.theirs.close)
        self.ours.setblocking(False)
        self.line = DupSocket(cast(IReactorFDSet, self.reactor), os.dup(self.ours.fileno()))


class LineTests(LineCase):
    def test_ready_waits_for_the_reactor_once(self) -> None:
        """It waits for the reactor to say so, once."""
        ready = Deferred.fromCoroutine(self.line.ready())
        self.assertNoResult(ready)
        self.assertEqual([self.line], self.reactor.writers)
        self.line.doWrite()
        self.successResultOf(ready)
        self.assertEqual([], self.reactor.writers)
        self.line.close()

    def test_loss_of_the_connection_ends_the_wait(self) -> None:
        """The loss of the connection ends the wait: sending tells the rest."""
        ready = Deferred.fromCoroutine(self.line.ready())
        self.line.connectionLost(Failure(ConnectionError()))
        self.successResultOf(ready)
        self.line.close()

    def test_descriptor_is_closed_socket_stays_and_reactor_forgets_about_it(self) -> None:
        """The descriptor is closed, the socket stays, and the reactor forgets about it."""
        Deferred.fromCoroutine(self.line.ready())
        descriptor = self.line.fileno()
        self.line.close()
        self.assertEqual([], self.reactor.writers)
        self.assertRaises(OSError, os.fstat, descriptor)
        self.ours.send(b"x")

    def test_not_for_every_connection(self) -> None:
        """A connection that is no socket of the reactor's has no DupSocket."""
        lines: list[DupSocket | None] = []

        class Page(Resource):
            isLeaf = True  # noqa: N815  # Twisted's name

            def render(_, request: Request) -> bytes:  # noqa: N805  # self is the test
                lines.append(dup_socket(request, self.reactor))
                return b""

        Connection(Page()).request("GET", "/")
        self.assertEqual([None], lines)
        self.line.close()


class SendTests(LineCase):
    """Sending a file through a line, and what may come in between."""

    def setUp(self) -> None:
        super().setUp()
        self.path = Path(self.mktemp())
        self.path.write_bytes(DATA)
        self.descriptor = os.open(self.path, os.O_RDONLY)

    def pieces(self, start: int, stop: int) -> FileReader:
        pieces = FileReader(self.descriptor, ByteRange(start=start, stop=stop), InlineWorkers())
        pieces.use(self.line)
        return pieces

    def send(self, pieces: FileReader) -> int:
        return self.successResultOf(Deferred.fromCoroutine(pieces.send()))

    def close(self, pieces: FileReader) -> None:
        self.successResultOf(Deferred.fromCoroutine(pieces.aclose()))
        for descriptor in (self.descriptor, self.line.fileno()):
            self.assertRaises(OSError, os.fstat, descriptor)

    def test_as_much_as_fits(self) -> None:
        """A socket that is full takes nothing, and goes on where it stopped."""
        pieces = self.pieces(5, len(DATA) - 7)
        received = bytearray()
        while len(received) < len(DATA) - 12:
            sent = self.send(pieces)
            self.assertGreater(sent, 0)
            self.assertEqual(0, self.send(pieces) if len(received) + sent < len(DATA) - 12 else 0)
            while sent:
                received += (piece := self.theirs.recv(sent))
                sent -= len(piece)
        self.assertEqual(DATA[5:-7], received)
        self.close(pieces)

    def test_after_a_piece(self) -> None:
        """A piece that was read already is not sent again."""
        pieces = self.pieces(0, len(DATA))
        size = self.successResultOf(Deferred.fromCoroutine(pieces.fill()))
        first = pieces.take()
        self.assertEqual(DATA[:size], first)
        sent = self.send(pieces)
        self.assertEqual(DATA[len(first) :][: min(sent, 1000)], self.theirs.recv(1000))
        self.close(pieces)

    def test_peer_that_has_gone_is_no_fault_of_the_storages(self) -> None:
        """A peer that has gone is no fault of the storage's."""
        self.theirs.close()
        pieces = self.pieces(0, len(DATA))
        self.failureResultOf(Deferred.fromCoroutine(pieces.send()), ConnectionError)
        self.close(pieces)

    def test_no_other_end_of_a_connection_is(self) -> None:
        """Nor is a connection that ends without its peer: the network is down."""
        pieces = self.pieces(0, len(DATA))
        for number in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOTCONN):
            with mock.patch("os.sendfile", side_effect=OSError(number, "x")):
                self.failureResultOf(Deferred.fromCoroutine(pieces.send()), ConnectionError)
        self.close(pieces)

    def test_file_that_ends_too_soon_is(self) -> None:
        """A file that ends too soon is."""
        os.truncate(self.path, 10)
        pieces = self.pieces(0, len(DATA))
        self.failureResultOf(Deferred.fromCoroutine(pieces.send()), StorageError)
        self.close(pieces)


class NotingWorkers:
    """Workers that note what they were given."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.names: set[str] = set()

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.names.add(function.__name__)
        return await self._workers.run(function, *args, **kwargs)


class ServingTests(TestCase):
    """A real server, real threads."""

    def setUp(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory)
        self.storage = FileStorage(os.path.abspath(directory))

    async def test_large_blob_is_sent_and_not_read_whole_or_in_part(self) -> None:
        """A large blob is sent and not read, whole or in part, and arrives as it is."""
        digest = self.storage.add(DATA)
        pool = WorkerPool("test", 2, reactor)  # type: ignore[arg-type]  # the reactor is a module to mypy
        pool.startService()
        self.addCleanup(pool.stopService)
        workers = NotingWorkers(pool)
        registry = Registry(FakeImages(), self.storage, workers, reactor)
        site = make_site(make_root(registry=registry), reactor)
        port = IReactorTCP(reactor).listenTCP(0, site, interface="127.0.0.1")  # type: ignore[arg-type]  # the reactor is a module to mypy
        self.addCleanup(port.stopListening)
        url = f"http://127.0.0.1:{port.getHost().port}/v2/git/blobs/{digest}"  # type: ignore[attr-defined]  # IAddress has none
        for part, wanted in (("0-", DATA), ("10-2000000", DATA[10:2000001])):
            workers.names.clear()
            headers = Headers({"Range": [f"bytes={part}"]})
            response = await treq.get(url, headers=headers, unbuffered=True, persistent=False)
            self.assertEqual(wanted, await response.content())
            self.assertIn("_send", workers.names)
