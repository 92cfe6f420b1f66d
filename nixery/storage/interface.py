"""
Declares the interface of a storage: content-addressed blobs, and small records by name.

Implementations are verified against it (``tests/unit/storage/test_contract.py``).
Coroutines run on the reactor thread and never block it; a method that runs on another
thread says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

from attrs import frozen

from nixery.image.names import Digest

__all__ = [
    "BlobInfo",
    "BlobSource",
    "BlobWriter",
    "ByteRange",
    "PendingBlob",
    "OpenFile",
    "Redirect",
    "Storage",
    "Stream",
]


@frozen(kw_only=True)
class BlobInfo:
    """
    A stored blob.

    :param digest: the digest of its bytes.
    :param size: in bytes.
    :param media_type: the media type that it was stored with.
    """

    digest: Digest
    size: int
    media_type: str


@frozen(kw_only=True)
class ByteRange:
    """
    A part of a blob, resolved against its size: ``0 <= start < stop <= size``.

    :param start: offset of the first byte.
    :param stop: offset after the last byte.
    """

    start: int
    stop: int


@frozen(kw_only=True)
class OpenFile:
    """
    A blob as an open file of this machine.

    The reader closes ``descriptor``; because it is open already, a blob that is
    removed meanwhile is still read to its end.

    :param descriptor: a file descriptor, opened for reading, at offset 0.
    """

    info: BlobInfo
    descriptor: int


@frozen(kw_only=True)
class Redirect:
    """A blob to be fetched from another URL, by GET only, within that URL's lifetime."""

    info: BlobInfo
    url: str


@frozen(kw_only=True)
class Stream:
    """A blob's bytes as they arrive; ``chunks`` is iterated once, then closed."""

    info: BlobInfo
    chunks: AsyncIterator[bytes]


BlobSource = OpenFile | Redirect | Stream


class BlobWriter(Protocol):
    """
    A blob that is being written and is not visible yet.

    Exactly one of :meth:`commit`, :meth:`Storage.commit_many` and :meth:`abort` has to be
    called at the end.
    """

    def write(self, data: bytes, /) -> int:
        """
        Append ``data``.  Called on a worker thread, never on the reactor's; may
        block until there is room (back-pressure).

        :return: ``len(data)``: all of it is taken.
        :raises StorageFull: there is no room left.
        :raises StorageError: the storage failed; only :meth:`abort` helps.
        """

    async def commit(self, digest: Digest, size: int, media_type: str) -> BlobInfo:
        """
        Make the blob visible under ``digest``, whole and durable, at once.

        A blob of this digest that exists already is kept, and this one dropped:
        that is success.

        :raises DigestMismatch: the written data are not ``size`` bytes long.
        :raises StorageError: the storage failed; nothing has become visible.
        """

    async def abort(self) -> None:
        """Discard the written data.  Never raises; harmless after an end."""


@frozen(kw_only=True)
class PendingBlob:
    """
    A blob that is to become visible, and with it a record that may name it.

    :param writer: a writer of the storage that it is committed to; has all of the blob.
    :param digest: the digest of the blob.
    :param size: its number of bytes.
    :param media_type: its media type.
    :param record: kind, key and value.
    """

    writer: BlobWriter
    digest: Digest
    size: int
    media_type: str
    record: tuple[str, str, bytes]


class Storage(Protocol):
    """
    Content-addressed blobs, and small records by name.

    *Blobs* (layers, configs and manifests) are immutable.  *Records* are JSON
    documents of at most some kilobytes under a ``kind`` (a lower-case word) and a
    ``key`` (any text: implementations encode it).

    All methods raise :class:`nixery.errors.StorageError` when the storage fails.
    """

    async def stat(self, digest: Digest) -> BlobInfo:
        """:raises BlobUnknown: there is no such blob."""

    async def missing(
        self, digests: Collection[Digest], *, record_use: bool = True
    ) -> frozenset[Digest]:
        """
        Return those of ``digests`` that are not stored, in one operation.

        :param record_use: false if nothing is pulled, so that the time of their last use, after
            which a storage may remove them, stays as it is.
        """

    async def read(self, digest: Digest, *, record_use: bool = True) -> bytes:
        """
        Read a small blob (a manifest, a config) as a whole.

        :param record_use: as for :meth:`missing`.
        :raises BlobUnknown: there is no such blob.
        """

    async def read_part(self, digest: Digest, part: ByteRange) -> bytes:
        """
        Read a small part of a blob.  This is no use of the blob, and does not verify its digest.

        :raises BlobUnknown: there is no such blob.
        """

    async def open(
        self, digest: Digest, part: ByteRange | None = None, *, redirect: bool = True
    ) -> BlobSource:
        """
        Open a blob for sending, or for reading all of it.

        :param part: the part that will be read; an implementation that streams
            yields just this part, others ignore it.
        :param redirect: false to get no :class:`Redirect`.
        :raises BlobUnknown: there is no such blob.
        """

    async def create(self) -> BlobWriter:
        """Begin a blob whose digest is not known yet."""

    async def commit_many(self, commits: Sequence[PendingBlob]) -> list[bytes]:
        """
        Call :meth:`BlobWriter.commit` and then :meth:`add_record` for each of several blobs,
        in one operation.

        :return: the records as they now are, in order.
        :raises DigestMismatch: a blob has another size than announced.
        :raises StorageError: the storage failed.  Any of the blobs may have become visible,
            with or without its record; no record is there without its blob.
        """

    async def put(self, data: bytes, media_type: str) -> BlobInfo:
        """Store a small blob as a whole; one that is there already is kept."""

    async def publish(
        self,
        blobs: Collection[tuple[bytes, str]],
        needs: Collection[Digest],
        record: tuple[str, str, bytes],
        first: Collection[tuple[str, str, bytes]] = (),
    ) -> None:
        """
        Store small blobs that name others, and a record that names them: an image.

        Every blob is stored before anything that names it, and a garbage collection, if
        there is one, cannot run in between.

        :param blobs: bytes and media types, innermost first.
        :param needs: the blobs that they name besides each other.
        :param record: kind, key and value; it replaces an existing record.
        :param first: records that are stored before that one, each only if it is absent.
        :raises BlobsMissing: some of ``needs`` are not stored; nothing is stored.
        """

    async def get_record(self, kind: str, key: str) -> bytes | None:
        """Return the record, ``None`` when there is none."""

    async def get_records(self, kind: str, keys: Collection[str]) -> Mapping[str, bytes]:
        """Return those of the records that exist, by their keys, in one operation."""

    async def add_record(self, kind: str, key: str, value: bytes) -> bytes:
        """
        Create the record only if it is absent, atomically, also between
        processes.

        :return: the record as it now is: ``value``, or the existing one.
        """

    async def set_record(self, kind: str, key: str, value: bytes) -> None:
        """Create or replace the record; readers see the old or the new one."""

    async def delete_record(self, kind: str, key: str) -> None:
        """Remove the record; one that is absent is no error."""

    async def list_records(self, kind: str, prefix: str = "") -> Sequence[str]:
        """Return the keys of a kind that begin with ``prefix``, sorted."""
