"""Makes the storage that the configuration asks for, and the cache of the images in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from nixery.builds.image_cache import RECHECK_INTERVAL_SECONDS, ImageCache
from nixery.builds.image_check import ImageCheck
from nixery.config.config import Config
from nixery.config.declarations.gcs import GcsConfig
from nixery.errors import ShuttingDown
from nixery.observability.disk_check import check_directory
from nixery.runtime.clocks import WallClock
from nixery.runtime.startup import Component
from nixery.runtime.workers import WorkerPool, Workers
from nixery.storage.filesystem.backend import FilesystemStorage
from nixery.storage.filesystem.gc_policy import Policy
from nixery.storage.filesystem.gc_service import CollectionService
from nixery.storage.free_space import FreeSpaceMonitor
from nixery.storage.interface import Storage

__all__ = ["STORAGE_THREADS", "StorageSubsystem", "make_storage"]

STORAGE_THREADS = 16
"""The pool for file systems: enough to keep a disk array busy, and few enough for one disk."""

BUCKET_THREADS = 32
"""The pool for requests to a bucket, most of whose time is waiting for the network."""

_log = Logger()


@frozen(kw_only=True)
class StorageSubsystem:
    """
    The storage, and the images in it.

    :param storage: to be used when all components have started.
    :param images: the images in the storage that were used lately, in memory.
    :param check: fails with a :class:`nixery.errors.StorageError` if the storage cannot be used
        now, as far as a cheap request shows.
    :param unready: returns the reasons why the storage cannot be used yet, a sentence each.
    :param check_free_space: to be awaited before a build; raises
        :class:`nixery.storage.errors.DiskSpaceLow`.  ``None``: space is not limited.
    :param components: in the order in which they start.
    """

    storage: Storage
    images: ImageCache
    check: Callable[[], Awaitable[object]]
    unready: Callable[[], Sequence[str]]
    check_free_space: Callable[[], Awaitable[None]] | None
    components: tuple[Component, ...]


def make_storage(
    config: Config,
    cpu: Workers,
    files: Workers,
    reactor: Any,  # the global reactor, which has no type
    wall_clock: WallClock,
    *,
    instrument: Callable[[Storage], Storage],
    give_up: Callable[[BaseException], None],
) -> StorageSubsystem:
    """
    Make the configured storage.

    :param cpu: the pool in which layers are read.
    :param files: the pool for file systems.
    :param wall_clock: for the ages of files.
    :param instrument: wraps the storage to measure it.
    :param give_up: ends the daemon as failed, given the reason; for a storage that starts in the
        background.
    """
    if config.storage.storage_backend == "gcs":
        return _make_gcs(config.gcs, config.builds.cpu_workers, cpu, reactor, instrument, give_up)
    return _make_filesystem(config, cpu, files, reactor, wall_clock, instrument)


def _make_filesystem(
    config: Config,
    cpu: Workers,
    files: Workers,
    reactor: Any,
    wall_clock: WallClock,
    instrument: Callable[[Storage], Storage],
) -> StorageSubsystem:
    root, retained = config.storage.storage_path, config.retention
    backend = FilesystemStorage(root, files)
    storage = instrument(backend)
    images = _make_image_cache(storage, cpu, reactor)

    indexing: list[Deferred[None]] = []

    async def start() -> None:
        await backend.start()
        indexing.append(Deferred.fromCoroutine(backend.complete_indexes()))
        indexing[0].addErrback(_log_incomplete_index)

    async def stop() -> None:
        for each in indexing:
            each.cancel()

    retention = CollectionService(
        root=root,
        policy=Policy(
            max_bytes=retained.max_storage_size,
            max_age=retained.max_image_age,
        ),
        workers=files,
        clock=reactor,
        wall_clock=wall_clock,
        on_removed=images.invalidate_checks,
    )
    limited = retained.max_storage_size is not None or retained.max_image_age is not None
    free_space = FreeSpaceMonitor(
        path=root,
        margin=retained.min_free_space,
        workers=files,
        clock=reactor,
        collect_garbage=retention.collect if limited else None,
    )
    components = [
        Component(name="storage", start=start, stop=stop),
        Component(name="free space monitor", start=free_space.start, stop=free_space.stop),
    ]
    if limited:
        components.append(Component(name="retention", start=retention.start, stop=retention.stop))
    return StorageSubsystem(
        storage=storage,
        images=images,
        check=lambda: files.run(check_directory, str(root), str(root / "tmp")),
        unready=free_space.faults,
        check_free_space=free_space.check,
        components=tuple(components),
    )


def _log_incomplete_index(failure: Failure) -> None:
    """Log that records are still listed the slow way; the next start goes on."""
    if not failure.check(CancelledError, ShuttingDown):
        _log.warn("an index of records is not complete: {error}", error=failure.value)


def _make_gcs(
    config: GcsConfig,
    uploads: int,
    cpu: Workers,
    reactor: Any,
    instrument: Callable[[Storage], Storage],
    give_up: Callable[[BaseException], None],
) -> StorageSubsystem:
    # Imported only for a bucket: it loads a hundred modules of Google's.
    from nixery.storage.gcs.backend import GcsStorage  # noqa: PLC0415
    from nixery.storage.gcs.client import CHUNK_SIZE, GcsSettings  # noqa: PLC0415

    # Not the pool for file systems: a slow network is no reason for a slow disk.
    pool = WorkerPool("bucket", BUCKET_THREADS, reactor)
    backend = GcsStorage(
        settings=GcsSettings(
            bucket=config.gcs_bucket or "",  # the configuration requires one
            endpoint=config.gcs_endpoint,
            credentials=config.google_application_credentials,
            signing_key=config.gcs_signing_key,
            signing_account=config.gcs_signing_account,
            redirect=config.gcs_redirect,
            chunk_size=CHUNK_SIZE,
            # As many as layers are packed at a time, so that none of them waits for another.
            uploads=uploads,
            connections=BUCKET_THREADS + uploads,
        ),
        workers=pool,
        clock=reactor,
        give_up=give_up,
    )
    storage = instrument(backend)

    async def check() -> None:
        # The storage itself reports a bucket that was never reached.
        if not backend.faults():
            await backend.get_record("probe", "ready")

    return StorageSubsystem(
        storage=storage,
        images=_make_image_cache(storage, cpu, reactor),
        check=check,
        unready=backend.faults,
        check_free_space=None,
        components=(
            Component.of_service("pool for the bucket", pool),
            Component(name="storage", start=backend.start, stop=backend.stop),
        ),
    )


def _make_image_cache(storage: Storage, cpu: Workers, reactor: Any) -> ImageCache:
    return ImageCache(
        storage=storage,
        seconds=reactor.seconds,
        is_sound=ImageCheck(storage=storage, workers=cpu).is_sound,
        recheck_interval=RECHECK_INTERVAL_SECONDS,
    )
