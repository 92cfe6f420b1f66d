"""
Manifests by digest, the recent ones from memory.

A pull asks by tag, and then by digest for what it was told.  The second question would
cost two looks into the storage, which may be a bucket far away, for what has just been
in hand.
"""

from __future__ import annotations

from collections.abc import Callable

from cachetools import LRUCache

from nixery.http.registry.errors import ManifestUnknown
from nixery.image.manifests import (
    DOCKER_MANIFEST,
    MAX_MANIFEST_SIZE,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
)
from nixery.image.names import Digest, ImageName
from nixery.observability.context import LookupCounts
from nixery.storage.errors import BlobUnknown
from nixery.storage.interface import Storage

__all__ = ["Manifests"]

MEDIA_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX})
"""Of what may be fetched as a manifest."""

RECHECK = 60.0
"""
For how many seconds a manifest is answered without a look at the storage: where it may
have been removed, by another process too, and which notes that it is in use.
"""

KEPT = 4 * MAX_MANIFEST_SIZE
"""How much is kept in memory, in bytes."""


class Manifests:
    """
    Manifests that are stored.

    :param storage: where they are.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    """

    def __init__(self, storage: Storage, seconds: Callable[[], float]) -> None:
        self._storage = storage
        self._seconds = seconds
        self._seen: LRUCache[Digest, float] = LRUCache(KEPT // 4096)
        self.counts = LookupCounts()
        self._kept: LRUCache[Digest, Manifest] = LRUCache(
            KEPT, getsizeof=lambda manifest: manifest.size
        )

    async def get(self, name: ImageName, digest: Digest) -> Manifest:
        """
        A manifest.

        :param name: it was asked for under; it may be that of any image.
        :raises ManifestUnknown: there is no such manifest.
        :raises StorageError: the storage failed.
        """
        kept, seen = self._kept.get(digest), self._seen.get(digest)
        if kept is not None and seen is not None and self._seconds() < seen + RECHECK:
            self.counts.memory += 1
            return kept
        try:
            info = await self._storage.stat(digest)
            # A layer is no manifest, even if somebody asks for it as one.
            if info.media_type not in MEDIA_TYPES:
                raise ManifestUnknown(name=name.repository, digest=digest)
            body = await self._storage.read(digest)
        except BlobUnknown:
            self._kept.pop(digest, None)
            self.counts.missing += 1
            raise ManifestUnknown(name=name.repository, digest=digest) from None
        self.counts.storage += 1
        manifest = Manifest(media_type=info.media_type, digest=digest, body=body)
        self.keep(manifest)
        self._seen[digest] = self._seconds()
        return manifest

    def keep(self, manifest: Manifest) -> None:
        """Keep a manifest in memory that is stored and likely to be asked for."""
        if manifest.size <= MAX_MANIFEST_SIZE:
            if manifest.digest not in self._kept:
                self._kept[manifest.digest] = manifest
            # Whoever has it in hand has looked for all that it names.
            self._seen[manifest.digest] = self._seconds()

    def invalidate_checks(self) -> None:
        """A blob is gone that was asked for: what names it may have vanished as well."""
        self._kept.clear()
