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

from collections.abc import Awaitable, Callable, Sequence

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.server import Request

from nixery.errors import ShuttingDown, StorageError
from nixery.http.back_pressure import BackPressure, SendLimits, abort
from nixery.http.error_responses import log_text
from nixery.http.registry.blob_readers import (
    SLICE_SIZE,
    BlobReader,
    FileReader,
    MultipartFileReader,
    StreamReader,
)
from nixery.http.registry.multipart import MultipartBody, spans
from nixery.http.registry.multipart_stream import multipart_chunks
from nixery.http.responses import client_disconnected, describe_blob, describe_parts, set_headers
from nixery.http.sendfile import dup_socket
from nixery.http.tcp_info import acknowledgements_of
from nixery.image.names import Digest
from nixery.runtime.deferreds import shield
from nixery.runtime.workers import Workers
from nixery.storage.interface import BlobSource, ByteRange, OpenFile, Redirect, Storage, Stream

__all__ = ["BlobSender"]

SEND_THREADS = 4
"""
The number of threads that send files to sockets at once: enough for a disk and some
processors.  More threads do not send faster, compete with the reactor, and leave none for
short requests.
"""


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

    async def send(self, request: Request, digest: Digest, parts: Sequence[ByteRange]) -> None:
        """
        Answer a GET with a blob, or with a redirect to the blob.

        The caller must cancel this when the client disconnects.  When it returns,
        the request can be finished; when it raises, nothing has been written.

        :param parts: the parts of the blob to send, in this order; none: all of it.
        :raises BlobUnknown: there is no such blob.
        :raises StorageError: the storage failed.
        """
        if len(parts) > 1:
            await self._send_parts(request, digest, tuple(parts))
            return
        part = parts[0] if parts else None
        source = await _CancellableOpen(self._storage, self._pieces, digest, part).source()
        if isinstance(source, Redirect):
            # 307 is the one redirect that all clients follow.
            request.setResponseCode(307)
            set_headers(request, {b"Location": source.url.encode("ascii"), b"Content-Length": b"0"})
            return
        info = source.info
        wanted = part or ByteRange(start=0, stop=info.size)
        await self._send_body(
            request,
            self._pieces(source, wanted),
            wanted.stop - wanted.start,
            describe=lambda: describe_blob(request, info, part),
        )

    async def _send_parts(
        self, request: Request, digest: Digest, parts: tuple[ByteRange, ...]
    ) -> None:
        """
        Answer a GET with several parts of a blob.

        There is no redirect: Cloud Storage and its like answer several ranges with all of the blob.
        """
        reads = spans(parts)
        source = await _CancellableOpen(
            self._storage, self._pieces, digest, reads[0].whole, redirect=False
        ).source()
        if isinstance(source, Redirect):
            raise StorageError(operation=f"read {digest}", reason="it is only redirected to")
        body = MultipartBody(info=source.info, ranges=parts)
        pieces: BlobReader
        if isinstance(source, Stream):
            pieces = StreamReader(multipart_chunks(self._storage, source, body, reads))
        else:
            pieces = MultipartFileReader(source.descriptor, body, self._workers)
        await self._send_body(
            request,
            pieces,
            body.length,
            describe=lambda: describe_parts(request, body.info, body.media_type, body.length),
        )

    async def _send_body(
        self, request: Request, pieces: BlobReader, length: int, *, describe: Callable[[], None]
    ) -> None:
        """
        Send a body, and close it.

        :param length: its size in bytes.
        :param describe: sets status and headers; called once a first piece was read.
        :raises StorageError: nothing can be read.
        """
        try:
            # Read before the status is sent, so that a disk which fails at once becomes an error
            # response (nixery.http.error_responses decides its status).
            if not await pieces.fill() and length:
                raise StorageError(
                    operation=f"read {log_text(request.path)}", reason="its bytes are missing"
                )
            describe()
            await self._write_body(request, pieces, length)
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
        back_pressure = BackPressure(request, self._clock, self._limits, pieces.drop)
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
            abort(request)
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
        self, request: Request, pieces: FileReader, length: int, back_pressure: BackPressure
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
            abort(request)
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
        *,
        redirect: bool = True,
    ) -> None:
        self._abandoned = False
        self._pieces = pieces
        self._task = Deferred.fromCoroutine(
            self._open(storage.open(digest, part, redirect=redirect))
        )

    async def source(self) -> BlobSource:
        """Return the opened blob, which the caller must close."""
        try:
            return await shield(self._task)
        except CancelledError:
            self._abandoned = True
            raise

    async def _open(self, opening: Awaitable[BlobSource]) -> BlobSource:
        source = await opening
        if self._abandoned and not isinstance(source, Redirect):
            await self._pieces(source, ByteRange(start=0, stop=0)).aclose()
        return source
