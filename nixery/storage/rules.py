"""
Rules that all storage backends share.

Every backend implements :class:`nixery.storage.interface.Storage` in a package of its own;
this module has only the common rules, so that a record or a blob that one backend accepts is
accepted by the others too.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from nixery.errors import StorageError
from nixery.image.manifests import MANIFEST_TYPES
from nixery.image.names import Digest
from nixery.runtime.deferreds import gather
from nixery.storage.errors import BlobsMissing
from nixery.storage.interface import Storage

__all__ = ["MAX_SMALL_BYTES", "check_kind", "check_small", "publish_in_steps"]

MAX_SMALL_BYTES = 16 * 1024 * 1024
"""
Maximum number of bytes that are held in memory at once: the limit of ``read``,
``put`` and of a record.  Layers are streamed; clients accept manifests of up to
about 4 MB.
"""

_KIND = re.compile(r"[a-z][a-z0-9_-]{0,63}")


def check_kind(kind: str) -> str:
    """
    Return ``kind``, which may become a part of a path, after checking it.

    :raises StorageError: it is no lower-case word.
    """
    if not _KIND.fullmatch(kind):
        raise StorageError(
            operation=f"use records of the kind {kind!r}",
            reason="a kind is a lower-case word",
        )
    return kind


def check_small(operation: str, size: int) -> None:
    """:raises StorageError: ``size`` bytes are too many to be held in memory."""
    if size > MAX_SMALL_BYTES:
        raise StorageError(
            operation=operation,
            reason=f"it has {size} bytes, and no more than {MAX_SMALL_BYTES} are held in memory",
        )


async def publish_in_steps(
    storage: Storage,
    blobs: Collection[tuple[bytes, str]],
    needs: Collection[Digest],
    record: tuple[str, str, bytes],
    first: Collection[tuple[str, str, bytes]] = (),
) -> None:
    """
    Implement :meth:`nixery.storage.interface.Storage.publish` for a storage from which nothing
    is removed while it is in use.

    :raises BlobsMissing: some of ``needs`` are not stored.
    """
    gone = await storage.missing(needs)
    if gone:
        raise BlobsMissing(digests=tuple(sorted(gone)))
    # A bucket takes as long for each of them, and an image with its documents has two dozen.
    for are_manifests in (False, True):
        await gather(
            storage.put(data, media_type)
            for data, media_type in blobs
            if (media_type in MANIFEST_TYPES) == are_manifests
        )
    await gather(storage.add_record(*each) for each in first)
    await storage.set_record(*record)
