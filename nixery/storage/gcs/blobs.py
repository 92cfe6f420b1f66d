"""
Names the objects of blobs, and reads and writes small blobs as a whole.
"""

from __future__ import annotations

import hashlib

from twisted.logger import Logger

from nixery.image.names import Digest, parse_digest
from nixery.storage.gcs.http import StoredObject, encode_crc32c, extend_crc32c
from nixery.storage.gcs.objects import Objects
from nixery.storage.gcs.publish import publish
from nixery.storage.interface import BlobInfo

__all__ = ["blob_info", "blob_name", "put_blob", "read_blob"]

_log = Logger()


def blob_name(digest: Digest) -> str:
    """Return the name of a blob's object.  Parses again: no digest may name another object."""
    return "layers/" + parse_digest(digest).removeprefix("sha256:")


def blob_info(digest: Digest, stored: StoredObject) -> BlobInfo:
    """Describe a blob by its stored object."""
    return BlobInfo(digest=digest, size=stored.size, media_type=stored.media_type)


def put_blob(objects: Objects, data: bytes, media_type: str) -> tuple[Digest, StoredObject]:
    """Store a small blob; an existing one is kept.  Blocks."""
    digest = Digest("sha256:" + hashlib.sha256(data).hexdigest())
    return digest, publish(objects, blob_name(digest), data, media_type)


def read_blob(objects: Objects, digest: Digest) -> bytes | None:
    """
    Read a small blob as a whole, and verify its digest.  Blocks.

    :return: ``None`` if there is none, or if its bytes do not have the digest that it is
        named by: such a blob is removed.
    """
    name = blob_name(digest)
    data = objects.get(name)
    if data is None:
        return None
    actual = "sha256:" + hashlib.sha256(data).hexdigest()
    if actual == digest:
        return data
    _log.error(
        "{digest} is damaged, its bytes hash to {actual}: it is withdrawn",
        digest=digest,
        actual=actual,
    )
    stored = objects.stat(name)
    if stored is not None and stored.matches(len(data), encode_crc32c(extend_crc32c(data))):
        objects.delete(name, stored.generation)
    return None
