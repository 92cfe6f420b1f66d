"""
Uploads a blob while it is being packed.
    packing thread --write()--> chunk, two more in a queue --> upload thread --> bucket

The packing thread fills a chunk while an upload thread sends an earlier one.  When
the queue is full, write() waits: the memory per blob is bounded, for blobs of any
size and networks of any speed.  A blob that fits into one chunk and into
one request of the library bypasses the queue: when it is committed, its checksum
is known, and it is sent at once, or not at all if it exists already.

Uploads have threads of their own, as many as blobs are packed at a time.
In the pool for short requests they could deadlock with the packing threads that wait
for them.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from threading import Condition
from uuid import uuid4

from twisted.internet.defer import CancelledError

from nixery.errors import ShuttingDown, StorageError
from nixery.image.manifests import layer_media_type
from nixery.image.names import Digest
from nixery.runtime.workers import Workers
from nixery.storage.errors import DigestMismatch
from nixery.storage.gcs.blobs import blob_info, blob_name
from nixery.storage.gcs.http import StoredObject, encode_crc32c, extend_crc32c
from nixery.storage.gcs.objects import MAX_UPLOAD, Objects
from nixery.storage.gcs.publish import discard, promote, publish
from nixery.storage.gcs.retry import stopped, translate_errors
from nixery.storage.gcs.upload import OPERATION, Upload
from nixery.storage.interface import BlobInfo

__all__ = ["STAGING", "Writer"]

STAGING = "staging/"
"""The prefix of the names of unfinished objects."""

MAX_QUEUED_CHUNKS = 2
"""Maximum number of chunks in the queue between the two threads."""

ABORT_TIMEOUT_SECONDS = 10.0
"""Seconds to wait for the end of an upload that was dropped."""

DEFAULT_MEDIA_TYPE = layer_media_type("gzip")
"""The media type of nearly all large blobs; another type takes one more request."""


class Writer:
    """
    An implementation of :class:`nixery.storage.interface.BlobWriter`.

    If it is dropped without an end, it cancels its upload.

    :param objects: the bucket, for the task of this blob alone.
    :param workers: the pool for requests at the end.
    :param threads: the threads that uploads run on.
    :param chunk_size: in bytes.
    """

    def __init__(
        self, objects: Objects, workers: Workers, threads: ThreadPoolExecutor, chunk_size: int
    ) -> None:
        self._objects = objects
        self._workers = workers
        self._threads = threads
        self._chunk_size = chunk_size
        self._buffer = bytearray()
        self._size = 0
        self._crc = 0
        self._transfer: _Transfer | None = None
        self._ended = False

    def __del__(self) -> None:
        if not self._ended:
            self.stop()

    def stop(self) -> None:
        """Make running operations fail at once; the caller still has to end the writer."""
        self._objects.stop.set()
        if self._transfer is not None:
            self._transfer.stop()

    def write(self, data: bytes, /) -> int:
        """Append ``data``, on a worker thread; waits while the queue is full."""
        self._check()
        view = memoryview(data)
        while view:
            # Keep a full chunk until more data follow: the last chunk must not be empty.
            if len(self._buffer) == self._chunk_size:
                self._queue_buffer(last=False)
            space = self._chunk_size - len(self._buffer)
            self._buffer += view[:space]
            view = view[space:]
        self._size += len(data)
        return len(data)

    async def commit(self, digest: Digest, size: int, media_type: str) -> BlobInfo:
        """
        Make the blob visible; the writer ends in any case.

        A commit that is cancelled ends at its next request: the blob may exist
        afterwards, and is whole then.

        :raises DigestMismatch: the written data are not ``size`` bytes long.
        """
        self._check()
        try:
            name = blob_name(digest)
            if size != self._size:
                raise DigestMismatch(
                    operation=f"store {digest}",
                    reason=f"{self._size} bytes were written, and {size} announced",
                    expected=f"{size} bytes",
                    actual=f"{self._size} bytes",
                )
            stored = await self._workers.run(self._publish, name, media_type)
        except BaseException:
            await self.abort()
            raise
        self._ended = True
        return blob_info(digest, stored)

    async def abort(self) -> None:
        """Discard the written data.  Never raises; harmless after an end."""
        if self._ended:
            return
        self._ended = True
        # A thread that is about to publish must see the stop before the data are dropped.
        self.stop()
        self._buffer.clear()
        if self._transfer is not None:
            # Even if this wait is cancelled, the upload ends by itself.
            with suppress(ShuttingDown, CancelledError):
                await self._workers.run(self._transfer.discard)

    def _check(self) -> None:
        if self._ended:
            raise StorageError(operation="write a blob", reason="it was ended before")

    def _queue_buffer(self, *, last: bool) -> _Transfer:
        chunk = bytes(self._buffer)
        self._buffer.clear()
        self._crc = extend_crc32c(chunk, self._crc)
        if self._transfer is None:
            self._transfer = _Transfer(self._objects, self._threads)
        self._transfer.put(chunk, last=last)
        return self._transfer

    def _publish(self, name: str, media_type: str) -> StoredObject:
        """Publish the blob, on a worker thread."""
        with translate_errors("store a blob"):
            if self._transfer is None and self._size <= MAX_UPLOAD:
                data = bytes(self._buffer)
                if len(data) != self._size:
                    raise stopped("store a blob")
                return publish(self._objects, name, data, media_type)
            if self._objects.stop.is_set():
                raise stopped("store a blob")
            transfer = self._queue_buffer(last=True)
            # Done while the last chunks are being uploaded.
            existing = self._objects.stat(name)
            if existing is not None and existing.matches(self._size, encode_crc32c(self._crc)):
                transfer.stop()
                transfer.discard()
                return existing
            return promote(self._objects, transfer.result(), name, media_type)


class _Transfer:
    """
    The state that the packing thread and the upload thread share.

    It has no reference to the writer, so that a writer that is not used any more is
    garbage-collected, and thus differs from a slow one.
    """

    def __init__(self, objects: Objects, threads: ThreadPoolExecutor) -> None:
        self._objects = objects
        self._changed = Condition()
        self._chunks: deque[tuple[bytes, bool]] = deque()
        self._failure: BaseException | None = None
        try:
            self._future: Future[StoredObject] = threads.submit(self._run)
        except RuntimeError:  # no new threads: the daemon stops
            raise ShuttingDown from None

    def put(self, chunk: bytes, *, last: bool) -> None:
        """
        Put a chunk into the queue; waits until there is room.

        :raises StorageError: the upload has failed.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._chunks) < MAX_QUEUED_CHUNKS or self._failure or self._stopped()
            )
            self._check()
            self._chunks.append((chunk, last))
            self._changed.notify_all()

    def stop(self) -> None:
        """Make the upload end without an object."""
        self._objects.stop.set()
        with self._changed:
            self._changed.notify_all()

    def result(self) -> StoredObject:
        """Return the staged object; waits until the last chunk is uploaded."""
        return self._future.result()

    def discard(self) -> None:
        """Wait for the end of an upload that was stopped, and remove its object, if any."""
        wait_for([self._future], ABORT_TIMEOUT_SECONDS)
        if self._future.done() and not self._future.cancelled():
            if self._future.exception() is None:
                discard(self._objects, self._future.result())
        else:
            self._future.cancel()

    def _run(self) -> StoredObject:
        """Upload the chunks of the queue, on the upload thread."""
        upload = Upload(self._objects, STAGING + uuid4().hex, DEFAULT_MEDIA_TYPE)
        try:
            with translate_errors(OPERATION):
                upload.start()
                while True:
                    chunk, last = self._next_chunk()
                    stored = upload.send(chunk, last=last)
                    del chunk  # free its memory while waiting for the next one
                    if stored is not None:
                        return stored
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._chunks.clear()
                self._changed.notify_all()
            upload.cancel()
            raise

    def _next_chunk(self) -> tuple[bytes, bool]:
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._stopped())
            if self._stopped():
                raise stopped(OPERATION)
            chunk = self._chunks.popleft()
            self._changed.notify_all()
            return chunk

    def _stopped(self) -> bool:
        return self._objects.stop.is_set()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._stopped():
            raise stopped(OPERATION)
