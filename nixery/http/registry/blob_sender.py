"""
Send blobs without blocking the reactor thread.

A layer may be gigabytes long and not in the page cache, and a client may be arbitrarily
slow.  Files are read piece by piece on worker threads, and only while the connection accepts
data; no thread is occupied between reads.  A connection gets a slice of a piece at a time.  If
it takes none for a moment, the rest of the piece is dropped, to be read again: a client that
stalls has one slice in memory.  Where the connection is a plain socket, all but the first slice
is sent without being read (:mod:`nixery.http.sendfile`), and none of it is in memory.

An opened blob is closed in every case.  A client may disconnect while its blob is being
opened, while a thread reads, while the sender waits for the client, or never; and a
descriptor must not be closed while a thread reads from it.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.web.server import Request
from zope.interface import implementer

from nixery.errors import ShuttingDown, StorageError
from nixery.http.error_responses import log_text
from nixery.http.registry.blob_readers import SLICE_SIZE, BlobReader, FileReader, StreamReader
from nixery.http.responses import client_disconnected, describe_blob, set_headers
from nixery.http.sendfile import dup_socket
from nixery.http.tcp_info import acknowledgements_of
from nixery.image.names import Digest
from nixery.runtime.deferreds import shield
from nixery.runtime.workers import Workers
from nixery.storage.interface import BlobSource, ByteRange, OpenFile, Redirect, Storage, Stream

__all__ = ["STALL_LIMIT_SECONDS", "BlobSender", "SendLimits"]

STALL_LIMIT_SECONDS = 600.0
"""
Seconds after which a client that takes no data at all is disconnected.  Twisted's idle
timeout is suspended while a request is being answered, and a peer that keeps its TCP
window closed would hold a descriptor for ever.  Engines that unpack while they download
may well pause for minutes.
"""

MIN_BYTES_PER_SECOND = 1024.0
"""
Bytes per second that a client must have taken on average, not counting one pause of the
stall limit: slower than any connection over which an image can be pulled.  Without it, a
client that takes a byte now and then would keep a connection for years.
"""

DROP_SECONDS = 0.1
"""
Seconds for which a slice may wait until the rest of its piece is dropped: less, and clients on
ordinary lines would have everything read in slices; more, and many clients that stall at once
would hold their pieces together.
"""

SEND_THREADS = 4
"""
The number of threads that send files to sockets at once: enough for a disk and some
processors.  More threads do not send faster, compete with the reactor, and leave none for
short requests.
"""


@frozen(kw_only=True)
class SendLimits:
    """
    Limits on the slowness of a client.

    :param stall: seconds for which it may take nothing at all.
    :param rate: bytes per second that it must have taken on average besides; 0: no minimum.
    :param on_disconnect: called for each client that was disconnected for being slower.
    """

    stall: float = STALL_LIMIT_SECONDS
    rate: float = MIN_BYTES_PER_SECOND
    on_disconnect: Callable[[], None] = lambda: None

    def left(self, sent: int, seconds: float) -> float:
        """
        Return the seconds for which a client may still take nothing.

        :param sent: bytes that it was sent.
        :param seconds: since the sending began.
        """
        if not self.rate:
            return self.stall
        return max(0.0, min(self.stall, self.stall + sent / self.rate - seconds))


class BlobSender:
    """
    Answers requests with blobs.

    :param storage: holds the blobs.
    :param workers: read files, and close them.
    :param clock: for the limits.
    :param limits: the limits on the slowness of clients.
    """

    _log = Logger()

    def __init__(
        self,
        storage: Storage,
        workers: Workers,
        clock: IReactorTime,
        limits: SendLimits | None = None,
    ) -> None:
        self._limits = limits or SendLimits()
        self._storage = storage
        self._workers = workers
        self._clock = clock
        self._senders = DeferredSemaphore(SEND_THREADS)

    async def send(self, request: Request, digest: Digest, part: ByteRange | None) -> None:
        """
        Answer a GET with a blob, or with a redirect to the blob.

        The caller must cancel this when the client disconnects.  When it returns,
        the request can be finished; when it raises, nothing has been written.

        :param part: the part of the blob to send; ``None``: all of it.
        :raises BlobUnknown: there is no such blob.
        :raises StorageError: the storage failed.
        """
        source = await _CancellableOpen(self._storage, self._pieces, digest, part).source()
        if isinstance(source, Redirect):
            # 307 is the one redirect that all clients follow.
            request.setResponseCode(307)
            set_headers(request, {b"Location": source.url.encode("ascii"), b"Content-Length": b"0"})
            return
        wanted = part or ByteRange(start=0, stop=source.info.size)
        pieces = self._pieces(source, wanted)
        try:
            # Read before the status is sent, so that a disk which fails at once becomes an error
            # response (nixery.http.error_responses decides its status).
            if not await pieces.fill() and source.info.size:
                raise StorageError(operation=f"read {digest}", reason="its bytes are missing")
            describe_blob(request, source.info, part)
            await self._write_body(request, pieces, wanted.stop - wanted.start)
        finally:
            await self._close(pieces)

    def _pieces(self, source: OpenFile | Stream, part: ByteRange) -> BlobReader:
        if isinstance(source, Stream):
            return StreamReader(source.chunks)
        return FileReader(source.descriptor, part, self._workers)

    async def _close(self, pieces: BlobReader) -> None:
        """Close the blob, even if the client disconnects at this moment; logs errors."""
        try:
            await shield(Deferred.fromCoroutine(pieces.aclose()))
        except OSError:
            self._log.failure("a blob that has been read could not be closed")

    async def _write_body(self, request: Request, pieces: BlobReader, length: int) -> None:
        """Write exactly ``length`` bytes, as fast as the client takes them."""
        back_pressure = _BackPressure(request, self._clock, self._limits, pieces.drop)
        # What fits into one slice is written at once.
        meter = acknowledgements_of(request) if length > SLICE_SIZE else None
        request.registerProducer(back_pressure, True)
        try:
            while 0 < (size := await pieces.fill()) <= length:
                length -= size
                # No variable holds the slice while the client takes nothing.
                request.write(pieces.take())
                if await back_pressure.passage() and isinstance(pieces, FileReader):
                    length -= await self._send(request, pieces, length, back_pressure)
            if size or length:
                raise StorageError(
                    operation=f"read {log_text(request.path)}",
                    reason="its size is not what was recorded",
                )
        except Exception as error:
            if client_disconnected(request):
                raise
            # The status has been sent already.  The only way to report the error is to close
            # the connection before the announced length.
            path = log_text(request.path)
            if isinstance(error, ShuttingDown):
                self._log.info("{path} was cut short: {error}", path=path, error=error)
            else:
                self._log.failure("{path} was cut short: {error}", path=path, error=error)
            _abort(request)
            # The request must not be finished as if it were complete.  The loss of the
            # connection, which follows at once, cancels this wait.
            await Deferred()
        finally:
            back_pressure.close()
            if meter is not None:
                if client_disconnected(request):
                    # The rest was written to buffers, and dropped with the connection.
                    request.sentLength = min(request.sentLength, meter.count())
                meter.close()
        request.unregisterProducer()

    async def _send(
        self, request: Request, pieces: FileReader, length: int, back_pressure: _BackPressure
    ) -> int:
        """
        Send the rest of a file from the page cache to the socket.

        The write buffer of the connection must be empty.

        :param length: the number of bytes in the rest of the file.
        :return: the number of bytes sent: all, or 0 where ``sendfile`` cannot be used.
        """
        if not length:
            return 0
        line = dup_socket(request, self._clock)
        if line is None:
            return 0
        pieces.use(line)
        rest = length
        try:
            while True:
                await self._senders.acquire()
                try:
                    sent = await pieces.send()
                finally:
                    self._senders.release()
                request.sentLength += sent
                rest -= sent
                if not rest:
                    return length
                back_pressure.pauseProducing()
                await line.ready()
                back_pressure.resumeProducing()
        except ConnectionError:
            # The client has closed the connection.  The reactor notices as well, unless it has
            # paused reading from this client; the abort then cancels this wait.
            _abort(request)
            return await Deferred()


class _CancellableOpen:
    """
    Opens a blob for a client that may disconnect meanwhile.

    The opening itself is never cancelled: a file that a thread has opened would then stay
    open.  A blob that is opened too late is closed here.
    """

    def __init__(
        self,
        storage: Storage,
        pieces: Callable[[OpenFile | Stream, ByteRange], BlobReader],
        digest: Digest,
        part: ByteRange | None,
    ) -> None:
        self._abandoned = False
        self._pieces = pieces
        self._task = Deferred.fromCoroutine(self._open(storage, digest, part))

    async def source(self) -> BlobSource:
        """Return the opened blob, which the caller must close."""
        try:
            return await shield(self._task)
        except CancelledError:
            self._abandoned = True
            raise

    async def _open(self, storage: Storage, digest: Digest, part: ByteRange | None) -> BlobSource:
        source = await storage.open(digest, part)
        if self._abandoned and not isinstance(source, Redirect):
            await self._pieces(source, ByteRange(start=0, stop=0)).aclose()
        return source


@implementer(IPushProducer)
class _BackPressure:
    """
    Back pressure: suspends a coroutine while the connection's write buffer is full.

    :param drop: called when nothing was taken for :data:`DROP_SECONDS`.
    """

    def __init__(
        self,
        request: Request,
        clock: IReactorTime,
        limits: SendLimits,
        drop: Callable[[], None],
    ) -> None:
        self._drop = drop
        self._request = request
        self._clock = clock
        self._limits = limits
        self._begun = self._deadline = clock.seconds()
        self._paused = False
        self._waiter: Deferred[None] | None = None
        self._stall: IDelayedCall | None = None

    async def passage(self) -> bool:
        """
        Wait until the connection accepts more data.

        :return: true if it has waited, and the write buffer is therefore empty: a connection
            that was paused resumes when its buffer is empty.
        """
        if not self._paused:
            return False
        self._waiter = Deferred()
        await self._waiter
        return True

    def close(self) -> None:
        """Drop the waiter and cancel the stall timeout."""
        self._waiter = None
        self._resumed()

    def pauseProducing(self) -> None:
        self._paused = True
        if self._stall is None:
            left = self._limits.left(self._request.sentLength, self._clock.seconds() - self._begun)
            self._deadline = self._clock.seconds() + left
            self._stall = self._clock.callLater(min(left, DROP_SECONDS), self._wait_on)

    def resumeProducing(self) -> None:
        self._resumed()
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    def stopProducing(self) -> None:
        # The connection is lost.  The request is notified too, and Klein then cancels the
        # coroutine at whatever it awaits.
        self._resumed()

    def _wait_on(self) -> None:
        """Free what can be read again, and wait until the deadline."""
        self._drop()
        left = max(0.0, self._deadline - self._clock.seconds())
        self._stall = self._clock.callLater(left, self._give_up)

    def _give_up(self) -> None:
        self._limits.on_disconnect()
        _abort(self._request)

    def _resumed(self) -> None:
        self._paused = False
        if self._stall is not None:
            if self._stall.active():
                self._stall.cancel()
            self._stall = None


def _abort(request: Request) -> None:
    """Close the connection at once; data that has not been sent is dropped."""
    # All transports of HTTP have this method: TCP, TLS and UNIX sockets.
    request.transport.abortConnection()  # type: ignore[union-attr]
