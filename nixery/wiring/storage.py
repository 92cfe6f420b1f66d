"""Makes the storage that the configuration asks for, with all that it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from attrs import frozen
from twisted.logger import Logger

from nixery.config.config import Config
from nixery.observability.disk_check import check_directory
from nixery.runtime.clocks import SystemWallClock, WallClock
from nixery.runtime.startup import Component
from nixery.runtime.workers import WorkerPool, Workers
from nixery.storage.filesystem.backend import FilesystemStorage
from nixery.storage.filesystem.gc_policy import Policy
from nixery.storage.filesystem.gc_service import Retention
from nixery.storage.free_space import FreeSpaceMonitor
from nixery.storage.interface import Storage

__all__ = ["StorageParts", "make_storage"]

_log = Logger()


@frozen(kw_only=True)
class StorageParts:
    """
    A storage and its components.

    :param storage: to be used when all parts have started.
    :param parts: in the order in which they start.
    :param unready: returns the reasons why it cannot be used yet, a sentence each.
    :param room: checks the free space, to be awaited before a build; raises
        :class:`nixery.storage.errors.DiskSpaceLow`.
    :param check: fails with a :class:`nixery.errors.StorageError` if it cannot be used now, as far
        as a cheap request shows.
    """

    storage: Storage
    parts: tuple[Component, ...]
    check: Callable[[], Awaitable[object]]
    unready: Callable[[], Sequence[str]] = tuple
    room: Callable[[], Awaitable[None]] | None = None


def make_storage(
    config: Config,
    files: Workers,
    reactor: Any,  # the global reactor, which has no type
    *,
    give_up: Callable[[BaseException], None],
    measured: Callable[[Storage], Storage] = lambda storage: storage,
    collected: Callable[[], None] = lambda: None,
    wall_clock: WallClock | None = None,
) -> StorageParts:
    """
    Make the configured storage.

    :param files: the pool for file systems.
    :param give_up: ends the daemon as failed, given the reason; for a storage that starts in the
        background.
    :param measured: wraps the storage.
    :param collected: called when a garbage collection has removed something.
    :param wall_clock: for the ages of files; by default, this machine's.
    """
    if config.storage_backend == "gcs":
        return _make_gcs(config, reactor, give_up, measured)
    storage = FilesystemStorage(config.storage_path, files)

    async def start() -> None:
        await storage.start()
        _log.info("Images are stored in {path}.", path=config.storage_path)

    retention = Retention(
        root=config.storage_path,
        policy=Policy(
            max_bytes=config.max_storage_size,
            max_age=config.max_image_age,
            grace=config.retention_grace,
        ),
        interval=config.retention_interval,
        workers=files,
        clock=reactor,
        wall_clock=wall_clock or SystemWallClock(),
        removed=collected,
    )
    bounded = config.max_storage_size is not None or config.max_image_age is not None
    guard = FreeSpaceMonitor(
        path=config.storage_path,
        margin=config.min_free_space,
        workers=files,
        clock=reactor,
        make_room=retention.collect if bounded else None,
    )
    path = str(config.storage_path)
    parts = [
        Component(name="storage", start=start),
        Component(name="disk guard", start=guard.start, stop=guard.stop),
    ]
    if bounded:
        parts.append(Component(name="retention", start=retention.start, stop=retention.stop))
    return StorageParts(
        storage=measured(storage),
        parts=tuple(parts),
        check=lambda: files.run(check_directory, path, str(config.storage_path / "tmp")),
        unready=guard.faults,
        room=guard.check,
    )


def _make_gcs(
    config: Config,
    reactor: Any,
    give_up: Callable[[BaseException], None],
    measured: Callable[[Storage], Storage],
) -> StorageParts:
    # Imported only for a bucket: it loads a hundred modules of Google's.
    from nixery.storage.gcs.backend import GcsStorage  # noqa: PLC0415
    from nixery.storage.gcs.client import GcsSettings  # noqa: PLC0415

    # Not the pool for file systems: a slow network is no reason for a slow disk.
    pool = WorkerPool("bucket", config.gcs_workers, reactor)
    storage = GcsStorage(
        settings=GcsSettings(
            bucket=config.gcs_bucket or "",  # the configuration requires one
            endpoint=config.gcs_endpoint,
            credentials=config.google_application_credentials,
            signing_key=config.gcs_signing_key,
            signing_account=config.gcs_signing_account,
            redirect=config.gcs_redirect,
            chunk_size=config.gcs_chunk_size * 2**20,
            # As many as layers are packed at a time, so that none of them waits for another.
            uploads=config.cpu_workers,
            connections=config.gcs_workers + config.cpu_workers,
        ),
        workers=pool,
        clock=reactor,
        give_up=give_up,
    )

    async def check() -> None:
        # The storage itself reports a bucket that was never reached.
        if not storage.faults():
            await storage.get_record("probe", "ready")

    return StorageParts(
        storage=measured(storage),
        check=check,
        parts=(
            Component.of_service("pool for the bucket", pool),
            Component(name="storage", start=storage.start, stop=storage.stop),
        ),
        unready=storage.faults,
    )
