"""
Layers into storage: looked up, or packed once, whoever asks.

The bytes of a layer are made on a worker thread and go straight into the
storage's writer; nothing of them passes through the reactor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from threading import Event

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from nixery.builds import cache_keys
from nixery.builds.batching import BatchQueue
from nixery.builds.layer_cache import LayerCache, LayerRecord
from nixery.image.canonical_json import sha256_hex
from nixery.image.closure import StorePath
from nixery.image.manifests import layer_media_type
from nixery.image.packages import Package
from nixery.layers import ustar
from nixery.layers.rootfs import ROOT_VERSION, RootTree
from nixery.layers.tarball import (
    FORMAT,
    STORE,
    Compression,
    PackedLayer,
    pack_store_paths,
    pack_tree,
)
from nixery.observability.context import BuildStats, current_tally
from nixery.runtime.single_flight import SingleFlight
from nixery.runtime.workers import Workers
from nixery.storage.errors import UploadLost
from nixery.storage.interface import BlobWriter, Storage

__all__ = ["Packer"]

Pack = Callable[[Callable[[bytes], int], Callable[[], bool]], PackedLayer]
"""Packs a layer: takes where to write, and what tells whether to stop early."""


@define(kw_only=True, eq=False)
class Packer:
    """
    Makes layers, each of them once.

    :param storage: keeps them.
    :param cpu: the pool in which they are packed.
    :param slots: how many parcels of them are in the making at once: some times as many
        as the pool has threads, for what is being written out needs none.
    :param compression: how they are compressed.
    :param store: the directory of this machine that holds the store paths.
    :param room: awaited before a layer is packed; raises where the disk is too full.
    """

    storage: Storage
    cpu: Workers
    slots: int
    compression: Compression
    store: str = STORE
    room: Callable[[], Awaitable[None]] | None = None

    _cache: LayerCache = field(init=False)
    _jobs: SingleFlight[str, LayerRecord] = field(factory=SingleFlight, init=False)
    _parcels: BatchQueue[_Job, LayerRecord] = field(init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._cache = LayerCache(storage=self.storage)
        self._parcels = BatchQueue(make=self._make, slots=self.slots)

    async def store_paths(self, paths: Sequence[StorePath], size: int) -> LayerRecord:
        """
        The layer that holds these store paths, which must be valid if it is not
        stored yet.

        :param size: theirs together, in bytes.
        :raises MissingPath: a store path has vanished, or cannot be read.
        :raises StorageError: the storage failed; nothing half-written is left.
        """
        names = [path.path for path in paths]

        def pack(write: Callable[[bytes], int], should_stop: Callable[[], bool]) -> PackedLayer:
            return pack_store_paths(
                names,
                write,
                compression=self.compression,
                store=self.store,
                should_stop=should_stop,
            )

        key = self._key(paths)
        return await self._jobs.run(key, lambda: self._layer(key, pack, size))

    async def forget(self, paths: Sequence[StorePath], reason: str) -> None:
        """
        Do not rely on the layer that holds these store paths.

        :raises StorageError: the storage failed.
        """
        await self._cache.withdraw(self._key(paths), reason)

    def _key(self, paths: Sequence[StorePath]) -> str:
        return cache_keys.layer_key(paths, self.compression.label, FORMAT)

    async def root(self, packages: Sequence[Package], tree: RootTree) -> LayerRecord:
        """
        The layer that holds the root of an image.

        :param tree: the root of ``packages``.
        :raises StorageError: as above.
        """

        def pack(write: Callable[[bytes], int], should_stop: Callable[[], bool]) -> PackedLayer:
            return pack_tree(
                tree.entries, write, compression=self.compression, should_stop=should_stop
            )

        key = sha256_hex(
            {
                "compression": self.compression.label,
                "format": [FORMAT, ROOT_VERSION],
                "kind": "root",
                "packages": [
                    {
                        "attribute": package.attribute,
                        "outputs": {output.name: output.path for output in package.outputs},
                        "priority": package.priority,
                    }
                    for package in packages
                ],
            }
        )
        size = ustar.BLOCK * len(tree.entries)
        return await self._jobs.run(key, lambda: self._layer(key, pack, size))

    def stop(self) -> Deferred[None]:
        """Cancel what is being packed; fires when the last thread has let go."""
        return self._jobs.stop()

    async def _layer(self, key: str, pack: Pack, size: int) -> LayerRecord:
        known = await self._cache.get(key)
        tally = current_tally.get(None) or BuildStats()
        if known is not None:
            tally.layers_known += 1
            return known
        return await self._parcels.run(_Job(key=key, pack=pack, tally=tally), size)

    async def _make(self, jobs: Sequence[_Job], stop: Event) -> Sequence[LayerRecord]:
        if self.room is not None:
            await self.room()
        try:
            return await self._pack(jobs, stop)
        except UploadLost as error:
            # Of several each is made again by itself, and once more if that is lost, too.
            if len(jobs) > 1:
                raise
            self._log.warn("a layer is packed again: {error}", error=error)
            return await self._pack(jobs, stop)

    async def _pack(self, jobs: Sequence[_Job], stop: Event) -> Sequence[LayerRecord]:
        writers: list[BlobWriter] = []

        def work() -> list[PackedLayer]:
            packed = []
            for job, writer in zip(jobs, writers, strict=True):
                # Where nothing can be written, nothing needs to be packed.
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
                    ),
                    writer,
                )
                for job, each, writer in zip(jobs, packed, writers, strict=True)
            }
            records = await self._cache.add(layers, layer_media_type(self.compression.kind))
        except BaseException:
            # The thread has let go of them, for nobody cancels this: a descriptor that is
            # closed under a writing thread may already belong to someone else.
            for writer in writers:
                await writer.abort()
            raise
        for job, each in zip(jobs, packed, strict=True):
            job.tally.packed(unpacked=each.uncompressed_size, packed=each.size)
        return records


@frozen(kw_only=True, eq=False)
class _Job:
    """
    A layer to be made.

    :param tally: of the build that wants it first.
    """

    key: str
    pack: Pack
    tally: BuildStats
