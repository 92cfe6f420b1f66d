"""
What has been made before: layers by layer key, images by image key, failures.

Layer and image records live in storage, where other instances and later runs
find them; what lives in memory is bounded.  A record is a promise that its blobs
are stored.  Disks are cleaned by hand and buckets by lifecycle rules, so the
promise is checked before it is relied on, and a broken one is withdrawn: what it
named is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping

from attrs import define, field, frozen
from cachetools import LRUCache, TTLCache
from twisted.logger import Logger

from nixery.errors import BlobUnknown, NixeryError, RememberedFailure, StorageError
from nixery.interfaces import Storage
from nixery.keys import canonical_json
from nixery.names import Digest, parse_digest
from nixery.oci import Image, Manifest

__all__ = ["FailureCache", "ImageCache", "LayerCache", "LayerRecord"]

LAYERS = "layer"
"""The kind of the records of layers."""

IMAGES = "image"
"""The kind of the records of images."""


@frozen(kw_only=True)
class LayerRecord:
    """
    A layer that is stored.

    :param digest: of its compressed bytes, the blob.
    :param size: of its compressed bytes.
    :param diff_id: the digest of its uncompressed bytes.
    :param uncompressed_size: of its uncompressed bytes.
    """

    digest: Digest
    size: int
    diff_id: Digest
    uncompressed_size: int

    def encode(self) -> bytes:
        """As it is stored: canonical JSON."""
        return canonical_json(
            {
                "digest": self.digest,
                "size": self.size,
                "diff_id": self.diff_id,
                "uncompressed_size": self.uncompressed_size,
            }
        )

    @classmethod
    def decode(cls, text: bytes) -> LayerRecord:
        """:raises ValueError: it is no such record."""
        try:
            value = json.loads(text)
            return cls(
                digest=parse_digest(value["digest"]),
                size=int(value["size"]),
                diff_id=parse_digest(value["diff_id"]),
                uncompressed_size=int(value["uncompressed_size"]),
            )
        except (KeyError, TypeError, NixeryError) as error:
            raise ValueError(f"no layer record: {error}") from error


@define(kw_only=True, eq=False)
class LayerCache:
    """
    The layers that are stored, by layer key.

    :param storage: keeps the layers, and a record for each.
    :param limit: how many records are kept in memory as well.
    """

    storage: Storage
    limit: int = 65536
    _recent: MutableMapping[str, LayerRecord] = field(init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._recent = LRUCache(self.limit)

    async def get(self, key: str) -> LayerRecord | None:
        """
        The layer, whose blob is there; ``None`` when it has to be made.

        :raises StorageError: the storage failed.
        """
        try:
            record = self._recent.get(key) or await self._load(key)
            if record is None:
                return None
            # Each time: a layer that turns out to be missing is packed while its
            # store paths are at hand, and not when somebody pulls.
            await self.storage.stat(record.digest)
        except (ValueError, BlobUnknown) as error:
            self._log.warn(
                "the record of layer {key} is of no use and is withdrawn: {error}",
                key=key,
                error=error,
            )
            self._recent.pop(key, None)
            await self.storage.delete_record(LAYERS, key)
            return None
        self._recent[key] = record
        return record

    async def add(self, key: str, record: LayerRecord) -> LayerRecord:
        """
        Publish a layer whose blob is stored.

        :return: the layer to name in a manifest: the one that was published first
            under this key, because other manifests name it already.
        :raises StorageError: the storage failed.
        """
        text = await self.storage.add_record(LAYERS, key, record.encode())
        try:
            first = LayerRecord.decode(text)
        except ValueError:
            await self.storage.set_record(LAYERS, key, record.encode())
            first = record
        self._recent[key] = first
        return first

    async def _load(self, key: str) -> LayerRecord | None:
        text = await self.storage.get_record(LAYERS, key)
        return None if text is None else LayerRecord.decode(text)


@define(kw_only=True, eq=False)
class _Known:
    """An image in memory, and when all of its blobs were last seen."""

    image: Image
    checked: float

    @property
    def size(self) -> int:
        """About how much memory it takes, in bytes."""
        # Bodies, and a digest of some 120 bytes with its place in a set for each
        # blob that they name.
        return sum(manifest.size for manifest in self.image.manifests) + 200 * len(
            self.image.digests
        )


@define(kw_only=True, eq=False)
class ImageCache:
    """
    The images that have been made, by image key.

    :param storage: holds their manifests, and a record for each image key.
    :param seconds: tells the time, as a reactor's ``seconds`` does.
    :param ttl: how long an image is kept in memory, in seconds.
    :param limit: how much memory images may take, in bytes.
    :param recheck: for how many seconds an image's blobs are taken to be there
        once they were seen.  Looking for 95 blobs costs some milliseconds of a
        thread, a warm answer fractions of one: done each time it would be nearly
        all of the work, done once in ten seconds it is none.  What vanishes in
        between is noticed by the pull itself, see :meth:`distrust`.
    """

    storage: Storage
    seconds: Callable[[], float]
    ttl: float = 6 * 3600.0
    limit: int = 64 * 2**20
    recheck: float = 10.0
    _recent: MutableMapping[str, _Known] = field(init=False)
    _trusted_since: float = field(default=float("-inf"), init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._recent = TTLCache(
            self.limit, self.ttl, timer=self.seconds, getsizeof=lambda known: known.size
        )

    async def get(self, key: str) -> Image | None:
        """
        The image, all of whose blobs are there; ``None`` when it has to be made.

        :raises StorageError: the storage failed.
        """
        known = self._recent.get(key)
        now = self.seconds()
        if known is not None and self._trusted_since <= known.checked > now - self.recheck:
            return known.image
        image = await self._load(key) if known is None else known.image
        if image is None:
            return None
        missing = await self.storage.missing(image.digests)
        if missing:
            self._log.warn(
                "image {key} is made again: {count} of its blobs are gone, {example} for one",
                key=key,
                count=len(missing),
                example=min(missing),
            )
            self._recent.pop(key, None)
            await self.storage.delete_record(IMAGES, key)
            return None
        if known is None:
            self._remember(key, image, now)
        else:
            known.checked = now
        return image

    async def add(self, key: str, image: Image) -> None:
        """
        Publish an image whose manifests and blobs are stored.

        :raises StorageError: the storage failed.
        """
        record = canonical_json(
            {
                "manifests": [
                    {"digest": manifest.digest, "media_type": manifest.media_type}
                    for manifest in image.manifests
                ]
            }
        )
        await self.storage.set_record(IMAGES, key, record)
        self._remember(key, image, self.seconds())

    def distrust(self) -> None:
        """A blob was asked for that is gone: look for all of them before the next answer."""
        self._trusted_since = self.seconds()

    async def _load(self, key: str) -> Image | None:
        text = await self.storage.get_record(IMAGES, key)
        if text is None:
            return None
        try:
            manifests = tuple(
                [
                    Manifest(
                        media_type=each["media_type"],
                        digest=parse_digest(each["digest"]),
                        body=await self.storage.read(parse_digest(each["digest"])),
                    )
                    for each in json.loads(text)["manifests"]
                ]
            )
            return Image(manifests=manifests)
        except StorageError:
            raise
        except (KeyError, TypeError, ValueError, NixeryError) as error:
            self._log.warn("the record of image {key} is of no use: {error}", key=key, error=error)
            await self.storage.delete_record(IMAGES, key)
            return None

    def _remember(self, key: str, image: Image, checked: float) -> None:
        known = _Known(image=image, checked=checked)
        if known.size <= self.limit:
            self._recent[key] = known


@define(kw_only=True, eq=False)
class FailureCache:
    """
    Failures of a short while ago.

    Docker asks HEAD, then GET, and Kubernetes asks for ever: what has just failed
    is not tried again at once.

    :param seconds: tells the time, as a reactor's ``seconds`` does.
    :param ttl: how long a failure is remembered, in seconds.
    :param limit: how many are kept.
    """

    seconds: Callable[[], float]
    ttl: float
    limit: int = 1024
    _failures: MutableMapping[str, tuple[float, NixeryError]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._failures = TTLCache(self.limit, self.ttl, timer=self.seconds)

    def check(self, key: str) -> None:
        """:raises RememberedFailure: it failed a short while ago."""
        found = self._failures.get(key)
        if found is not None:
            failed, error = found
            raise RememberedFailure(original=error, retry_after=failed + self.ttl - self.seconds())

    def add(self, key: str, error: NixeryError) -> None:
        """Remember that ``key`` failed."""
        self._failures[key] = self.seconds(), error
