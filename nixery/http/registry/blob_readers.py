"""
Read an opened blob in pieces, on worker threads, and hand it out in slices.

The owner of a reader must close it in every case: it holds a descriptor, which must not be
closed while a thread still uses it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable

from twisted.internet.defer import Deferred

from nixery.errors import ShuttingDown, StorageError
from nixery.http.registry.multipart import MultipartBody
from nixery.http.sendfile import DupSocket
from nixery.runtime.deferreds import shield, when_finished
from nixery.runtime.workers import Workers
from nixery.storage.interface import ByteRange

__all__ = [
    "PIECE_SIZE",
    "SLICE_SIZE",
    "BlobReader",
    "FileReader",
    "MultipartFileReader",
    "StreamReader",
]

SLICE_SIZE = 64 * 1024
"""
Bytes that are passed to a connection at a time, and read first: what a client costs that takes
nothing more.  With the response's headers it is just more than the write buffer at which a
transport pauses its producer, so that a pause follows every whole slice.
"""

PIECE_SIZE = 256 * 1024
"""
The most bytes read at a time: enough that the switch to a thread and back is cheap compared to
the read.  The sizes double up to it while the client takes what it gets, and begin anew with a
slice when it pauses.
"""

SEND_SIZE = 4 * 1024 * 1024
"""
The most bytes that a thread sends to a socket at a time, so that a fast client does not
occupy the thread while others wait.
"""

_CONNECTION_ERRORS = frozenset(
    {
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOTCONN,
    }
)
"""Errors of a socket whose client is gone, for which Python has no :class:`ConnectionError`."""


class BlobReader:
    """Reads a blob, of which at most one piece is in memory, and owns an open resource."""

    def __init__(self) -> None:
        self._piece = b""
        self._taken = 0

    async def fill(self) -> int:
        """
        Read a piece, unless there is one in memory that has not been taken.

        :return: the size of the next slice, in bytes; 0 at the end of the blob.
        """
        if not self._piece:
            self._piece = await self._read()
        return min(SLICE_SIZE, len(self._piece) - self._taken)

    def take(self) -> bytes:
        """Return the next slice of the piece in memory."""
        part = self._piece[self._taken : self._taken + SLICE_SIZE]
        self._taken += len(part)
        if self._taken == len(self._piece):
            self._forget()
        return part

    def drop(self) -> None:
        """Free the memory of what can be read again."""

    async def aclose(self) -> None:
        """Close the resource, once.  Must not be cancelled: the resource would stay open."""
        raise NotImplementedError

    async def _read(self) -> bytes:
        """Return the next piece; empty at the end of the blob."""
        raise NotImplementedError

    def _forget(self) -> None:
        self._piece = b""
        self._taken = 0


class StreamReader(BlobReader):
    """Reads the chunks of a stream."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks

    async def aclose(self) -> None:
        # Generators have this method; iterators that hold no resource need not.
        aclose = getattr(self._chunks, "aclose", None)
        if aclose is not None:
            await aclose()

    async def _read(self) -> bytes:
        # An empty chunk is not the end of the stream.
        async for chunk in self._chunks:
            if chunk:
                return chunk
        return b""


class DescriptorReader(BlobReader):
    """
    Reads on worker threads, by a descriptor that it owns.

    :param read: reads by ``descriptor``, at most so many bytes at an offset; none at the end.
    :param part: the offsets between which it is called.
    """

    def __init__(
        self,
        descriptor: int,
        part: ByteRange,
        workers: Workers,
        read: Callable[[int, int, int], bytes],
    ) -> None:
        super().__init__()
        self._descriptor = descriptor
        # The end of the last slice that was taken.
        self._offset = part.start
        self._stop = part.stop
        self._workers = workers
        self._read_at = read
        self._read_size = SLICE_SIZE
        self._ended: Awaitable[None] | None = None

    def take(self) -> bytes:
        part = super().take()
        self._offset += len(part)
        return part

    def drop(self) -> None:
        self._forget()
        self._read_size = SLICE_SIZE

    async def aclose(self) -> None:
        if self._ended is not None:
            await self._ended
        try:
            # Closing blocks too: the file may have been removed meanwhile, and then
            # closing it frees its gigabytes.
            await self._workers.run(os.close, self._descriptor)
        except ShuttingDown:
            os.close(self._descriptor)

    async def _read(self) -> bytes:
        size = min(self._read_size, self._stop - self._offset)
        if size == 0:
            return b""
        self._read_size = min(2 * self._read_size, PIECE_SIZE)
        read = Deferred.fromCoroutine(
            self._workers.run(self._read_at, self._descriptor, size, self._offset)
        )
        self._ended = when_finished(read)
        # Shielded: the wait may be cancelled, but not the thread, and aclose() has to wait until
        # the thread no longer uses the descriptor.
        return await shield(read)


