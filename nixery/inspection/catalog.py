"""
Finds served images and stores the records that describe them.

Looking at an image is no use of it, which would keep it from being removed when it is not pulled
any more. Nothing here builds an image or evaluates anything, and no pull waits for it: records are
written concurrently with the answers, and a failure to write one is only logged. Only images that
this registry served are found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from attrs import define, evolve, field
from cachetools import LRUCache, TTLCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from nixery.artifacts.attachment import Attachment
from nixery.builds.build_record import BuildRecord
from nixery.builds.documents import DOCUMENTS, read_attachments
from nixery.builds.image_cache import ImageCache
from nixery.errors import NixeryError
from nixery.image.image_index import ImageIndex, index_manifest
from nixery.image.manifests import INDEX_TYPES, MANIFEST_TYPES, Image, Manifest
from nixery.image.names import Digest, ImageName, Tag
from nixery.inspection.container_settings import read_container_settings
from nixery.inspection.image_list import (
    EarlierImage,
    ImageEntry,
    decode_entry,
    encode_entry,
    entry_key,
    make_entry,
    with_history,
)
from nixery.inspection.manifest_summary import summarize_manifest
from nixery.inspection.page_data import PageData, make_page_data, summary_page_data
from nixery.inspection.report import make_report
from nixery.inspection.report_file import encode_report
from nixery.pulls.tag_records import MEMBERS, SERVED, member_record_key, tag_record_key
from nixery.runtime.clocks import WallClock
from nixery.runtime.deferreds import TimedOut, gather, with_timeout
from nixery.runtime.single_flight import SingleFlight
from nixery.runtime.workers import Workers
from nixery.storage.errors import BlobUnknown
from nixery.storage.interface import Storage

__all__ = ["LISTED", "MAX_COMPARED_IMAGES", "REPORTS", "ImageCatalog"]

REPORTS = "report"
"""The kind of the records of how images were made, by the digests of their OCI manifests."""

LISTED = "listed"
"""The kind of the records of images by name and tag, for the list of images."""

MAX_COMPARED_IMAGES = 300
"""Maximum number of images that an image is compared with."""

MAX_PENDING_REPORTS = 32
"""
Maximum number of records that wait to be written. More accumulate only when the storage does not
keep up with builds; those images then have no report.
"""

RETRY_PAUSE_SECONDS = 1.0
"""Seconds between the end of a build and the making of its report."""

_KEYS_TTL_SECONDS = 10.0
_LAYER_INDEX_TTL_SECONDS = 60.0
"""Seconds for which a list of names, and the images found to have a layer, are cached."""

_MAX_CACHED_BYTES = 48 * 2**20
"""Maximum memory for cached page data, in bytes."""

_SHUTDOWN_TIMEOUT_SECONDS = 5.0


@define(kw_only=True, eq=False)
class ImageCatalog:
    """
    The catalog of the images that were served.

    :param storage: holds the images and the records of them.
    :param image_cache: the manifests of images that were built.
    :param cpu: the pool in which reports and pictures are made.
    :param clock: measures the age of cached results.
    :param wall_clock: tells the time at which an image was first served.
    """

    storage: Storage
    image_cache: ImageCache
    cpu: Workers
    clock: IReactorTime
    wall_clock: WallClock
    _pending_writes: SingleFlight[str, None] = field(factory=SingleFlight, init=False)
    _page_data_jobs: SingleFlight[Digest, PageData] = field(factory=SingleFlight, init=False)
    _layer_index_jobs: SingleFlight[None, Mapping[Digest, tuple[ImageEntry, ...]]] = field(
        factory=SingleFlight, init=False
    )
    _page_data: LRUCache[Digest, PageData] = field(init=False)
    _keys: TTLCache[None, Sequence[str]] = field(init=False)
    _images_by_layer: TTLCache[None, Mapping[Digest, tuple[ImageEntry, ...]]] = field(init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._page_data = LRUCache(
            _MAX_CACHED_BYTES, getsizeof=lambda page_data: page_data.memory_size
        )
        self._keys = TTLCache(1, _KEYS_TTL_SECONDS, timer=self.clock.seconds)
        self._images_by_layer = TTLCache(1, _LAYER_INDEX_TTL_SECONDS, timer=self.clock.seconds)

    # -- writing records ------------------------------------------------------------------

    def record_build(self, record: BuildRecord) -> None:
        """Record how an image was made; returns at once."""

        async def write() -> None:
            # The clients that waited for the image fetch its layers now, and have priority.
            await deferLater(self.clock, RETRY_PAUSE_SECONDS)
            data = await self.cpu.run(lambda: encode_report(make_report(record)))
            await self.storage.set_record(REPORTS, record.digest, data)
            # An image that is built again may have been cached without a report.
            self._page_data.pop(record.digest, None)

        self._write(f"{REPORTS} {record.digest}", write)

    def record_served(self, name: ImageName, tag: Tag, image: Image) -> None:
        """Record that a name and a tag now mean an image; returns at once."""

        async def write() -> None:
            entry = make_entry(name, tag, image, self.wall_clock.now())
            for former in await self.read_entries([entry.label]):
                entry = with_history(entry, former)
            await self.storage.set_record(LISTED, entry.label, encode_entry(entry))
            self._keys.clear()

        self._write(f"{LISTED} {entry_key(name.repository, tag)}", write)

    async def stop(self) -> None:
        """Write the pending records, if that takes little time."""
        try:
            await with_timeout(
                _SHUTDOWN_TIMEOUT_SECONDS, self.clock, self._pending_writes.settled()
            )
        except TimedOut:
            self._log.warn("{count} notes on images are lost", count=len(self._pending_writes))
        await self._pending_writes.stop()
        await self._page_data_jobs.stop()
        await self._layer_index_jobs.stop()

    def _write(self, label: str, write: Callable[[], Coroutine[Deferred[Any], Any, None]]) -> None:
        if len(self._pending_writes) >= MAX_PENDING_REPORTS:
            self._log.warn("{what} is not recorded: too many records are waiting", what=label)
            return
        self._pending_writes.run(label, write).addErrback(self._log_write_failure, label)

    async def _wait_until_written(self, label: str) -> None:
        """Wait for a record that is being written; a failure is only logged."""
        if label in self._pending_writes:
            write = self._pending_writes.run(label, _unused_write)
            await write.addErrback(lambda why: why if why.check(CancelledError) else None)

    def _log_write_failure(self, failure: Failure, label: str) -> None:
        if failure.check(NixeryError):
            self._log.warn("{what} is not recorded: {error}", what=label, error=failure.value)
        else:
            self._log.failure("{what} is not recorded", failure, what=label)

    # -- finding images -------------------------------------------------------------------

    async def list_keys(self) -> Sequence[str]:
        """
        Return the names of all images that were served, each with its tag, sorted.

        :raises StorageError: the storage failed.
        """
        keys = self._keys.get(None)
        if keys is None:
            keys = self._keys[None] = tuple(await self.storage.list_records(LISTED))
        return keys

    async def read_entries(self, keys: Sequence[str]) -> Sequence[ImageEntry]:
        """
        Return some of the images that were served; unreadable records are left out.

        :param keys: as :meth:`list_keys` returned them.
        :raises StorageError: the storage failed.
        """
        records = await gather(self.storage.get_record(LISTED, name) for name in keys)
        return await self.cpu.run(_decode_all, tuple(records))

    async def earlier_images(self, label: str) -> Sequence[EarlierImage]:
        """
        Return the images that a tag has meant before and that are stored, the latest first.

        :param label: a name with its tag.
        :raises StorageError: the storage failed.
        """
        earlier = [each for entry in await self.read_entries([label]) for each in entry.earlier]
        gone = await self.storage.missing([each.digest for each in earlier], record_use=False)
        return [each for each in earlier if each.digest not in gone]

    async def find(self, name: ImageName, tag: Tag, system: str = "") -> Manifest | None:
        """
        Return the OCI manifest of the image last served as a name and a tag; ``None`` if there was
        none, or it is gone.  Of an index, it is that of the image for clients without indexes, or
        of the first; the image of one platform is also found where only an index of it was served.

        :param system: the Nix system whose image of an index is returned, if that has it.
        :raises StorageError: the storage failed.
        """
        image = await self.find_image(name, tag)
        if isinstance(image, ImageIndex):
            image = (
                image.images.get(system)
                or image.images.get(image.system)
                or next(iter(image.images.values()))
            )
        elif image is None and not name.platforms:
            index = await self.find_index(name, tag)
            image = None if index is None else index.images.get(name.system)
        return None if image is None else image.manifests[0]

    async def find_index(self, name: ImageName, tag: Tag) -> ImageIndex | None:
        """
        Return the index last served of the packages of a name; ``None`` if there was none.

        :param name: the name of an index, or of the image of one platform.
        :raises StorageError: the storage failed.
        """
        platforms = name.platforms or (name.system,)
        image = await self.find_image(evolve(name, platforms=platforms), tag)
        return image if isinstance(image, ImageIndex) else None

    async def find_image(self, name: ImageName, tag: Tag) -> Image | None:
        """
        Return the image or the index last served as a name and a tag; ``None`` if there was none,
        or it is gone.

        :raises StorageError: the storage failed.
        """
        record = await self.storage.get_record(SERVED, tag_record_key(name, tag))
        if record is None:
            return None
        return await self.image_cache.get(record.decode("ascii", "replace"), record_use=False)

    async def find_served(self, name: ImageName, digest: Digest, system: str) -> Manifest | None:
        """
        Return the manifest of an image that was served for a name under any tag; ``None`` if there
        was none, or it is gone.

        :param digest: of a manifest, or of an index.
        :param system: the Nix system whose image of an index is returned.
        :raises StorageError: the storage failed.
        """
        if await self.storage.get_record(MEMBERS, member_record_key(name, digest)) is None:
            return None
        manifest = await self._read_manifest(digest)
        if manifest is not None and manifest.media_type in INDEX_TYPES:
            named = index_manifest(manifest.body, system)
            manifest = None if named is None else await self._read_manifest(named)
        return manifest

    async def _read_manifest(self, digest: Digest) -> Manifest | None:
        """Return a manifest or an index; ``None`` if it is gone, or is neither."""
        try:
            body = await self.storage.read(digest, record_use=False)
            media_type = json.loads(body)["mediaType"]
        except (BlobUnknown, KeyError, TypeError, ValueError):
            return None
        if media_type not in MANIFEST_TYPES | INDEX_TYPES:
            return None
        return Manifest(media_type=media_type, digest=digest, body=body)

    async def page_data(self, manifest: Manifest) -> PageData:
        """
        Return the page data of an image. If the image has just been made, wait for its report.

        :raises StorageError: the storage failed.
        :raises NixeryError: the image itself is damaged.
        """
        await self._wait_until_written(f"{REPORTS} {manifest.digest}")
        page_data = self._page_data.get(manifest.digest)
        if page_data is None:
            page_data = await self._page_data_jobs.run(
                manifest.digest, lambda: self._read_page_data(manifest)
            )
        return page_data

    async def attachments(self, manifest: Manifest) -> tuple[Attachment, ...]:
        """
        Return the documents that are attached to a manifest.

        :raises StorageError: the storage failed.
        """
        return await read_attachments(self.storage, DOCUMENTS, manifest.digest)

    async def read_attachment(self, attachment: Attachment) -> bytes:
        """
        Return a document.

        :raises BlobUnknown: it was removed.
        :raises StorageError: the storage failed.
        """
        return await self.storage.read(attachment.blob.digest, record_use=False)

    async def images_by_layer(self) -> Mapping[Digest, tuple[ImageEntry, ...]]:
        """
        Return the images that have a layer, sorted by their names.  At most
        :data:`MAX_COMPARED_IMAGES` images are examined.

        :raises StorageError: the storage failed.
        """
        images = self._images_by_layer.get(None)
        if images is None:
            images = await self._layer_index_jobs.run(None, self._index_layers)
        return images

    async def _read_page_data(self, manifest: Manifest) -> PageData:
        data = await self.storage.get_record(REPORTS, manifest.digest)
        page_data = None
        if data is not None:
            try:
                page_data = await self.cpu.run(make_page_data, data)
            except ValueError as error:
                self._log.warn(
                    "the report of {digest} is unusable: {error}",
                    digest=manifest.digest,
                    error=error,
                )
        config = await self._config(manifest)
        if page_data is None:
            page_data = summary_page_data(summarize_manifest(manifest, config))
        with suppress(ValueError):
            page_data = evolve(page_data, container=read_container_settings(config))
        # Data larger than the whole cache are made each time.
        if page_data.memory_size <= _MAX_CACHED_BYTES:
            self._page_data[manifest.digest] = page_data
        return page_data

    async def _config(self, manifest: Manifest) -> bytes:
        try:
            return await self.storage.read(manifest.blobs()[0].digest, record_use=False)
        except BlobUnknown:
            return b""

    async def _index_layers(self) -> Mapping[Digest, tuple[ImageEntry, ...]]:
        entries = await self.read_entries((await self.list_keys())[:MAX_COMPARED_IMAGES])
        images = self._images_by_layer[None] = await self.cpu.run(_group_by_layer, entries)
        return images


async def _unused_write() -> None:
    """Never called: a job of the same key is already running."""


def _decode_all(records: Sequence[bytes | None]) -> Sequence[ImageEntry]:
    entries = []
    for record in records:
        try:
            if record is not None:
                entries.append(decode_entry(record))
        except ValueError:
            continue
    return entries


def _group_by_layer(entries: Sequence[ImageEntry]) -> Mapping[Digest, tuple[ImageEntry, ...]]:
    by_layer: dict[Digest, list[ImageEntry]] = {}
    for image in entries:
        for digest in image.layers:
            by_layer.setdefault(digest, []).append(image)
    return {digest: tuple(images) for digest, images in by_layer.items()}
