"""
Caches of images by image key, and of failures.

Image records are kept in storage, where other instances and later runs find them; the cache
in memory is bounded.  A record claims that its blobs are stored.  Disks are cleaned by hand
and buckets by lifecycle rules, so the claim is checked before it is used; a record whose
blobs are missing is deleted, and its image is made again.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from types import MappingProxyType

from attrs import define, field
from cachetools import TTLCache
from twisted.logger import Logger

from nixery.artifacts.document import Document
from nixery.builds.documents import plan_documents
from nixery.builds.errors import CachedFailure
from nixery.builds.image_check import CONTENT_RULES
from nixery.errors import NixeryError, StorageError
from nixery.image.canonical_json import Json, canonical_json
from nixery.image.image_index import ImageIndex
from nixery.image.manifests import OCI_CONFIG, Image, Manifest, digest_of
from nixery.image.names import Digest, parse_digest
from nixery.observability.context import LookupCounts
from nixery.storage.interface import Storage

__all__ = ["IMAGES", "RECHECK_INTERVAL_SECONDS", "FailureCache", "ImageCache"]

IMAGES = "image"
"""The kind of the records of images."""

TTL_SECONDS = 6 * 3600.0
"""Images that are not asked for again within a working day leave the memory to others."""

MAX_CACHED_BYTES = 64 * 2**20
"""Room for the manifests of some thousand images."""

RECHECK_INTERVAL_SECONDS = 10.0
"""
The seconds for which an image's blobs are assumed to exist after they were seen.

