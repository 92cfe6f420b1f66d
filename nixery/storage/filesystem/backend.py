"""
Implements the storage in a directory of this machine, for the reactor.

Each method is one call on the storage pool, so one switch to a thread and back;
the blocking code is in :mod:`nixery.storage.filesystem.blobs` and
:mod:`nixery.storage.filesystem.records`.  Several processes may share one directory::

    ROOT/blobs/sha256/   blobs, by their digests
    ROOT/records/        records, by kind and key, and their indexes
    ROOT/tmp/            files that are being written, or about to be removed
    ROOT/damaged/        files that a check has moved aside
    ROOT/*lock           see :mod:`nixery.storage.filesystem.publish_lock`

Every file in the first two was written and synchronised in ``tmp``, then
linked or renamed to its final path; contents and name are on the disk before any method
reports that it is stored.  A process holds a lock on each blob that it writes in
``tmp``; a file whose lock is free was left there by a crash, and is removed at the
next start.  Small files are there for a moment only and have no lock: one that is
removed at such a start is written again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from nixery.errors import ShuttingDown, StorageError
from nixery.image.manifests import MANIFEST_TYPES
from nixery.image.names import Digest
from nixery.runtime.workers import Workers
from nixery.storage.errors import BlobsMissing, BlobUnknown
from nixery.storage.filesystem.atomic_files import MAX_LINK_BYTES, TempFile, sweep
from nixery.storage.filesystem.batch_publish import Placement, publish_in_stages, publish_together
from nixery.storage.filesystem.blobs import BlobPlacement, Blobs
from nixery.storage.filesystem.files import make_directories, make_directory, translate_os_errors
from nixery.storage.filesystem.publish_lock import publishing
from nixery.storage.filesystem.record_index import INDEXED_KINDS
from nixery.storage.filesystem.records import Records
from nixery.storage.interface import (
    BlobInfo,
    BlobSource,
    BlobWriter,
    ByteRange,
    OpenFile,
    PendingBlob,
)

__all__ = ["FilesystemStorage"]

INDEXED_AT_ONCE = 500
"""Records that are put into an index before a thread of the pool is free for others again."""

T = TypeVar("T")


class FilesystemStorage:
    """
    An implementation of :class:`nixery.storage.interface.Storage`.

    It has no state except paths, so that there is nothing to stop; :meth:`start`
    is awaited once before anything else.

    :param root: the directory; created, with its parents, if it is missing.
    :param workers: the pool of threads for storage I/O.
    """

    _log = Logger()

    def __init__(self, root: Path, workers: Workers) -> None:
        # Make the path absolute, because a daemon changes its working directory later.
        self._root = os.path.abspath(root)
        self._workers = workers
        temp_directory = os.path.join(self._root, "tmp")
        self._blobs = Blobs(os.path.join(self._root, "blobs", "sha256"), temp_directory)
        self._records = Records(os.path.join(self._root, "records"), temp_directory)

    async def start(self) -> None:
        """
        Prepare the directory, and remove files that a crash left in it.

        :raises StorageError: it cannot be used: not writable, on several file
            systems, or on one without links or locks.
        """
        swept = await self._workers.run(_prepare, self._root)
        if swept:
            self._log.info("Removed {swept} files that a crash left", swept=swept)

    async def complete_indexes(self) -> None:
        """
        Make the indexes of a storage of a version that had none, which may take minutes.

        :raises StorageError: the storage failed; the next start goes on.
        """
        for kind in INDEXED_KINDS:
            keys = await self._workers.run(self._records.missing_in_index, kind)
            if keys is None:
                continue
            for start in range(0, len(keys) + 1, INDEXED_AT_ONCE):
                part = keys[start : start + INDEXED_AT_ONCE]
                is_last = start + INDEXED_AT_ONCE > len(keys)
                # Records that are stored meanwhile are put into the index by themselves.
                await self._workers.run(self._records.add_to_index, kind, part, complete=is_last)
            if keys:
                self._log.info(
                    "{count} records were put into an index, which was new", count=len(keys)
                )

    async def stat(self, digest: Digest) -> BlobInfo:
        """:raises BlobUnknown: there is no such blob."""
        return await self._workers.run(self._blobs.stat, digest)

    async def missing(
        self, digests: Collection[Digest], *, record_use: bool = True
    ) -> frozenset[Digest]:
        """Return those of ``digests`` that are not stored, in one call for all of them."""
        return await self._workers.run(self._blobs.missing, tuple(digests), is_use=record_use)

    async def read(self, digest: Digest, *, record_use: bool = True) -> bytes:
        """
        Read a small blob as a whole, and verify its digest.

        :raises BlobUnknown: there is no such blob.
        """
        return await self._workers.run(self._blobs.read, digest, is_use=record_use)

    async def read_part(self, digest: Digest, part: ByteRange) -> bytes:
        """
        Read a small part of a blob.

        :raises BlobUnknown: there is no such blob.
        """
        return await self._workers.run(self._blobs.read_part, digest, part)

    async def open(
        self,
        digest: Digest,
        part: ByteRange | None = None,  # noqa: ARG002  # a file can be read at any offset
        *,
        redirect: bool = True,  # noqa: ARG002  # there is no URL
    ) -> BlobSource:
        """
        Open a blob as a file, independently of the ``part`` that will be read.

        :raises BlobUnknown: there is no such blob.
        """
        return await _acquire_on_worker(self._workers, lambda: self._blobs.open(digest), _close)

    async def create(self) -> BlobWriter:
        """Begin a blob whose digest is not known yet."""
        return _Writer(self._blobs, self._workers)

    async def commit_many(self, commits: Sequence[PendingBlob]) -> list[bytes]:
        """
        Make blobs visible, and create those of their records that are absent, in one call.

        :return: the existing records, or those that were created.
        """
        return await self._workers.run(self._commit_many, tuple(commits))

    def _commit_many(self, commits: Sequence[PendingBlob]) -> list[bytes]:
        with ExitStack() as exit_stack, translate_os_errors("store blobs"):
            placements: list[Placement] = []
            records = []
            for each in commits:
                assert isinstance(each.writer, _Writer)
                blob = each.writer.prepare(exit_stack, each.digest, each.size, each.media_type)
                record = self._records.prepare(exit_stack, *each.record)
                placements += [blob, record]
                records.append(record)
            # Readers of a blob's record check the blob too, so a power failure may leave a
            # record without its blob.
            publish_together(placements)
        return [record.value for record in records]

    async def put(self, data: bytes, media_type: str) -> BlobInfo:
        """Store a small blob as a whole; an existing one is kept."""
        return await self._workers.run(self._blobs.put, data, media_type)

    async def publish(
        self,
        blobs: Collection[tuple[bytes, str]],
        needs: Collection[Digest],
        record: tuple[str, str, bytes],
        first: Collection[tuple[str, str, bytes]] = (),
    ) -> None:
        """
        Store blobs that name other blobs, and a record of them; see the interface.

        :raises BlobsMissing: some of ``needs`` are not stored.
        """
        await self._workers.run(self._publish, tuple(blobs), tuple(needs), record, tuple(first))

    def _publish(
        self,
        blobs: Sequence[tuple[bytes, str]],
        needs: Sequence[Digest],
        record: tuple[str, str, bytes],
        first: Sequence[tuple[str, str, bytes]],
    ) -> None:
        # No garbage collection, in any process, can run between the check of the blobs and
        # the storing of the manifest.
        with translate_os_errors("publish an image"), publishing(self._root):
            missing = [digest for digest in needs if not self._claim(digest)]
            if missing:
                raise BlobsMissing(digests=tuple(missing))
            with ExitStack() as exit_stack:
                contents: list[Placement] = []
                manifests: list[Placement] = []
                for data, media_type in blobs:
                    blob = self._blobs.prepare_small(exit_stack, data, media_type)
                    (manifests if media_type in MANIFEST_TYPES else contents).append(blob)
                added = [self._records.prepare(exit_stack, *each) for each in first]
                replaced = self._records.prepare(exit_stack, *record, replace=True)
                # Each names what is before, which must hold even after a power failure.
                publish_in_stages([contents, manifests, added, [replaced]])

    def _claim(self, digest: Digest) -> bool:
        try:
            self._blobs.claim(digest)
        except BlobUnknown:
            return False
        return True

    async def get_record(self, kind: str, key: str) -> bytes | None:
        """Return the record, ``None`` when there is none."""
        return await self._workers.run(self._records.get, kind, key)

    async def get_records(self, kind: str, keys: Collection[str]) -> Mapping[str, bytes]:
        """Return those of the records that exist, in one call for all of them."""
        return await self._workers.run(self._records.find, kind, tuple(keys))

    async def add_record(self, kind: str, key: str, value: bytes) -> bytes:
        """:return: the existing record, or ``value`` if it was created."""
        return await self._workers.run(self._records.add, kind, key, value)

    async def set_record(self, kind: str, key: str, value: bytes) -> None:
        """Create or replace the record; readers see the old or the new one."""
        await self._workers.run(self._records.set, kind, key, value)

    async def delete_record(self, kind: str, key: str) -> None:
        """Remove the record; one that is absent is no error."""
        await self._workers.run(self._records.delete, kind, key)

    async def list_records(self, kind: str, prefix: str = "") -> Sequence[str]:
        """Return the keys of a kind that begin with ``prefix``, sorted."""
        return await self._workers.run(self._records.keys, kind, prefix)


class _Writer:
    """
    An implementation of :class:`nixery.storage.interface.BlobWriter`.

    Its file is created by the first write, which is on a worker thread already.  If it is
    dropped without an end, its file is removed.
    """

    def __init__(self, blobs: Blobs, workers: Workers) -> None:
        self._blobs = blobs
        self._workers = workers
        self._temp_file: TempFile | None = None
        self._aborted = False

    def write(self, data: bytes, /) -> int:
        """Append ``data``, on a worker thread; blocking disk writes are the back-pressure."""
        return self._ensure_temp_file().write(data)

    async def commit(self, digest: Digest, size: int, media_type: str) -> BlobInfo:
        """
        Make the blob visible; the writer ends in any case.

        A commit that is cancelled while it runs still runs to its end: the blob
        may exist afterwards, and is whole then.

        :raises DigestMismatch: the written data are not ``size`` bytes long.
        """
        return await self._workers.run(self._commit, digest, size, media_type)

    async def abort(self) -> None:
        """Discard the written data.  Never raises; harmless after an end."""
        self._aborted = True
        if self._temp_file is None:
            return
        try:
            await self._workers.run(self._temp_file.discard)
        except (ShuttingDown, CancelledError):
            # The file has to be removed all the same.
            self._temp_file.discard_nowait()

    def _ensure_temp_file(self) -> TempFile:
        if self._temp_file is None and not self._aborted:
            self._temp_file = self._blobs.create()
        # Checked after the temporary file was made visible to other threads: a concurrent abort has
        # either seen the temporary file, or is noticed here.
        if self._aborted or self._temp_file is None:
            if self._temp_file is not None:
                self._temp_file.discard()
            raise StorageError(operation="write a blob", reason="it was ended before")
        return self._temp_file

    def prepare(
        self, exit_stack: ExitStack, digest: Digest, size: int, media_type: str
    ) -> BlobPlacement:
        """Call :meth:`nixery.storage.filesystem.blobs.Blobs.prepare`, on a worker thread."""
        return self._blobs.prepare(exit_stack, self._ensure_temp_file(), digest, size, media_type)

    def _commit(self, digest: Digest, size: int, media_type: str) -> BlobInfo:
        return self._blobs.commit(self._ensure_temp_file(), digest, size, media_type)


async def _acquire_on_worker(
    workers: Workers, acquire: Callable[[], T], release: Callable[[T], None]
) -> T:
    """
    Acquire something on a worker thread.

    Cancelling the wait does not stop the thread: what the thread acquires after that is
    released, and neither descriptors nor files leak.
    """
    acquisition: _Acquisition[T] = _Acquisition(release)
    try:
        return await workers.run(acquisition.run, acquire)
    except BaseException:
        acquisition.abandon()
        raise


class _Acquisition(Generic[T]):
    """Passes a thing from the thread that acquires it to the reactor, which may refuse it."""

    def __init__(self, release: Callable[[T], None]) -> None:
        self._release = release
        self._lock = Lock()
        self._acquired: list[T] = []
        self._abandoned = False

    def run(self, acquire: Callable[[], T]) -> T:
        resource = acquire()
        with self._lock:
            self._acquired.append(resource)
            abandoned = self._abandoned
        if abandoned:
            self._release(resource)
        return resource

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            acquired = list(self._acquired)
        for resource in acquired:
            self._release(resource)


def _close(source: OpenFile) -> None:
    os.close(source.descriptor)


def _prepare(root: str) -> int:
    """
    Create missing directories, test the required operations, and sweep files of a crash.

    :return: how many files were swept.
    """
    tmp = os.path.join(root, "tmp")
    blobs = os.path.join(root, "blobs")
    directories = (os.path.join(blobs, "sha256"), os.path.join(root, "records"), tmp)
    with translate_os_errors(f"open the directory {root}"):
        os.makedirs(os.path.dirname(root), exist_ok=True)
        for path in (root, blobs, *directories):
            make_directory(path)
        # Create all directories of blobs now, so that a commit finds its directory.
        existing = os.listdir(directories[0])
        names = (f"{number:02x}" for number in range(256))
        make_directories(directories[0], [name for name in names if name not in existing])
        if len({os.stat(path).st_dev for path in directories}) > 1:
            raise OSError(errno.EXDEV, "its parts lie on different file systems", root)
        with TempFile(tmp) as probe:
            os.link(probe.path, probe.path + "-link")
            os.unlink(probe.path + "-link")
            _probe_symlink(probe.path + "-note")
        return sweep(tmp)


def _probe_symlink(path: str) -> None:
    try:
        os.symlink("-" * MAX_LINK_BYTES, path)
    except OSError as error:
        # Images can still be served from a full disk.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
    with suppress(FileNotFoundError):  # swept by another process that starts
        os.unlink(path)
