"""
Store layers: look each one up, or pack it once for all builds that need it.

The bytes of a layer are made on a worker thread and go straight into the
storage's writer; none of them pass through the reactor thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from threading import Event

from attrs import define, field, frozen
from cachetools import LRUCache
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from nixery.builds import cache_keys
from nixery.builds.batching import BatchQueue
from nixery.builds.layer_cache import LayerCache, LayerRecord
from nixery.image.closure import StorePath
from nixery.image.manifests import layer_media_type
from nixery.layers import ustar
from nixery.layers.name_check import check_names
from nixery.layers.rootfs import RootTree
from nixery.layers.tarball import (
    FORMAT,
    STORE,
    Compression,
    PackedLayer,
    pack_store_paths,
    pack_tree,
)
from nixery.observability.context import BuildStats, current_build_stats
from nixery.runtime.single_flight import SingleFlight
from nixery.runtime.workers import Workers
from nixery.storage.errors import UploadLost
from nixery.storage.interface import BlobWriter, Storage

__all__ = ["Packer"]

MAX_CHECKED_PATHS = 65536
"""The number of store paths whose names are known to be usable: some ten MB of memory."""

Pack = Callable[[Callable[[bytes], int], Callable[[], bool]], PackedLayer]
"""A function that packs a layer: takes a function to write with, and one that is true to stop."""


@define(kw_only=True, eq=False)
class Packer:
    """
    Makes layers, each of them once.

    :param storage: stores the layers.
    :param cpu: the thread pool in which they are packed.
    :param max_batches: the number of batches that are made at once: several times as many as the
        pool has threads, because a batch that is being written to disk needs none.
    :param compression: the compression of the layers.
    :param store_directory: the directory of this machine that holds the store paths.
    :param check_free_space: awaited before a layer is packed; raises if the disk is too full.
    """

    storage: Storage
    cpu: Workers
    max_batches: int
    compression: Compression
    store_directory: str = STORE
    check_free_space: Callable[[], Awaitable[None]] | None = None

    _cache: LayerCache = field(init=False)
    _jobs: SingleFlight[str, LayerRecord] = field(factory=SingleFlight, init=False)
    _batches: BatchQueue[_Job, LayerRecord] = field(init=False)
    # The contents of a store path never change, and most images have most of theirs in common.
    _checked_names: MutableMapping[str, bool] = field(init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._cache = LayerCache(storage=self.storage)
        self._checked_names = LRUCache(MAX_CHECKED_PATHS)
        self._batches = BatchQueue(run_batch=self._pack_with_retry, max_running=self.max_batches)

    async def get_layer(self, paths: Sequence[StorePath], size: int) -> LayerRecord:
        """
        Return the layer that holds these store paths, which must be valid if it is not
        stored yet.

        :param size: the sum of their sizes, in bytes.
        :raises MissingPath: a store path has vanished, or cannot be read.
        :raises StorageError: the storage failed; nothing half-written is left.
        """
        names = [path.path for path in paths]

        def pack(write: Callable[[bytes], int], should_stop: Callable[[], bool]) -> PackedLayer:
            return pack_store_paths(
                names,
                write,
                compression=self.compression,
                store=self.store_directory,
                should_stop=should_stop,
            )

        key = self._layer_key(paths)
        return await self._jobs.run(key, lambda: self._get_or_pack(key, pack, size))

    async def discard_layer(self, paths: Sequence[StorePath], reason: str) -> None:
        """
        Discard the cached record of the layer that holds these store paths.

        :raises StorageError: the storage failed.
        """
        await self._cache.discard(self._layer_key(paths), reason)

    def _layer_key(self, paths: Sequence[StorePath]) -> str:
        return cache_keys.layer_key(paths, self.compression.label, FORMAT)

    async def check_names(self, paths: Iterable[StorePath]) -> None:
        """
        Check that layers can hold all files of these store paths, which must be valid.

        :raises ReservedName: a file has a name that a layer cannot have.
        :raises MissingPath: a store path has vanished, or cannot be read.
        """
        unchecked = [path.path for path in paths if path.path not in self._checked_names]
        if unchecked:
            await self.cpu.run(check_names, unchecked, store=self.store_directory)
            self._checked_names.update(dict.fromkeys(unchecked, True))

    async def get_root_layer(self, tree: RootTree) -> LayerRecord:
        """
        Return the layer that holds the root of an image.

        :raises StorageError: the storage failed; nothing half-written is left.
        """

        def pack(write: Callable[[bytes], int], should_stop: Callable[[], bool]) -> PackedLayer:
            return pack_tree(
                tree.entries, write, compression=self.compression, should_stop=should_stop
            )

        key = cache_keys.root_key(await self.cpu.run(tree.identity), self.compression.label, FORMAT)
        size = ustar.BLOCK * len(tree.entries)
        return await self._jobs.run(key, lambda: self._get_or_pack(key, pack, size))

    def stop(self) -> Deferred[None]:
        """
        Cancel the layers that are being packed.

        :return: fires when the last thread has ended its work.
        """
        return self._jobs.stop()

    async def _get_or_pack(self, key: str, pack: Pack, size: int) -> LayerRecord:
        cached = await self._cache.get(key)
        stats = current_build_stats.get(None) or BuildStats()
        if cached is not None:
            stats.layers_reused += 1
            return cached
        return await self._batches.run(_Job(key=key, pack=pack, stats=stats), size)

    async def _pack_with_retry(self, jobs: Sequence[_Job], stop: Event) -> Sequence[LayerRecord]:
        if self.check_free_space is not None:
            await self.check_free_space()
        try:
            return await self._pack(jobs, stop)
        except UploadLost as error:
            # The BatchQueue makes each job of a failed batch again by itself; a job whose
            # upload is lost then is packed once more here.
            if len(jobs) > 1:
                raise
            self._log.warn("Packing a layer again: {error}", error=error)
            return await self._pack(jobs, stop)

    async def _pack(self, jobs: Sequence[_Job], stop: Event) -> Sequence[LayerRecord]:
        writers: list[BlobWriter] = []

        def work() -> list[PackedLayer]:
            packed = []
            for job, writer in zip(jobs, writers, strict=True):
                # Fail before packing if nothing can be written.
                writer.write(b"")
                packed.append(job.pack(writer.write, stop.is_set))
            return packed

        try:
            for _ in jobs:
                writers.append(await self.storage.create())  # noqa: PERF401  # one may fail
            packed = await self.cpu.run(work)
            layers = {
                job.key: (
                    LayerRecord(
                        digest=each.digest,
                        size=each.size,
                        diff_id=each.diff_id,
                        uncompressed_size=each.uncompressed_size,
                        annotations=each.annotations,
                    ),
                    writer,
                )
                for job, each, writer in zip(jobs, packed, writers, strict=True)
            }
            records = await self._cache.add(layers, layer_media_type(self.compression.kind))
        except BaseException:
            # The thread has ended its work, because this is never cancelled: a descriptor that
            # is closed under a writing thread may already be reused for another file.
            for writer in writers:
                await writer.abort()
            raise
        for job, each in zip(jobs, packed, strict=True):
            job.stats.count_packed_layer(unpacked=each.uncompressed_size, packed=each.size)
        return records


@frozen(kw_only=True, eq=False)
class _Job:
    """
    A layer to be made.

    :param stats: the statistics of the build that requested it first.
    """

    key: str
    pack: Pack
    stats: BuildStats
