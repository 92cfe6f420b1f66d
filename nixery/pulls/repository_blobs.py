"""
Decide which blobs belong to the images of a name.

A digest is no secret: it appears in manifests, logs and pages, and layers are shared.  A client
that may pull only some packages, or whose token is for some repositories, gets the blobs of their
images, and no other blobs from the same storage.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import evolve
from cachetools import LRUCache

from nixery.builds.image_cache import ImageCache
from nixery.errors import UnexpectedOutput
from nixery.image.manifests import Image, parse_manifest
from nixery.image.names import Digest, ImageName
from nixery.pulls.tag_records import MEMBERS, SERVED, member_record_key, tag_record_prefix
from nixery.runtime.single_flight import SingleFlight
from nixery.storage.errors import BlobUnknown
from nixery.storage.interface import Storage

__all__ = ["RepositoryBlobs"]

MAX_CACHED_DIGESTS = 200_000
"""The number of digests of all names together that are kept in memory."""


class RepositoryBlobs:
    """
    Tells which blobs belong to a name.

    :param storage: has the records of the images that were served for each name.
    :param image_cache: the cache of images that were made.
    :param attached_digests: returns the digests of what refers to a manifest of a name.
    """

    def __init__(
        self,
        storage: Storage,
        image_cache: ImageCache,
        attached_digests: Callable[[ImageName, Digest], Awaitable[frozenset[Digest]]] | None = None,
    ) -> None:
        self._storage = storage
        self._image_cache = image_cache
        self._attached_digests = attached_digests
        # Only positive results are cached: a blob that does not belong to a name now may be
        # served for it the next moment, also by another instance.
        self._digests: LRUCache[ImageName, set[Digest]] = LRUCache(
            MAX_CACHED_DIGESTS, getsizeof=_weight
        )
        self._lookups: SingleFlight[tuple[ImageName, Digest], bool] = SingleFlight()

    def record_pull(self, name: ImageName, image: Image) -> None:
        """Add the blobs of an image served for a name; older blobs may still be downloaded."""
        digests = self._digests.get(name)
        if digests is None:
            self._store_digests(name, set(image.digests))
        elif not image.digests <= digests:
            self._store_digests(name, digests | image.digests)

    async def contains(self, name: ImageName, digest: Digest) -> bool:
        """
        Tell whether a blob or a manifest belongs to an image of a name.

        :raises StorageError: the storage failed.
        """
        if digest in self._digests.get(name, ()):
            return True
        return await self._lookups.run((name, digest), lambda: self._search(name, digest))

    async def _search(self, name: ImageName, digest: Digest) -> bool:
        if await self._search_own(name, digest):
            return True
        # What the name requested while the registry was configured otherwise, which clients still
        # pull by digest: the image of one system, or an index.
        others = [name.for_system(each) for each in name.platforms]
        for other in others or [evolve(name, platforms=(name.system,))]:
            if digest in self._digests.get(other, ()) or await self._search_own(other, digest):
                return True
        return False

    async def _search_own(self, name: ImageName, digest: Digest) -> bool:
        if await self._storage.get_record(MEMBERS, member_record_key(name, digest)) is not None:
            return await self._add_manifest(name, digest)
        return (
            await self._search_current(name, digest)
            or await self._search_all(name, digest)
            or await self._search_attached(name, digest)
        )

    async def _search_current(self, name: ImageName, digest: Digest) -> bool:
        """Look through the images that the tags of a name mean now."""
        checked_keys: set[str] = set()
        for tag_key in await self._storage.list_records(SERVED, tag_record_prefix(name)):
            record = await self._storage.get_record(SERVED, tag_key)
            key = "" if record is None else record.decode("ascii", "replace")
            if key in checked_keys or record is None:
                continue
            checked_keys.add(key)
            image = await self._image_cache.get(key, record_use=False)
            if image is not None and digest in image.digests:
                self.record_pull(name, image)
                return True
        return False

    async def _search_all(self, name: ImageName, digest: Digest) -> bool:
        """Look through all manifests that were served for a name: a tag may have moved on."""
        prefix = tag_record_prefix(name)
        for key in await self._storage.list_records(MEMBERS, prefix):
            manifest = Digest(key.removeprefix(prefix))
            if manifest not in self._digests.get(name, ()):
                await self._add_manifest(name, manifest)
                if digest in self._digests.get(name, ()):
                    return True
        return False

    async def _search_attached(self, name: ImageName, digest: Digest) -> bool:
        """Look through what refers to the manifests that were served for a name."""
        if self._attached_digests is None:
            return False
        prefix = tag_record_prefix(name)
        for key in await self._storage.list_records(MEMBERS, prefix):
            attached = await self._attached_digests(name, Digest(key.removeprefix(prefix)))
            if digest in attached:
                self._store_digests(name, self._digests.get(name, set()) | attached)
                return True
        return False

    async def _add_manifest(self, name: ImageName, digest: Digest) -> bool:
        """Add the blobs of a manifest that was served for a name; :return: false if it is gone."""
        try:
            blobs = parse_manifest(await self._storage.read(digest, record_use=False))
        except (BlobUnknown, UnexpectedOutput):
            return False
        known = self._digests.get(name, set())
        self._store_digests(name, known | {digest} | {blob.digest for blob in blobs})
        return True

    def _store_digests(self, name: ImageName, digests: set[Digest]) -> None:
        if len(digests) >= MAX_CACHED_DIGESTS:
            digests = set()
        # Always a new set: the cache would not notice the growth of a set that it holds.
        self._digests[name] = digests


def _weight(digests: set[Digest]) -> int:
    return len(digests) + 1
