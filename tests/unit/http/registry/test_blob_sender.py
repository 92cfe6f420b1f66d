"""Sending blobs: pieces, pauses, and clients that leave."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import treq
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IReactorTCP
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from nixery.errors import ShuttingDown, StorageError
from nixery.http.back_pressure import DROP_SECONDS, STALL_LIMIT_SECONDS, SendLimits
from nixery.http.registry.api import Registry, RegistryLimits
from nixery.http.registry.blob_readers import PIECE_SIZE, SLICE_SIZE
from nixery.http.server import make_site
from nixery.image.manifests import digest_of
from nixery.image.names import Digest
from nixery.runtime.workers import WorkerPool, Workers
from nixery.storage.errors import BlobUnknown
from nixery.storage.interface import BlobInfo, BlobSource, ByteRange, Redirect, Storage, Stream
from nixery.testing.fakes import InlineWorkers
from nixery.testing.memory_storage import MemoryStorage
from tests.support.garbage import set_garbage_apart
from tests.support.http import (
    Connection,
    FakeImages,
    FileStorage,
    SteppedWorkers,
    make_root,
)

WINDOW = 64 * 1024
"""The buffer of a client's host, in bytes: much smaller than that of our own socket."""

PIECES = 4
DATA = bytes(os.urandom(PIECE_SIZE // 4) * 4 * PIECES)[: PIECES * PIECE_SIZE - 100]


def serve(
    storage: Storage,
    workers: Workers,
    clock: Clock,
    *,
    slow: bool = False,
    sending: SendLimits | None = None,
) -> Connection:
    limits = RegistryLimits(sending=sending or SendLimits())
    registry = Registry(FakeImages(), storage, workers, clock, limits=limits)
    return Connection(make_root(registry=registry), clock, slow=slow)


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        set_garbage_apart(self)
        directory = self.mktemp()
        os.mkdir(directory)
        self.storage = FileStorage(os.path.abspath(directory))
        self.digest = self.storage.add(DATA)
        self.workers = SteppedWorkers()
        self.clock = Clock()
        self.path = f"/v2/git/blobs/{self.digest}"
        # Not in tearDown(), which runs after the cleanups: the collection would be a whole one.
        self.addCleanup(self.assert_nothing_is_left)

    def assert_nothing_is_left(self) -> None:
        """The test has closed its files, stopped its timers, and handled its failures."""
        gc.collect()  # so that Deferreds with unhandled failures tell of them
        self.assertEqual([], self.storage.open_descriptors())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_all_of_it(self) -> None:
        """Every byte arrives, read by workers alone, and the file is closed by one."""
        connection = serve(self.storage, self.workers, self.clock)
        connection.send("GET", self.path)
        self.assertEqual(b"", connection.received())
        self.assertEqual(["_read"], self.workers.names)
        self.workers.finish()
        answer = connection.response()
        self.assertEqual((200, DATA), (answer.status, answer.body))
        self.assertEqual(200, connection.request("GET", "/v2/").status)
        connection.disconnect()

    def test_part_of_it(self) -> None:
        """A range that begins and ends within pieces."""
        connection = serve(self.storage, self.workers, self.clock)
        start, stop = PIECE_SIZE - 7, 2 * PIECE_SIZE + 11
        connection.send("GET", self.path, ("Range", f"bytes={start}-{stop - 1}"))
        self.workers.finish()
        answer = connection.response()
        self.assertEqual((206, DATA[start:stop]), (answer.status, answer.body))
        connection.disconnect()

    def test_stalled_client_gets_one_slice_and_nothing_is_read_meanwhile(self) -> None:
        """A client that takes nothing gets one slice, and nothing is read meanwhile."""
        connection = serve(self.storage, self.workers, self.clock, slow=True)
        connection.send("GET", self.path)
        for sent in range(SLICE_SIZE, len(DATA), SLICE_SIZE):
            self.workers.finish()
            body = connection.received().partition(b"\r\n\r\n")[2]
            self.assertEqual(sent, len(body))
            connection.resume()
        self.workers.finish()
        connection.resume()
        self.workers.finish()
        self.assertEqual(DATA, connection.response().body)
        connection.disconnect()

    def test_pieces_are_read_whole_unless_the_client_stalls(self) -> None:
        """A piece is read at once and sent in slices; what a client stalls before is read again."""
        connection = serve(self.storage, self.workers, self.clock, slow=True)
        connection.send("GET", self.path)
        # The first read is one slice, the second one two, the third one four.
        for slices in (1, 2, 1):
            self.assertEqual(["_read"], self.workers.names)
            self.workers.finish()
            for _ in range(slices):
                self.assertEqual([], self.workers.names)
                connection.resume()
        self.assertEqual([], self.workers.names)
        self.assertEqual(5 * SLICE_SIZE, len(connection.received().partition(b"\r\n\r\n")[2]))
        self.clock.advance(DROP_SECONDS)
        for _ in range(2):
            connection.resume()
            self.assertEqual(["_read"], self.workers.names)
            self.workers.finish()
        for _ in range(len(DATA) // SLICE_SIZE):
            self.workers.finish()
            connection.resume()
        self.assertTrue(connection.received().endswith(b"\r\n\r\n" + DATA))
        connection.disconnect()

    def test_client_that_takes_nothing_is_given_up(self) -> None:
        """A client that takes nothing for very long is given up, one that is slow is not."""
        limits = SendLimits(rate=0)
        connection = serve(self.storage, self.workers, self.clock, slow=True, sending=limits)
        connection.send("GET", self.path)
        for _ in range(2):
            self.workers.finish()
            self.clock.advance(STALL_LIMIT_SECONDS - 1)
            self.assertFalse(connection.transport.disconnecting)
            connection.resume()
        self.workers.finish()
        self.clock.advance(STALL_LIMIT_SECONDS)
        self.assertTrue(connection.transport.disconnecting)
        connection.disconnect()
        self.workers.finish()

    def test_client_that_takes_too_little_in_all_is_given_up(self) -> None:
        """A client that takes a little again and again, but too little in all, is given up."""
        told: list[str] = []
        limits = SendLimits(
            stall=100, rate=SLICE_SIZE / 50, on_disconnect=lambda: told.append("slow")
        )
        connection = serve(self.storage, self.workers, self.clock, slow=True, sending=limits)
        connection.send("GET", self.path)
        for _ in range(2):
            self.workers.finish()
            self.clock.advance(90)
            self.assertFalse(connection.transport.disconnecting)
            connection.resume()
        # Two slices and the pause that it may make are used up but for some seconds.
        self.workers.finish()
        self.clock.advance(69)
        self.assertFalse(connection.transport.disconnecting)
        self.clock.advance(2)
        self.assertTrue(connection.transport.disconnecting)
        self.assertEqual(["slow"], told)
        connection.disconnect()
        self.workers.finish()

    def test_leaving_at_every_moment(self) -> None:
        """Whenever the client leaves, nothing is logged as failed and the file is closed."""
        for slow in (False, True):
            for steps in range(len(DATA) // SLICE_SIZE + PIECES):
                connection = serve(self.storage, self.workers, self.clock, slow=slow)
                connection.send("GET", self.path)
                for _ in range(steps):
                    if self.workers:
                        self.workers.step()
                    elif connection.transport.producer is not None:
                        connection.resume()
                length = len(connection.received())
                connection.disconnect()
                self.workers.finish()
                self.assertEqual(length, len(connection.received()))
                self.assertEqual([], self.storage.open_descriptors(), (slow, steps))
                self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual([], self.flushLoggedErrors())

    def test_leaving_while_a_thread_reads(self) -> None:
        """The file stays open under the thread, and is closed when it has done."""
        connection = serve(self.storage, self.workers, self.clock)
        connection.send("GET", self.path)
        connection.disconnect()
        self.assertEqual(["_read"], self.workers.names)
        self.assertEqual(1, len(self.storage.open_descriptors()))
        self.workers.step()
        self.assertEqual(["close"], self.workers.names)
        self.workers.finish()

    def test_leaving_while_it_is_opened(self) -> None:
        """A file is closed at once if the client left while it was opened."""
        connection = serve(self.storage, self.workers, self.clock)
        self.storage.opening = Deferred()
        connection.send("GET", self.path)
        connection.disconnect()
        self.storage.opening.callback(None)
        self.assertEqual(1, len(self.storage.descriptors))
        self.workers.finish()

    def test_leaving_before_it_is_not_found(self) -> None:
        """A failure to open a blob is not logged if the client has left."""
        connection = serve(self.storage, self.workers, self.clock)
        self.storage.opening = Deferred()
        connection.send("GET", self.path)
        connection.disconnect()
        self.storage.opening.errback(BlobUnknown(digest=self.digest))
        self.assertEqual([], self.flushLoggedErrors())

    def test_truncated_file_ends_the_connection(self) -> None:
        """A file that has been cut ends the connection, so that no client takes it for whole."""
        connection = serve(self.storage, self.workers, self.clock)
        os.truncate(self.storage.path(self.digest), PIECE_SIZE + 5)
        connection.send("GET", self.path)
        self.workers.finish()
        self.assertTrue(connection.transport.disconnecting)
        self.assertTrue(connection.received().endswith(DATA[: PIECE_SIZE + 5]))
        connection.disconnect()
        self.workers.finish()
        self.assertEqual(1, len(self.flushLoggedErrors(StorageError)))

    def test_empty_when_it_should_not_be(self) -> None:
        """A failure found before the status was sent is reported by the status."""
        connection = serve(self.storage, self.workers, self.clock)
        os.truncate(self.storage.path(self.digest), 0)
        connection.send("GET", self.path)
        self.workers.finish()
        answer = connection.response()
        self.assertEqual((503, "UNAVAILABLE"), (answer.status, answer.error()["code"]))
        self.assertIsNone(answer.header("ETag"))
        connection.disconnect()

    def test_disks_that_fail(self) -> None:
        """At first, it is a 503; later, the end of the connection."""
        connection = serve(self.storage, self.workers, self.clock)
        Path(self.storage.path(self.digest)).unlink()
        os.mkdir(self.storage.path(self.digest))  # opens, and cannot be read
        connection.send("GET", self.path)
        self.workers.finish()
        self.assertEqual(503, connection.response().status)
        connection.disconnect()

    def test_no_workers_left(self) -> None:
        """While the daemon stops, files are still closed."""

        class Stopped:
            async def run(self, *args: object) -> object:
                raise ShuttingDown

        connection = serve(self.storage, Stopped(), self.clock)  # type: ignore[arg-type]  # as much of it as is needed
        connection.send("GET", self.path)
        self.assertEqual(503, connection.response().status)
        connection.disconnect()
        connection.disconnect()

    def test_one_after_the_other(self) -> None:
        """Pipelined requests are answered in order on one connection."""
        connection = serve(self.storage, self.workers, self.clock)
        connection.send("GET", self.path, ("Range", "bytes=0-9"))
        connection.send("GET", self.path, ("Range", "bytes=-9"))
        self.workers.finish()
        received = connection.received()
        self.assertEqual(2, received.count(b"206 Partial Content"))
        self.assertTrue(received.endswith(DATA[-9:]))
        self.assertIn(b"\r\n\r\n" + DATA[:10], received)
        connection.disconnect()


class SourceStorage(MemoryStorage):
    """Hands out one source, whatever is asked for."""

    def __init__(self, make: Callable[[BlobInfo], BlobSource], size: int) -> None:
        super().__init__()
        self._make = make
        self._info = BlobInfo(digest=digest_of(b""), size=size, media_type="a/b")
        self.parts: list[ByteRange | None] = []

    async def stat(self, digest: Digest) -> BlobInfo:
        return self._info

    async def open(
        self, digest: Digest, part: ByteRange | None = None, *, redirect: bool = True
    ) -> BlobSource:
        self.parts.append(part)
        return self._make(self._info)


class Chunks(AsyncIterator[bytes]):
    """Chunks, or what to raise or wait for; tells whether it was closed."""

    def __init__(self, *items: bytes | Exception | Deferred[bytes]) -> None:
        self._items = list(items)
        self.closed = 0

    async def __anext__(self) -> bytes:
        if not self._items:
            raise StopAsyncIteration
        item = self._items.pop(0)
        if isinstance(item, Exception):
            raise item
        return await item if isinstance(item, Deferred) else item

    async def aclose(self) -> None:
        self.closed += 1


class StreamTests(SynchronousTestCase):
    path = f"/v2/git/blobs/{digest_of(b'')}"

    def connect(self, chunks: AsyncIterator[bytes], size: int) -> Connection:
        self.storage = SourceStorage(lambda info: Stream(info=info, chunks=chunks), size)
        return serve(self.storage, InlineWorkers(), Clock())

    def test_chunks_are_sent_as_they_come(self) -> None:
        """They are sent as they come, empty ones left out, and the stream is closed."""
        chunks = Chunks(b"ab", b"", b"c")
        answer = self.connect(chunks, 3).request("GET", self.path)
        self.assertEqual((200, b"abc", 1), (answer.status, answer.body, chunks.closed))

    def test_stream_is_asked_for_the_part_and_yields_just_that(self) -> None:
        """The stream is asked for the part, and yields just that."""
        answer = self.connect(Chunks(b"b"), 3).request("GET", self.path, ("Range", "bytes=1-1"))
        self.assertEqual((206, b"b"), (answer.status, answer.body))
        self.assertEqual([ByteRange(start=1, stop=2)], self.storage.parts)

    def test_never_more_than_announced_and_never_less_without_losing_connection(self) -> None:
        """Never more than announced, and never less without losing the connection."""
        for chunks, sent in ((Chunks(b"ab"), b"ab"), (Chunks(b"ab", b"cd"), b"ab")):
            connection = self.connect(chunks, 3)
            connection.send("GET", self.path)
            self.assertTrue(connection.received().endswith(b"\r\n\r\n" + sent))
            self.assertTrue(connection.transport.disconnecting)
            connection.disconnect()
            self.assertEqual(1, chunks.closed)
            self.assertEqual(1, len(self.flushLoggedErrors(StorageError)))

    def test_failures_under_way(self) -> None:
        """Any failure that ends a stream early, even a cancellation, loses the connection."""
        for failure in (StorageError(operation="o", reason="r"), OSError(), CancelledError()):
            chunks = Chunks(b"ab", failure)
            connection = self.connect(chunks, 3)
            connection.send("GET", self.path)
            self.assertTrue(connection.transport.disconnecting)
            connection.disconnect()
            self.assertEqual(1, chunks.closed)
            self.assertEqual(1, len(self.flushLoggedErrors(type(failure))))

    def test_stopping_under_way(self) -> None:
        """A daemon that stops cuts a stream short, and that is no fault in its log."""
        chunks = Chunks(b"ab", ShuttingDown())
        connection = self.connect(chunks, 3)
        with capturedLogs() as logs:
            connection.send("GET", self.path)
        self.assertTrue(connection.transport.disconnecting)
        connection.disconnect()
        [event] = [event for event in logs if "error" in event]
        self.assertIs(LogLevel.info, event["log_level"])
        self.assertTrue(formatEvent(event).startswith(f"{self.path} was cut short"))

    def test_stream_is_closed_when_its_reader_leaves(self) -> None:
        """A stream is closed when its reader leaves."""
        waiting: Deferred[bytes] = Deferred()
        chunks = Chunks(b"ab", waiting)
        connection = self.connect(chunks, 3)
        connection.send("GET", self.path)
        connection.disconnect()
        self.assertEqual(1, chunks.closed)

    def test_generator_gets_to_its_end_when_its_reader_leaves(self) -> None:
        """A generator gets to its end when its reader leaves."""
        ended = []

        async def generate() -> AsyncIterator[bytes]:
            try:
                yield b"ab"
                await Deferred()
            finally:
                ended.append(True)

        connection = self.connect(generate(), 3)
        connection.send("GET", self.path)
        connection.disconnect()
        self.assertEqual([True], ended)


class RedirectTests(SynchronousTestCase):
    path = f"/v2/git/blobs/{digest_of(b'')}"

    def setUp(self) -> None:
        storage = SourceStorage(
            lambda info: Redirect(info=info, url="https://bucket.example/x?sig=1"), 3
        )
        self.connection = serve(storage, InlineWorkers(), Clock())

    def test_get_answers_with_the_status_that_all_clients_follow(self) -> None:
        """The one status that all clients follow, and no body."""
        for headers in ([], [("Range", "bytes=1-")]):
            answer = self.connection.request("GET", self.path, *headers)
            self.assertEqual((307, b""), (answer.status, answer.body))
            self.assertEqual("https://bucket.example/x?sig=1", answer.header("Location"))
            self.assertEqual("0", answer.header("Content-Length"))

    def test_head_is_answered_here(self) -> None:
        """A HEAD is answered here: the URL may be signed for GET alone."""
        answer = self.connection.request("HEAD", self.path)
        self.assertEqual(200, answer.status)
        self.assertIsNone(answer.header("Location"))
        self.assertEqual("3", answer.header("Content-Length"))


class LoopbackTests(TestCase):
    """Real sockets, real threads."""

    SIZE = 24 * 1024 * 1024

    def setUp(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory)
        self.storage = FileStorage(os.path.abspath(directory))
        self.data = os.urandom(1024 * 1024) * (self.SIZE // 1024 // 1024)
        self.digest = self.storage.add(self.data)
        self.workers = WorkerPool("test", 2, reactor)  # type: ignore[arg-type]  # the reactor is a module to mypy
        self.workers.startService()
        self.addCleanup(self.workers.stopService)
        registry = Registry(
            FakeImages(),
            self.storage,
            self.workers,
            reactor,
        )
        self.site = make_site(make_root(registry=registry), reactor)
        tcp = IReactorTCP(reactor)
        port = tcp.listenTCP(0, self.site, interface="127.0.0.1")  # type: ignore[arg-type]  # the reactor is a module to mypy
        self.addCleanup(port.stopListening)
        self.port = port.getHost().port  # type: ignore[attr-defined]  # IAddress has none
        self.path = f"/v2/git/blobs/{self.digest}"

    async def test_a_large_file(self) -> None:
        """It arrives whole, twice over one connection."""
        pool = HTTPConnectionPool(reactor)
        self.addCleanup(pool.closeCachedConnections)
        agent = Agent(reactor, pool=pool)
        for _ in range(2):
            response = await treq.get(
                f"http://127.0.0.1:{self.port}{self.path}", agent=agent, unbuffered=True
            )
            self.assertEqual(self.SIZE, response.length)
            self.assertEqual(self.digest, digest_of(await response.content()))
        await closed(self.storage)

    async def test_leaving_half_way(self) -> None:
        """A client that stops reading holds the server up; when it goes, all is given back."""
        client = await connectProtocol(
            TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), Sipping()
        )
        client.ask(self.path)
        await client.sipped
        # The client reads no more: what the sockets hold is all that can have been sent.
        [descriptor] = self.storage.open_descriptors()
        client.leave()
        await closed(self.storage)
        self.assertNotIn(descriptor, self.storage.open_descriptors())
        self.assertEqual([], self.flushLoggedErrors())

    async def test_open_ended_ranges_that_are_cut_short(self) -> None:
        """Clients take the beginning of the rest of a blob: that counts, and is no error."""
        with capturedLogs() as logs:
            for start in (0, self.SIZE // 2):
                client = await connectProtocol(
                    TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), Sipping(WINDOW)
                )
                client.ask(self.path, f"bytes={start}-")
                await client.sipped
                [channel] = self.site.channels
                while channel.requests[0].sentLength < 16 * WINDOW:
                    await turn()
                client.leave()
                await closed(self.storage)
                while self.site.channels:
                    await turn()
        lines = [event for event in logs if "sent" in event]
        self.assertEqual([206, 206], [line["status"] for line in lines])
        for line in lines:
            self.assertFalse(line["complete"])
            # What was taken, and what the client's host has room for beyond.
            self.assertLessEqual(0, line["sent"])
            self.assertLess(line["sent"], 8 * WINDOW)
        serious = [event for event in logs if event["log_level"] >= LogLevel.warn]
        self.assertEqual([], serious)


class Sipping(Protocol):
    """
    A client that takes the first bytes of an answer and no more.

    :param window: the size of its host's buffer, in bytes; 0: that of the system.
    """

    def __init__(self, window: int = 0) -> None:
        self.sipped: Deferred[None] = Deferred()
        self._window = window

    def connectionMade(self) -> None:
        if self._window:
            handle = self.transport.getHandle()  # type: ignore[union-attr]  # that of TCP has it
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._window)

    def ask(self, path: str, part: str = "bytes=0-") -> None:
        assert self.transport is not None
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nRange: {part}\r\n\r\n"
        self.transport.write(head.encode())

    def dataReceived(self, data: bytes) -> None:
        self.transport.pauseProducing()  # type: ignore[union-attr]  # that of TCP has it
        if not self.sipped.called:
            self.sipped.callback(None)

    def leave(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]  # that of TCP has it


async def closed(storage: FileStorage) -> None:
    """Wait until a storage's files are closed; the test's own timeout ends a wait in vain."""
    while storage.open_descriptors():
        await turn()


async def turn() -> None:
    """Let the reactor do something else."""
    waiter: Deferred[None] = Deferred()
    reactor.callLater(0.001, waiter.callback, None)
    await waiter
