"""
A storage in memory, for tests: it keeps the whole contract, and nothing is durable.

It answers at once, so that code that uses it can be tested without a reactor, and it streams, so
that blobs that are no files are tested as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from threading import Lock

from nixery.errors import StorageError
from nixery.image.names import Digest, parse_digest
from nixery.storage.errors import BlobsMissing, BlobUnknown, DigestMismatch
from nixery.storage.interface import (
    BlobInfo,
    BlobSource,
    BlobWriter,
    ByteRange,
    PendingBlob,
    Stream,
)
from nixery.storage.rules import check_kind, check_small

__all__ = ["MemoryStorage"]


class MemoryStorage:
    """
    Implements :class:`nixery.storage.interface.Storage`.

    :param chunk: the most bytes that :class:`nixery.storage.interface.Stream` yields at
        a time; small, so that a few bytes come in pieces like a large blob.
    """

    def __init__(self, chunk: int = 1024) -> None:
        self._chunk = chunk
        self._lock = Lock()
        self._blobs: dict[Digest, tuple[BlobInfo, bytes]] = {}
        self._records: dict[tuple[str, str], bytes] = {}

    def lose(self, *digests: Digest) -> None:
        """Lose blobs, as those that a rule of a bucket removes."""
        for digest in digests:
            del self._blobs[digest]

    async def stat(self, digest: Digest) -> BlobInfo:
        """:raises BlobUnknown: there is no such blob."""
        return self._blob(digest)[0]

    async def missing(
        self,
        digests: Collection[Digest],
        *,
        record_use: bool = True,  # noqa: ARG002  # nothing expires here
    ) -> frozenset[Digest]:
        """Return those of ``digests`` that are not stored."""
        return frozenset(digest for digest in digests if parse_digest(digest) not in self._blobs)

    async def read(
        self,
        digest: Digest,
        *,
        record_use: bool = True,  # noqa: ARG002  # nothing expires here
    ) -> bytes:
        """:raises BlobUnknown: there is no such blob."""
        info, data = self._blob(digest)
        check_small(f"read {digest}", info.size)
        return data

    async def read_part(self, digest: Digest, part: ByteRange) -> bytes:
        """:raises BlobUnknown: there is no such blob."""
        check_small(f"read a part of {digest}", part.stop - part.start)
        _, data = self._blob(digest)
        return data[part.start : part.stop]

    async def open(
        self,
        digest: Digest,
        part: ByteRange | None = None,
        *,
        redirect: bool = True,  # noqa: ARG002  # there is no URL
    ) -> BlobSource:
        """
        Open ``part`` of a blob, or all of it, as a stream.

        :raises BlobUnknown: there is no such blob.
        """
        info, data = self._blob(digest)
        wanted = data if part is None else data[part.start : part.stop]
        return Stream(info=info, chunks=_pieces(wanted, self._chunk))

    async def create(self) -> BlobWriter:
        """Begin a blob whose digest is not known yet."""
        return _Writer(self)

    async def commit_many(self, commits: Sequence[PendingBlob]) -> list[bytes]:
        """:return: the records that existed before, or that were stored."""
        records = []
        for each in commits:
            await each.writer.commit(each.digest, each.size, each.media_type)
            records.append(await self.add_record(*each.record))
        return records

    async def put(self, data: bytes, media_type: str) -> BlobInfo:
        """Store a small blob as a whole; an existing one is kept."""
        check_small("store a blob", len(data))
        return self.keep(Digest("sha256:" + hashlib.sha256(data).hexdigest()), data, media_type)

    async def publish(
        self,
        blobs: Collection[tuple[bytes, str]],
        needs: Collection[Digest],
        record: tuple[str, str, bytes],
        first: Collection[tuple[str, str, bytes]] = (),
    ) -> None:
        """
        Store a blob that refers to other blobs, and a record of it.

        :raises BlobsMissing: some of ``needs`` are not there.
        """
        gone = sorted(digest for digest in needs if digest not in self._blobs)
        if gone:
            raise BlobsMissing(digests=tuple(gone))
        for data, media_type in blobs:
            await self.put(data, media_type)
        for each in first:
            await self.add_record(*each)
        await self.set_record(*record)

    async def get_record(self, kind: str, key: str) -> bytes | None:
        """Return the record; ``None`` when there is none."""
        return self._records.get((check_kind(kind), key))

    async def get_records(self, kind: str, keys: Collection[str]) -> Mapping[str, bytes]:
        """Return those of the records that exist."""
        check_kind(kind)
        with self._lock:
            return {key: self._records[kind, key] for key in keys if (kind, key) in self._records}

    async def add_record(self, kind: str, key: str, value: bytes) -> bytes:
        """:return: the record that existed before, or ``value``, which was stored."""
        check_small("store a record", len(value))
        with self._lock:
            return self._records.setdefault((check_kind(kind), key), value)

    async def set_record(self, kind: str, key: str, value: bytes) -> None:
        """Create or replace the record."""
        check_small("store a record", len(value))
        with self._lock:
            self._records[check_kind(kind), key] = value

    async def delete_record(self, kind: str, key: str) -> None:
        """Remove the record; it is no error if it is absent."""
        with self._lock:
            self._records.pop((check_kind(kind), key), None)

    async def list_records(self, kind: str, prefix: str = "") -> Sequence[str]:
        """Return the keys of a kind that begin with ``prefix``, sorted."""
        check_kind(kind)
        with self._lock:
            return sorted(
                key for of_kind, key in self._records if of_kind == kind and key.startswith(prefix)
            )

    def _blob(self, digest: Digest) -> tuple[BlobInfo, bytes]:
        try:
            return self._blobs[parse_digest(digest)]
        except KeyError:
            raise BlobUnknown(digest=digest) from None

    def keep(self, digest: Digest, data: bytes, media_type: str) -> BlobInfo:
        """Store a blob, unless it is stored already; for the writers."""
        info = BlobInfo(digest=parse_digest(digest), size=len(data), media_type=media_type)
        with self._lock:
            return self._blobs.setdefault(digest, (info, data))[0]


class _Writer:
    """Implements :class:`nixery.storage.interface.BlobWriter`."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage
        self._pieces: list[bytes] | None = []

    def write(self, data: bytes, /) -> int:
        """Append ``data``."""
        self._open().append(bytes(data))
        return len(data)

    async def commit(self, digest: Digest, size: int, media_type: str) -> BlobInfo:
        """
        Make the blob visible; the writer ends in any case.

        :raises DigestMismatch: what was written is not ``size`` bytes long.
        """
        data = b"".join(self._open())
        self._pieces = None
        if len(data) != size:
            raise DigestMismatch(
                operation=f"store {digest}",
                reason=f"{len(data)} bytes were written, and {size} announced",
                expected=f"{size} bytes",
                actual=f"{len(data)} bytes",
            )
        return self._storage.keep(digest, data, media_type)

    async def abort(self) -> None:
        """Drop what was written."""
        self._pieces = None

    def _open(self) -> list[bytes]:
        if self._pieces is None:
            raise StorageError(operation="write a blob", reason="it was ended before")
        return self._pieces


async def _pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
