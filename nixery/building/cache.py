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
from collections.abc import Callable, Collection, Mapping, MutableMapping

from attrs import define, field, frozen
from cachetools import LRUCache, TTLCache
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from nixery.errors import NixeryError, RememberedFailure, StorageError
from nixery.interfaces import BlobWriter, Commit, Storage
from nixery.keys import canonical_json
from nixery.names import Digest, parse_digest
from nixery.oci import OCI_CONFIG, Image, Manifest, digest_of
from nixery.operations.tally import LookupCounts

__all__ = ["FailureCache", "ImageCache", "LayerCache", "LayerRecord"]

LAYERS = "layer"
"""The kind of the records of layers."""

TOGETHER = 32
"""
How many layers are looked up together.  An image has up to a hundred: the first of them
that have to be packed keep the packing threads busy while the others are looked up.
"""

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
        except (KeyError, TypeError, OverflowError, RecursionError, NixeryError) as error:
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
    _waiting: list[tuple[str, Deferred[LayerRecord | None]]] = field(factory=list, init=False)
    _looking: bool = field(default=False, init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._recent = LRUCache(self.limit)

    async def get(self, key: str) -> LayerRecord | None:
        """
        The layer, whose blob is there; ``None`` when it has to be made.

        Layers that are asked for while others are being looked up are then looked up
        together.

        :raises StorageError: the storage failed.
        """
        waiter: Deferred[LayerRecord | None] = Deferred()
        self._waiting.append((key, waiter))
        if not self._looking:
            # Nobody's own, so that a waiter who leaves takes nothing from the others.
            Deferred.fromCoroutine(self._look())
        return await waiter

    async def add(
        self, layers: Mapping[str, tuple[LayerRecord, BlobWriter]], media_type: str
    ) -> list[LayerRecord]:
        """
        Publish layers.

        :param layers: by layer key; each with what has its blob, which ends.
        :return: the layers to name in a manifest, in order: those that were published first
            under these keys, because other manifests name them already.
        :raises StorageError: the storage failed.
        """
        texts = await self.storage.commit_all(
            [
                Commit(
                    writer=writer,
                    digest=record.digest,
                    size=record.size,
                    media_type=media_type,
                    record=(LAYERS, key, record.encode()),
                )
                for key, (record, writer) in layers.items()
            ]
        )
        firsts = []
        for (key, (record, _)), text in zip(layers.items(), texts, strict=True):
            try:
                first = LayerRecord.decode(text)
            except ValueError:
                await self.storage.set_record(LAYERS, key, record.encode())
                first = record
            self._recent[key] = first
            firsts.append(first)
        return firsts

    async def _look(self) -> None:
        """Look up what is asked for, until nothing is."""
        self._looking = True
        while self._waiting:
            asked, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
            found: dict[str, LayerRecord] | Failure
            try:
                found = await self._find({key for key, _ in asked})
            except Exception:  # noqa: BLE001  # they are told
                found = Failure()
            for key, waiter in asked:
                if not waiter.called:
                    waiter.callback(found if isinstance(found, Failure) else found.get(key))
        self._looking = False

    async def _find(self, wanted: Collection[str]) -> dict[str, LayerRecord]:
        """Those of the layers whose blobs are there."""
        found = {key: self._recent[key] for key in wanted if key in self._recent}
        unknown = sorted(set(wanted) - found.keys())
        if unknown:
            for key, text in (await self.storage.get_records(LAYERS, unknown)).items():
                try:
                    found[key] = LayerRecord.decode(text)
                except ValueError as error:
                    await self.withdraw(key, str(error))
        if not found:
            return found
        # Each time: a layer that turns out to be missing is packed while its store paths
        # are at hand, and not when somebody pulls.
        missing = await self.storage.missing({record.digest for record in found.values()})
        for key, record in list(found.items()):
            if record.digest in missing:
                del found[key]
                await self.withdraw(key, f"there is no blob {record.digest}")
        self._recent.update(found)
        return found

    async def withdraw(self, key: str, reason: str) -> None:
        """
        Forget a layer, which is made again when it is needed next.

        :raises StorageError: the storage failed.
        """
        self._log.warn(
            "the record of layer {key} is of no use and is withdrawn: {reason}",
            key=key,
            reason=reason,
        )
        self._recent.pop(key, None)
        await self.storage.delete_record(LAYERS, key)


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
    counts: LookupCounts = field(factory=LookupCounts, init=False)
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
            self.counts.memory += 1
            return known.image
        image = await self._load(key) if known is None else known.image
        if image is None:
            self.counts.missing += 1
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
            self.counts.missing += 1
            return None
        if known is None:
            self.counts.storage += 1
            self._remember(key, image, now)
        else:
            self.counts.memory += 1
            known.checked = now
        return image

    async def add(self, key: str, image: Image) -> None:
        """
        Publish an image whose layers are stored: store its config and its manifests,
        and a record of them.

        :raises BlobsVanished: layers are gone again.
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
        blobs = [(manifest.body, manifest.media_type) for manifest in image.manifests]
        needs = image.digests - {manifest.digest for manifest in image.manifests}
        if image.config is not None:
            blobs.insert(0, (image.config, OCI_CONFIG))
            needs -= {digest_of(image.config)}
        await self.storage.publish(blobs, needs, (IMAGES, key, record))
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
