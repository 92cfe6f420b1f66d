"""Read several parts of a blob from a storage that streams, one ranged read after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from nixery.errors import StorageError
from nixery.http.registry.blob_readers import StreamReader
from nixery.http.registry.multipart import MultipartBody, Span
from nixery.storage.interface import Storage, Stream

__all__ = ["multipart_chunks"]


async def multipart_chunks(
    storage: Storage, first: Stream, body: MultipartBody, reads: Sequence[Span]
) -> AsyncIterator[bytes]:
    """
    Yield a body with parts of a blob.

    :param first: the stream of the first span; it is closed here.
    :param reads: the spans of the body's ranges.
    :raises StorageError: the storage failed.
    """
    for index, span in enumerate(reads):
        source = (
            first
            if index == 0
            else await storage.open(body.info.digest, span.whole, redirect=False)
        )
        if not isinstance(source, Stream):
            raise StorageError(operation=f"read {body.info.digest}", reason="it is not streamed")
        try:
            parts = iter(span.ranges)
            part = next(parts, None)
            offset = span.whole.start
            async for chunk in source.chunks:
                end = offset + len(chunk)
                while part is not None and part.start < end:
                    if part.start >= offset:
                        yield body.head(part)
                    yield chunk[max(0, part.start - offset) : part.stop - offset]
                    if part.stop > end:
                        break
                    part = next(parts, None)
                offset = end
            if part is not None:
                raise StorageError(
                    operation=f"read {body.info.digest}", reason="its bytes are missing"
                )
        finally:
            await StreamReader(source.chunks).aclose()
    yield body.tail
