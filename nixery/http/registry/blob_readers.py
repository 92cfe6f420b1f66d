"""
An opened blob as an iterator of pieces, read on worker threads.

Whoever has such an iterator closes it, whatever happens: descriptors are held,
and they must not be closed under a thread that still uses them.
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
Bytes read at a time: enough that the way to a thread and back is cheap beside the
read, little enough that a hundred clients fit in memory.
"""

SEND_SIZE = 4 * 1024 * 1024
"""
The most bytes that a thread hands to a socket at a time, so that a fast client does
not keep it from others.
"""


class BlobReader(AsyncIterator[bytes]):
    """An iterator that holds something open."""

    async def aclose(self) -> None:
        """Let go of it, once.  Must not be cancelled: what it holds would stay open."""
        raise NotImplementedError


class StreamReader(BlobReader):
    """The chunks of a stream, but for empty ones: a piece without bytes is an end."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    async def __anext__(self) -> bytes:
        while not (chunk := await anext(self._chunks)):
            pass
        return chunk

    async def aclose(self) -> None:
        # Generators have it; iterators that hold nothing need not.
        aclose = getattr(self._chunks, "aclose", None)
        if aclose is not None:
            await aclose()


class FileReader(BlobReader):
    """
    Part of a file, read on worker threads, one piece ahead after the first, or sent
    by them.
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
        # has to know when the thread has done with the descriptor.
        piece = await shield(ahead)
        self._offset += len(piece)
        if not piece:
            raise StopAsyncIteration
        # Most blobs end with their first piece, and the rest of the others may be
        # sent without being read.
        if self._read_any:
            self._ahead = self._begin_read()
        self._read_any = True
        return piece

    @property
    def reads_ahead(self) -> bool:
        """Whether a piece is, or is being, read that nobody has asked for yet."""
        return self._ahead is not None

    def use(self, line: DupSocket) -> None:
        """Send to ``line`` from now on; it is closed with the file.  Called once."""
        self._line = line

    async def send(self) -> int:
        """
        Send from where the last piece ended, as much as the line takes at once.

        :return: how many bytes.
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
            # Nobody wants to know any more how the last read went.
            self._ahead.addErrback(lambda _: None)
        if self._line is not None:
            self._line.close()
        try:
            # Closing is a thread's work too: the file may have been removed
            # meanwhile, and this may be what frees its gigabytes.
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
    """On a worker thread: up to ``size`` bytes; none at the end of the file."""
    try:
        return os.pread(descriptor, size, offset)
    except OSError as error:
        raise StorageError(operation="read a blob", reason=error.strerror or str(error)) from error


def _send(line: int, descriptor: int, offset: int, size: int) -> int:
    """On a worker thread: send up to ``size`` bytes, and no more than fits."""
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
