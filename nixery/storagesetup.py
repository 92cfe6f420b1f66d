"""
The storage that the configuration asks for, with all that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen
from twisted.logger import Logger

from nixery.configuration.config import Config
from nixery.daemon import Part
from nixery.interfaces import Storage, Workers
from nixery.storage.filesystem import FilesystemStorage
from nixery.workers import WorkerPool

__all__ = ["StorageParts", "make_storage"]

_log = Logger()


@frozen(kw_only=True)
class StorageParts:
    """
    A storage and what it consists of.

    :param storage: to be used when all parts have started.
    :param parts: in the order in which they start.
    :param unready: why it cannot be used yet, a sentence each.
    """

    storage: Storage
    parts: tuple[Part, ...]
    unready: Callable[[], Sequence[str]] = tuple


def make_storage(
    config: Config,
    files: Workers,
    reactor: Any,  # the global reactor, which has no type
    *,
    give_up: Callable[[], None],
) -> StorageParts:
    """
    The storage that is configured.

    :param files: the pool for file systems.
    :param give_up: ends the daemon as failed; for a storage that starts in the
        background.
    """
    if config.storage_backend == "gcs":
        return _make_gcs(config, reactor, give_up)
    storage = FilesystemStorage(config.storage_path, files)

    async def start() -> None:
        await storage.start()
        _log.info("Images are stored in {path}.", path=config.storage_path)

    return StorageParts(storage=storage, parts=(Part(name="storage", start=start),))


def _make_gcs(config: Config, reactor: Any, give_up: Callable[[], None]) -> StorageParts:
    # Imported by whoever has a bucket, and by nobody else: it brings along a hundred
    # modules of Google's.
    from nixery.storage.gcs import GcsStorage  # noqa: PLC0415
    from nixery.storage.gcsclient import GcsSettings  # noqa: PLC0415

    # Not the pool for file systems: a slow network is no reason for a slow disk.
    pool = WorkerPool("bucket", config.gcs_workers, reactor)
    storage = GcsStorage(
        settings=GcsSettings(
            bucket=config.gcs_bucket or "",  # the configuration insists on one
            endpoint=config.gcs_endpoint,
            credentials=config.google_application_credentials,
            signing_key=config.gcs_signing_key,
            signing_account=config.gcs_signing_account,
            proxy=config.gcs_proxy,
            chunk_size=config.gcs_chunk_size * 2**20,
            # As many as layers are packed at a time: none of them waits for another.
            uploads=config.cpu_workers,
            connections=config.gcs_workers + config.cpu_workers,
        ),
        workers=pool,
        clock=reactor,
        give_up=give_up,
    )
    return StorageParts(
        storage=storage,
        parts=(
            Part.of_service("pool for the bucket", pool),
            Part(name="storage", start=storage.start, stop=storage.stop),
        ),
        unready=storage.faults,
    )
