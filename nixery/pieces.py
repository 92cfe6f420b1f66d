"""
An opened blob as an iterator of pieces, read on worker threads.

Whoever has such an iterator closes it, whatever happens: a descriptor is held,
and it must not be closed under a thread that still reads from it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable

from twisted.internet.defer import Deferred

from nixery.errors import ShuttingDown, StorageError
from nixery.interfaces import ByteRange, Workers
from nixery.waiting import end_of, shielded

__all__ = ["PIECE_SIZE", "FilePieces", "Pieces", "StreamPieces"]

PIECE_SIZE = 256 * 1024
"""
Bytes read at a time: enough that the way to a thread and back is cheap beside the
read, little enough that a hundred clients fit in memory.
"""


class Pieces(AsyncIterator[bytes]):
    """An iterator that holds something open."""

    async def aclose(self) -> None:
        """Let go of it, once.  Must not be cancelled: what it holds would stay open."""
        raise NotImplementedError


class StreamPieces(Pieces):
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


class FilePieces(Pieces):
    """Part of a file, read on worker threads, one piece ahead."""

    def __init__(self, descriptor: int, part: ByteRange, workers: Workers) -> None:
        self._descriptor = descriptor
        self._offset = part.start
        self._stop = part.stop
        self._workers = workers
        self._ahead: Deferred[bytes] | None = None
        self._read_ended: Awaitable[None] | None = None

    async def __anext__(self) -> bytes:
        ahead = self._ahead if self._ahead is not None else self._begin_read()
        self._ahead = None
        if ahead is None:
            raise StopAsyncIteration
        # Shielded: the wait may be cancelled, but not the thread, and aclose()
        # has to know when the thread has done with the descriptor.
        piece = await shielded(ahead)
        self._offset += len(piece)
        if not piece:
            raise StopAsyncIteration
        self._ahead = self._begin_read()
        return piece

    async def aclose(self) -> None:
        if self._read_ended is not None:
            await self._read_ended
        if self._ahead is not None:
            # Nobody wants to know any more how the last read went.
            self._ahead.addErrback(lambda _: None)
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
        self._read_ended = end_of(read)
        return read


def _read(descriptor: int, size: int, offset: int) -> bytes:
    """On a worker thread: up to ``size`` bytes; none at the end of the file."""
    try:
        return os.pread(descriptor, size, offset)
    except OSError as error:
        raise StorageError(operation="read a blob", reason=error.strerror or str(error)) from error
