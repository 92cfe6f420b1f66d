"""
Compares stored images, with what a client of partial pulls fetches.

That is computed from the tables of contents of chunked layers, which are read from storage.  The
tables of large images take some megabytes and a second of processor time, so one pair of images is
read at a time, and the results are kept: the layers of an image never change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import define, evolve, field, frozen
from cachetools import LRUCache
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from nixery.image.manifests import Manifest
from nixery.image.names import Digest
from nixery.inspection.comparison import Comparison, compare_images
from nixery.inspection.page_data import PageData
from nixery.layers.contents_table import TablePlaces, find_tables, read_files
from nixery.layers.partial_pull import PartialPull, PullCounter
from nixery.runtime.workers import Workers
from nixery.storage.errors import BlobUnknown
from nixery.storage.interface import ByteRange, Storage
from nixery.storage.rules import MAX_SMALL_BYTES

__all__ = ["ImageComparer"]

MAX_TABLES_BYTES = 256 * 2**20
"""
The most that the tables of contents of two images may have uncompressed, in bytes: some million
files, which take five seconds.  Nothing is said of partial pulls of larger images.
"""

_MAX_CACHED = 1000
"""Number of pairs of images whose comparison is kept."""


class _Catalog(Protocol):
    """Supplies what is known of images."""

    async def page_data(self, manifest: Manifest) -> PageData:
        """Return all data for the page of an image."""


@frozen(kw_only=True)
class _Layer:
    """
    A layer of a manifest.

    :param tables: ``None`` if the layer is not chunked.
    """

    digest: Digest
    size: int
    tables: TablePlaces | None


@define(kw_only=True, eq=False)
class ImageComparer:
    """
    Compares two images.

    :param catalog: knows the packages of images.
    :param storage: has the layers.
    :param cpu: the pool in which images are compared.
    """

    catalog: _Catalog
    storage: Storage
    cpu: Workers
    _lock: DeferredLock = field(factory=DeferredLock, init=False)
    _partial_pulls: LRUCache[tuple[Digest, Digest], PartialPull] = field(
        factory=lambda: LRUCache(_MAX_CACHED), init=False
    )
    _log = Logger()

    async def compare(self, old: Manifest, new: Manifest) -> Comparison:
        """
        Compare two images.

        :param old: the image that a client has.
        :param new: the image that it pulls.
        :raises StorageError: the storage failed.
        :raises NixeryError: an image is damaged.
        """
        old_data = await self.catalog.page_data(old)
        new_data = await self.catalog.page_data(new)
        comparison = await self.cpu.run(compare_images, old_data.report, new_data.report)
        try:
            held, pulled = _layers(old), _layers(new)
            partial = await self._partial_pull((old.digest, new.digest), held, pulled)
        except (BlobUnknown, ValueError) as error:
            self._log.warn(
                "partial pulls of {new} beside {old} are not known: {error}",
                new=new.digest,
                old=old.digest,
                error=error,
            )
            return comparison
        has = {layer.digest for layer in held}
        return evolve(
            comparison,
            partial=partial,
            chunked=sum(layer.tables is not None for layer in pulled if layer.digest not in has),
            held_chunked=any(layer.tables is not None for layer in held),
        )

    async def _partial_pull(
        self, key: tuple[Digest, Digest], held: Sequence[_Layer], pulled: Sequence[_Layer]
    ) -> PartialPull:
        """
        :raises BlobUnknown: a layer was removed.
        :raises ValueError: a table is damaged, or too large.
        """
        has = {layer.digest for layer in held}
        new = [layer for layer in pulled if layer.digest not in has]
        async with self._lock:
            partial = self._partial_pulls.get(key)
            if partial is None:
                partial = self._partial_pulls[key] = await self._count(held, new)
        return partial

    async def _count(self, held: Sequence[_Layer], new: Sequence[_Layer]) -> PartialPull:
        counter = PullCounter()
        # Nothing of the tables is needed if no file can be taken from a layer or fetched.
        if all(layer.tables is None for layer in new):
            held = ()
        tables = [layer.tables for layer in (*held, *new) if layer.tables is not None]
        if sum(each.uncompressed_size for each in tables) > MAX_TABLES_BYTES:
            raise ValueError("they have too many files")
        for layer in held:
            if layer.tables is not None:
                table = await self._read(layer.digest, layer.tables)
                # The table is parsed on the thread, while it is iterated over.
                await self.cpu.run(counter.hold, read_files(table, layer.tables))
        for layer in new:
            if layer.tables is None:
                counter.pull_whole(layer.size)
            else:
                table = await self._read(layer.digest, layer.tables)
                files = read_files(table, layer.tables)
                await self.cpu.run(counter.pull, files, layer.tables.size)
        return counter.result()

    async def _read(self, digest: Digest, tables: TablePlaces) -> bytes:
        """Read the table of contents of a layer."""
        if tables.stop - tables.start > MAX_SMALL_BYTES:
            raise ValueError("a layer has too many files")
        part = ByteRange(start=tables.start, stop=tables.stop)
        return await self.storage.read_part(digest, part)


def _layers(manifest: Manifest) -> list[_Layer]:
    """:raises ValueError: annotations are damaged."""
    _, *blobs = manifest.blobs()
    values: Sequence[Mapping[str, Mapping[str, str]]] = json.loads(manifest.body)["layers"]
    return [
        _Layer(
            digest=blob.digest,
            size=blob.size,
            tables=find_tables(value.get("annotations", {}), blob.size),
        )
        for blob, value in zip(blobs, values, strict=True)
    ]
