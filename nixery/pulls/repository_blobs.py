"""
Decide which blobs belong to the images of a name.

A digest is no secret: it appears in manifests, logs and pages, and layers are shared.  A client
that may pull only some packages gets the blobs of the images of these packages, and no other
blobs from the same storage.
"""

from __future__ import annotations

from cachetools import LRUCache

from nixery.builds.image_cache import ImageCache
from nixery.image.manifests import Image
from nixery.image.names import Digest, ImageName
from nixery.pulls.images import SERVED, tag_record_prefix
from nixery.runtime.single_flight import SingleFlight
from nixery.storage.interface import Storage

__all__ = ["RepositoryBlobs"]

MAX_CACHED_DIGESTS = 200_000
"""The number of digests of all names together that are kept in memory."""


class RepositoryBlobs:
    """
    Tells which blobs belong to a name.

    :param storage: has the records of the images that were served for each name.
    :param images: the cache of images that were made.
    """

    def __init__(self, storage: Storage, images: ImageCache) -> None:
        self._storage = storage
        self._images = images
        # Only positive results are cached: a blob that does not belong to a name now may be
        # served for it the next moment, also by another instance.
        self._found: LRUCache[ImageName, set[Digest]] = LRUCache(
            MAX_CACHED_DIGESTS, getsizeof=_weight
        )
        self._looking: SingleFlight[tuple[ImageName, Digest], bool] = SingleFlight()

    def record_pull(self, name: ImageName, image: Image) -> None:
        """Add the blobs of an image served for a name; older blobs may still be downloaded."""
        found = self._found.get(name)
        if found is None:
            self._keep(name, set(image.digests))
        elif not image.digests <= found:
            self._keep(name, found | image.digests)

    async def contains(self, name: ImageName, digest: Digest) -> bool:
        """
        Tell whether a blob or a manifest belongs to an image of a name.

        :raises StorageError: the storage failed.
        """
        if digest in self._found.get(name, ()):
            return True
        return await self._looking.run((name, digest), lambda: self._look(name, digest))

    async def _look(self, name: ImageName, digest: Digest) -> bool:
        seen: set[str] = set()
        for place in await self._storage.list_records(SERVED, tag_record_prefix(name)):
            record = await self._storage.get_record(SERVED, place)
            key = "" if record is None else record.decode("ascii", "replace")
            if key in seen or record is None:
                continue
            seen.add(key)
            image = await self._images.get(key)
            if image is not None and digest in image.digests:
                self.record_pull(name, image)
                return True
        return False

    def _keep(self, name: ImageName, digests: set[Digest]) -> None:
        if len(digests) >= MAX_CACHED_DIGESTS:
            digests = set()
        # Always a new set: the cache would not notice the growth of a set that it holds.
        self._found[name] = digests


def _weight(digests: set[Digest]) -> int:
    return len(digests) + 1
