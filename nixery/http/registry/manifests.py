"""
Look up manifests by digest, recent ones in memory.

A pull requests a manifest by tag, and then by the digest that it was given.  Without the
cache, the second request would cost two requests to the storage, which may be a remote
bucket, for a manifest that has just been in memory.
"""

from __future__ import annotations

from collections.abc import Callable

from cachetools import LRUCache

from nixery.http.registry.errors import ManifestUnknown
from nixery.image.manifests import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_MANIFEST_SIZE,
    Manifest,
)
from nixery.image.names import Digest, ImageName
from nixery.observability.context import LookupCounts
from nixery.storage.errors import BlobUnknown
from nixery.storage.interface import Storage

__all__ = ["Manifests"]

MEDIA_TYPES = MANIFEST_TYPES | INDEX_TYPES
"""Media types of the blobs that may be fetched as a manifest."""

RECHECK_SECONDS = 60.0
"""
Seconds for which a manifest is served from memory without a request to the storage.  The
manifest may have been removed there, by another process too, and the storage records each
use.
"""

MAX_CACHED_BYTES = 4 * MAX_MANIFEST_SIZE
"""The total size of the manifests in memory, in bytes."""


class Manifests:
    """
    Finds stored manifests, and caches recent ones.

    :param storage: holds the manifests.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    """

    def __init__(self, storage: Storage, seconds: Callable[[], float]) -> None:
        self._storage = storage
        self._seconds = seconds
        self._seen: LRUCache[Digest, float] = LRUCache(MAX_CACHED_BYTES // 4096)
        self.counts = LookupCounts()
        self._kept: LRUCache[Digest, Manifest] = LRUCache(
            MAX_CACHED_BYTES, getsizeof=lambda manifest: manifest.size
        )

    async def get(self, name: ImageName, digest: Digest) -> Manifest:
        """
        Return the manifest with a digest.

        :param name: the name in the request, for the error message; it may be that of any
            image.
        :raises ManifestUnknown: there is no such manifest.
        :raises StorageError: the storage failed.
        """
        kept, seen = self._kept.get(digest), self._seen.get(digest)
        if kept is not None and seen is not None and self._seconds() < seen + RECHECK_SECONDS:
            self.counts.memory += 1
            return kept
        try:
            info = await self._storage.stat(digest)
            # A layer is no manifest, even if it is requested as one.
            if info.media_type not in MEDIA_TYPES:
                raise ManifestUnknown(name=name.repository, digest=digest)
            body = await self._storage.read(digest)
        except BlobUnknown:
            self._kept.pop(digest, None)
            self.counts.misses += 1
            raise ManifestUnknown(name=name.repository, digest=digest) from None
        self.counts.storage += 1
        manifest = Manifest(media_type=info.media_type, digest=digest, body=body)
        self.keep(manifest)
        self._seen[digest] = self._seconds()
        return manifest

    def keep(self, manifest: Manifest) -> None:
        """Cache a manifest that is stored and likely to be requested."""
        if manifest.size <= MAX_MANIFEST_SIZE:
            if manifest.digest not in self._kept:
                self._kept[manifest.digest] = manifest
            # The caller has just checked that all blobs of the manifest are stored.
            self._seen[manifest.digest] = self._seconds()

    def invalidate_checks(self) -> None:
        """Clear the cache after a blob turned out missing: its manifest may be missing as well."""
        self._kept.clear()
