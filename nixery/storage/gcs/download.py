"""
Streams a blob through the daemon, piece by piece.

This is for clients that cannot reach the bucket.  After a broken connection, the download
continues at the same offset; a wrong checksum is detected before the last piece is
passed on, so that no client takes damaged bytes for a whole blob.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable

from requests import Response
from twisted.internet.defer import Deferred

from nixery.errors import NixeryError, ShuttingDown, StorageError
from nixery.runtime.deferreds import shield, when_finished
from nixery.runtime.workers import Workers
from nixery.storage.gcs.http import StoredObject, encode_crc32c, extend_crc32c
from nixery.storage.gcs.objects import Objects
from nixery.storage.gcs.retry import RetryState, UnexpectedResponse, translate_errors
from nixery.storage.interface import ByteRange

__all__ = ["Chunks", "Download"]

PIECE_BYTES = 256 * 1024
"""Number of bytes per read; see :mod:`nixery.http.registry.blob_readers`."""


class Download:
    """
    Reads the bytes of an object, on one thread at a time.

    :param objects: the bucket, for the task that downloads.
    :param stored: the object.
    :param part: the range of bytes to read.
    """

    def __init__(self, objects: Objects, stored: StoredObject, part: ByteRange) -> None:
        self._objects = objects
        self._stored = stored
        self._offset = part.start
        self._stop = part.stop
        # The checksum is that of the whole object, so a part cannot be verified.
        self._is_full_read = part == ByteRange(start=0, stop=stored.size)
        self._crc = 0
        self._response: Response | None = None

    def read(self) -> bytes:
        """
        Read the next piece; empty at the end.

        :raises StorageError: the rest of the object cannot be read.
        """
        if self._offset == self._stop:
            return b""
        attempts = RetryState("read a blob", self._objects.retry_policy, self._objects.stop)
        while True:
            attempts.check()
            try:
                piece = self._read_piece()
            except NixeryError:
                raise
            # As in attempt(): the exceptions that are raised here are not documented.
            except Exception as error:  # noqa: BLE001
                self.close()
                with translate_errors("read a blob"):
                    attempts.failed(error)
                continue
            self._offset += len(piece)
            if self._is_full_read:
                self._crc = extend_crc32c(piece, self._crc)
                if self._offset == self._stop and encode_crc32c(self._crc) != self._stored.crc32c:
                    # The earlier pieces were sent to the client already.
                    raise StorageError(
                        operation="read a blob", reason="what was received is damaged"
                    )
            return piece

    def close(self) -> None:
        """Close the connection."""
        response, self._response = self._response, None
        if response is not None:
            response.close()

    def _read_piece(self) -> bytes:
        if self._response is None:
            ranged = not self._is_full_read or self._offset
            self._response = self._objects.fetch(
                self._stored.name,
                start=self._offset,
                stop=self._stop if ranged else None,
                generation=self._stored.generation,
            )
        piece: bytes = self._response.raw.read(
            min(PIECE_BYTES, self._stop - self._offset), decode_content=False
        )
        if not piece:
            raise UnexpectedResponse("the service sends less than it has")
        return piece


class Chunks(AsyncIterator[bytes]):
    """
    The asynchronous iterator over a download, for the reactor.

    :param download: the download; this object closes its connection.
    :param workers: the pool for reading.
    """

    def __init__(self, download: Download, objects: Objects, workers: Workers) -> None:
        self._download = download
        self._objects = objects
        self._workers = workers
        self._read_ended: Awaitable[None] | None = None

    async def __anext__(self) -> bytes:
        read = Deferred.fromCoroutine(self._workers.run(self._download.read))
        self._read_ended = when_finished(read)
        # Shielded: the wait may be cancelled, but not the thread, and aclose() has to
        # know when it has done.
        piece = await shield(read)
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Close the connection, when no thread reads from it any more."""
        self._objects.stop.set()
        if self._read_ended is not None:
            await self._read_ended
        try:
            await self._workers.run(self._download.close)
        except ShuttingDown:
            self._download.close()
