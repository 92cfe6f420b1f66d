"""
Stores the documents about an image with it, and reads them.

For each manifest of an image, a record names what is attached to it.  The first record wins: the
provenance is a fact of the host that built first, and another host that builds the same image
later, here or elsewhere, adopts the documents that clients may have seen already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen
from twisted.logger import Logger

from nixery.artifacts.attachment import (
    Attachment,
    attach_document,
    decode_attachments,
    encode_attachments,
)
from nixery.artifacts.document import Document
from nixery.image.manifests import Image
from nixery.image.names import Digest
from nixery.storage.interface import Storage

__all__ = ["DOCUMENTS", "DocumentBlobs", "plan_documents", "read_attachments"]

DOCUMENTS = "document"
"""The kind of the records of the documents that are attached to a manifest, by its digest."""

_log = Logger()


@frozen(kw_only=True)
class DocumentBlobs:
    """
    The blobs and records to publish with an image, by which its documents are attached to it.

    :param blobs: bytes and media types, innermost first.
    :param needs: the blobs of the documents that are there already.
    :param records: kinds, keys and values.
    """

    blobs: tuple[tuple[bytes, str], ...] = ()
    needs: frozenset[Digest] = frozenset()
    records: tuple[tuple[str, str, bytes], ...] = ()


async def plan_documents(
    storage: Storage, image: Image, documents: Mapping[Digest, Sequence[Document]]
) -> DocumentBlobs:
    """
    Decide what is to be published for documents to be attached to an image.

    :param documents: for each of its manifests, in the order in which clients see them.
    :raises StorageError: the storage failed.
    """
    blobs: dict[tuple[bytes, str], None] = {}
    needs: set[Digest] = set()
    records = []
    for manifest in image.manifests:
        given = documents.get(manifest.digest, ())
        if not given:
            continue
        existing = await storage.get_record(DOCUMENTS, manifest.digest)
        attached = _decode(manifest.digest, existing)
        present = await _present(storage, attached)
        if attached and present == attached:
            needs |= {digest for each in attached for digest in each.digests}
            continue
        if existing is not None:
            # A rule of a bucket, or a person, has removed what the record names.
            await storage.delete_record(DOCUMENTS, manifest.digest)
        new = [attach_document(manifest, document) for document in given]
        blobs |= dict.fromkeys(blob for each in new for blob in each.blobs)
        record = encode_attachments(manifest.digest, [each.attachment for each in new])
        records.append((DOCUMENTS, manifest.digest, record))
    return DocumentBlobs(blobs=tuple(blobs), needs=frozenset(needs), records=tuple(records))


async def read_attachments(storage: Storage, kind: str, key: str) -> tuple[Attachment, ...]:
    """
    Return what a record says is attached to a manifest, except for what is not stored any more.

    :raises StorageError: the storage failed.
    """
    return await _present(storage, _decode(key, await storage.get_record(kind, key)))


async def _present(storage: Storage, attachments: tuple[Attachment, ...]) -> tuple[Attachment, ...]:
    digests = {digest for each in attachments for digest in each.digests}
    missing = await storage.missing(digests, record_use=False) if digests else frozenset()
    return tuple(each for each in attachments if not each.digests & missing)


def _decode(key: str, record: bytes | None) -> tuple[Attachment, ...]:
    try:
        return () if record is None else decode_attachments(record)
    except ValueError as error:
        _log.warn("the record of what is attached to {key}: {error}", key=key, error=error)
        return ()