class FileReader(DescriptorReader):
    """Reads part of a file on worker threads, or sends it from there."""

    def __init__(self, descriptor: int, part: ByteRange, workers: Workers) -> None:
        super().__init__(descriptor, part, workers, _read)
        self._line: DupSocket | None = None

    def use(self, line: DupSocket) -> None:
        """Send to the socket ``line`` from now on; it is closed with the file.  Called once."""
        self._line = line
        self.drop()

    async def send(self) -> int:
        """
        Send from the end of the last slice, as much as the socket takes at once.

        :return: the number of bytes sent.
        :raises StorageError: the file cannot be read, or has ended too soon.
        :raises ConnectionError: the connection is lost.
        """
        assert self._line is not None
        task = Deferred.fromCoroutine(
            self._workers.run(
                _send,
                self._line.fileno(),
                self._descriptor,
                self._offset,
                min(SEND_SIZE, self._stop - self._offset),
            )
        )
        self._ended = when_finished(task)
        sent = await shield(task)
        self._offset += sent
        return sent

    async def aclose(self) -> None:
        if self._ended is not None:
            await self._ended
        if self._line is not None:
            self._line.close()
        await super().aclose()


class MultipartFileReader(DescriptorReader):
    """Reads several parts of a file, with what precedes and follows each in a response."""

    def __init__(self, descriptor: int, body: MultipartBody, workers: Workers) -> None:
        self._body = body
        super().__init__(
            descriptor, ByteRange(start=0, stop=body.length), workers, self._read_pieces
        )

    def _read_pieces(self, descriptor: int, size: int, offset: int) -> bytes:
        """Read a piece of the body; runs on a worker thread."""
        return b"".join(
            piece
            if isinstance(piece, bytes)
            else _read_exactly(descriptor, piece.stop - piece.start, piece.start)
            for piece in self._body.pieces(offset, offset + size)
        )


def _read(descriptor: int, size: int, offset: int) -> bytes:
    """Read up to ``size`` bytes, none at the end of the file; runs on a worker thread."""
    try:
        return os.pread(descriptor, size, offset)
    except OSError as error:
        raise StorageError(operation="read a blob", reason=error.strerror or str(error)) from error


def _read_exactly(descriptor: int, size: int, offset: int) -> bytes:
    """
    Read ``size`` bytes; runs on a worker thread.

    :raises StorageError: the file is shorter, or cannot be read.
    """
    data = _read(descriptor, size, offset)
    if len(data) != size:
        raise StorageError(operation="read a blob", reason="its bytes are missing")
    return data


def _send(line: int, descriptor: int, offset: int, size: int) -> int:
    """Send up to ``size`` bytes, as many as the socket takes; runs on a worker thread."""
    sent = 0
    try:
        while sent < size:
            count = os.sendfile(line, descriptor, offset + sent, size - sent)
            if count == 0:
                raise StorageError(operation="send a blob", reason="its bytes are missing")
            sent += count
    except (BlockingIOError, InterruptedError):
        pass
    except ConnectionError:
        raise
    except OSError as error:
        if error.errno in _CONNECTION_ERRORS:
            raise ConnectionError(error.errno, error.strerror) from error
        raise StorageError(operation="send a blob", reason=error.strerror or str(error)) from error
    return sent
