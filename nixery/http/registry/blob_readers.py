"""
Read an opened blob as an iterator of pieces, on worker threads.

The owner of such an iterator must close it in every case: it holds a descriptor, which
must not be closed while a thread still uses it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable

from twisted.internet.defer import Deferred

from nixery.errors import ShuttingDown, StorageError
from nixery.http.sendfile import DupSocket
from nixery.runtime.deferreds import shield, when_finished
from nixery.runtime.workers import Workers
from nixery.storage.interface import ByteRange

__all__ = ["PIECE_SIZE", "FileReader", "BlobReader", "StreamReader"]

PIECE_SIZE = 256 * 1024
"""
Bytes read at a time: enough that the switch to a thread and back is cheap compared to
the read, little enough that a hundred clients fit in memory.
"""

SEND_SIZE = 4 * 1024 * 1024
"""
The most bytes that a thread sends to a socket at a time, so that a fast client does not
occupy the thread while others wait.
"""


class BlobReader(AsyncIterator[bytes]):
    """An iterator over the pieces of a blob that owns an open resource."""

    async def aclose(self) -> None:
        """Close the resource, once.  Must not be cancelled: the resource would stay open."""
        raise NotImplementedError


class StreamReader(BlobReader):
    """Yields the chunks of a stream without empty ones, which would mean its end."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    async def __anext__(self) -> bytes:
        while not (chunk := await anext(self._chunks)):
            pass
        return chunk

    async def aclose(self) -> None:
        # Generators have this method; iterators that hold no resource need not.
        aclose = getattr(self._chunks, "aclose", None)
        if aclose is not None:
            await aclose()


class FileReader(BlobReader):
    """
    Reads part of a file on worker threads, one piece ahead after the first, or sends it
    from there.
    """

    def __init__(self, descriptor: int, part: ByteRange, workers: Workers) -> None:
        self._descriptor = descriptor
        self._offset = part.start
        self._stop = part.stop
        self._workers = workers
        self._read_any = False
        self._ahead: Deferred[bytes] | None = None
        self._ended: Awaitable[None] | None = None
        self._line: DupSocket | None = None

    async def __anext__(self) -> bytes:
        ahead = self._ahead if self._ahead is not None else self._begin_read()
        self._ahead = None
        if ahead is None:
            raise StopAsyncIteration
        # Shielded: the wait may be cancelled, but not the thread, and aclose()
        # has to wait until the thread no longer uses the descriptor.
        piece = await shield(ahead)
        self._offset += len(piece)
        if not piece:
            raise StopAsyncIteration
        # Most blobs consist of a single piece, and the rest of a larger one may be sent
        # by sendfile without being read.
        if self._read_any:
            self._ahead = self._begin_read()
        self._read_any = True
        return piece

    @property
    def reads_ahead(self) -> bool:
        """True if a piece has been, or is being, read ahead of the next call for one."""
        return self._ahead is not None

    def use(self, line: DupSocket) -> None:
        """Send to the socket ``line`` from now on; it is closed with the file.  Called once."""
        self._line = line

    async def send(self) -> int:
        """
        Send from the end of the last piece, as much as the socket takes at once.

        :return: the number of bytes sent.
        :raises StorageError: the file cannot be read, or has ended too soon.
        :raises ConnectionError: the connection is lost.
        """
        assert self._line is not None
        assert not self.reads_ahead
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
        if self._ahead is not None:
            # The result of the last read is not needed any more, and neither is its error.
            self._ahead.addErrback(lambda _: None)
        if self._line is not None:
            self._line.close()
        try:
            # Closing blocks too: the file may have been removed meanwhile, and then
            # closing it frees its gigabytes.
            await self._workers.run(os.close, self._descriptor)
        except ShuttingDown:
            os.close(self._descriptor)

    def _begin_read(self) -> Deferred[bytes] | None:
        size = min(PIECE_SIZE, self._stop - self._offset)
        if size == 0:
            return None
        read = Deferred.fromCoroutine(
            self._workers.run(_read, self._descriptor, size, self._offset)
        )
        self._ended = when_finished(read)
        return read


def _read(descriptor: int, size: int, offset: int) -> bytes:
    """Read up to ``size`` bytes, none at the end of the file; runs on a worker thread."""
    try:
        return os.pread(descriptor, size, offset)
    except OSError as error:
        raise StorageError(operation="read a blob", reason=error.strerror or str(error)) from error


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
        raise StorageError(operation="send a blob", reason=error.strerror or str(error)) from error
    return sent