Looking for 95 blobs costs some milliseconds of a thread, a cached response fractions of one: done
each time it would be nearly all of the work, done once in ten seconds it is negligible.
"""


@define(kw_only=True, eq=False)
class _CachedImage:
    """An image in memory, and the time when all of its blobs were last seen."""

    image: Image
    checked_at: float

    @property
    def size(self) -> int:
        """The approximate memory that it takes, in bytes."""
        # The manifests' bodies, and for each blob that they name a digest of some 120 bytes
        # with its entry in a set.
        return sum(manifest.size for manifest in self.image.all_manifests) + 200 * len(
            self.image.digests
        )


@define(kw_only=True, eq=False)
class ImageCache:
    """
    The images that have been made, by image key.

    :param storage: holds their manifests, and a record for each image key.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param ttl: the time that an image is kept in memory, in seconds.
    :param max_bytes: the memory that images may take, in bytes.
    :param is_sound: tells of an image whose record names other content rules than
        :data:`nixery.builds.image_check.CONTENT_RULES` whether it is as it would be made now; by
        default all are.
    :param recheck_interval: the seconds for which an image's blobs are assumed to exist
        after they were seen.  Blobs that vanish in between are noticed by the pull itself, see
        :meth:`invalidate_checks`.
    """

    storage: Storage
    seconds: Callable[[], float]
    ttl: float = TTL_SECONDS
    max_bytes: int = MAX_CACHED_BYTES
    is_sound: Callable[[Image], Awaitable[bool]] | None = None
    recheck_interval: float = RECHECK_INTERVAL_SECONDS
    counts: LookupCounts = field(factory=LookupCounts, init=False)
    _recent: MutableMapping[str, _CachedImage] = field(init=False)
    _checks_valid_since: float = field(default=float("-inf"), init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._recent = TTLCache(
            self.max_bytes, self.ttl, timer=self.seconds, getsizeof=lambda known: known.size
        )

    async def get(self, key: str, *, record_use: bool = True) -> Image | None:
        """
        Return the image if all of its blobs exist; ``None`` if it has to be made.

        :param record_use: false if no client pulls the image: it is kept for no longer then.
        :raises StorageError: the storage failed.
        """
        cached = self._recent.get(key)
        now = self.seconds()
        if (
            cached is not None
            and self._checks_valid_since <= cached.checked_at > now - self.recheck_interval
        ):
            self.counts.memory += 1
            return cached.image
        image, rules = (
            (cached.image, CONTENT_RULES)
            if cached is not None
            else await self._load(key, record_use=record_use)
        )
        if image is None:
            self.counts.misses += 1
            return None
        missing = await self.storage.missing(image.digests, record_use=record_use)
        if missing:
            self._log.warn(
                "image {key} is built again: {count} of its blobs are missing, as {example}",
                key=key,
                count=len(missing),
                example=min(missing),
            )
            self._recent.pop(key, None)
            await self.storage.delete_record(IMAGES, key)
            self.counts.misses += 1
            return None
        if rules != CONTENT_RULES:
            if not await self._is_sound(image):
                await self.storage.delete_record(IMAGES, key)
                self.counts.misses += 1
                return None
            await self.storage.set_record(IMAGES, key, _encode(image))
        # The next pull has to look again, if that has not recorded the use.
        checked_at = now if record_use else float("-inf")
        if cached is None:
            self.counts.storage += 1
            self._keep_in_memory(key, image, checked_at)
        else:
            self.counts.memory += 1
            cached.checked_at = checked_at
        return image

    async def add(
        self,
        key: str,
        image: Image,
        documents: Mapping[Digest, Sequence[Document]] = MappingProxyType({}),
    ) -> None:
        """
        Publish an image whose layers are stored: store its config and its manifests,
        and a record of them.

        :param documents: are attached to its manifests, by their digests, unless such are
            attached already.
        :raises BlobsMissing: layers have been removed again.
        :raises StorageError: the storage failed.
        """
        blobs = [(manifest.body, manifest.media_type) for manifest in image.manifests]
        needed_blobs = image.digests - {manifest.digest for manifest in image.manifests}
        if image.config is not None:
            blobs.insert(0, (image.config, OCI_CONFIG))
            needed_blobs -= {digest_of(image.config)}
        attached = await plan_documents(self.storage, image, documents)
        await self.storage.publish(
            [*blobs, *attached.blobs],
            needed_blobs | attached.needs,
            (IMAGES, key, _encode(image)),
            attached.records,
        )
        self._keep_in_memory(key, image, self.seconds())

    async def _is_sound(self, image: Image) -> bool:
        if self.is_sound is None:
            return True
        images = image.images.values() if isinstance(image, ImageIndex) else (image,)
        for each in images:
            if not await self.is_sound(each):
                return False
        return True

    def invalidate_checks(self) -> None:
        """Check all blobs again before the next result, because a requested one is missing."""
        self._checks_valid_since = self.seconds()

    async def _load(self, key: str, *, record_use: bool) -> tuple[Image | None, int]:
        """Read an image, and the version of the content rules that it was made by."""
        text = await self.storage.get_record(IMAGES, key)
        if text is None:
            return None, CONTENT_RULES
        try:
            record = json.loads(text)
            rules = int(record.get("rules", 0))
            manifests = await self._read(record["manifests"], record_use=record_use)
            if "platforms" not in record:
                return Image(manifests=manifests), rules
            images = {
                str(each["system"]): Image(
                    manifests=await self._read(each["manifests"], record_use=record_use)
                )
                for each in record["platforms"]
            }
            index = ImageIndex(
                manifests=manifests,
                images=images,
                system=str(record["system"]),
                skipped={str(each): str(reason) for each, reason in record["skipped"].items()},
            )
            return index, rules
        except StorageError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, NixeryError) as error:
            self._log.warn("the record of image {key} is unusable: {error}", key=key, error=error)
            await self.storage.delete_record(IMAGES, key)
            return None, CONTENT_RULES

    async def _read(
        self, described: Sequence[Mapping[str, str]], *, record_use: bool
    ) -> tuple[Manifest, ...]:
        """Read the manifests that a record names."""
        return tuple(
            [
                Manifest(
                    media_type=each["media_type"],
                    digest=parse_digest(each["digest"]),
                    body=await self.storage.read(
                        parse_digest(each["digest"]), record_use=record_use
                    ),
                )
                for each in described
            ]
        )

    def _keep_in_memory(self, key: str, image: Image, checked_at: float) -> None:
        cached = _CachedImage(image=image, checked_at=checked_at)
        if cached.size <= self.max_bytes:
            self._recent[key] = cached


def _encode(image: Image) -> bytes:
    """Return the record of an image that is as it would be made now."""
    record: dict[str, Json] = {"manifests": _describe(image.manifests), "rules": CONTENT_RULES}
    if isinstance(image, ImageIndex):
        record |= {
            "platforms": [
                {"system": system, "manifests": _describe(each.manifests)}
                for system, each in image.images.items()
            ],
            "skipped": {**image.skipped},
            "system": image.system,
        }
    return canonical_json(record)


def _describe(manifests: Sequence[Manifest]) -> Json:
    return [{"digest": each.digest, "media_type": each.media_type} for each in manifests]


@define(kw_only=True, eq=False)
class FailureCache:
    """
    A cache of recent failures.

    Docker sends HEAD, then GET, and Kubernetes retries for ever: a build that has just
    failed is not tried again at once.

    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param ttl: the time that a failure is cached, in seconds.
    :param max_entries: the number of failures that are kept.
    """

    seconds: Callable[[], float]
    ttl: float
    max_entries: int = 1024
    _failures: MutableMapping[str, tuple[float, NixeryError]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._failures = TTLCache(self.max_entries, self.ttl, timer=self.seconds)

    def check(self, key: str) -> None:
        """
        Raise the cached failure of ``key``, if there is one.

        :raises CachedFailure: it failed a short while ago.
        """
        found = self._failures.get(key)
        if found is not None:
            failed_at, error = found
            raise CachedFailure(original=error, retry_after=failed_at + self.ttl - self.seconds())

    def add(self, key: str, error: NixeryError) -> None:
        """Cache the failure of ``key``."""
        self._failures[key] = self.seconds(), error
