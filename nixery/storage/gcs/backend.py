"""
Implements the storage in a bucket of Google Cloud Storage, for the reactor.

Any number of daemons share a bucket, and nothing else::

    layers/SHA256          blobs: layers, configs and manifests, by their digests
    records/KIND/KEY       records
    staging/UUID           uploads in progress

Large blobs are uploaded to ``staging/`` while they are packed, and get their final
name when they are whole; small ones and records are one request each.  The service verified
the checksum of every published object when it was created, and a
blob is never replaced.  An upload that a crash cut short leaves no visible object.
A crash between upload and publication leaves an object in ``staging/``, which
the next start deletes if it is at least a day old.  Operators let the bucket do the
same, by this rule (``gcloud storage buckets update --lifecycle-file``)::

    {"rule": [{"action": {"type": "Delete"},
               "condition": {"age": 1, "matchesPrefix": ["staging/"]}}]}

Each method runs a function on a thread of the storage's own pool, and each call is a
task that can be stopped: a thread whose result is not needed any more ends at its next
request, piece or pause.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event
from typing import TypeVar
from weakref import WeakSet

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from nixery.errors import NixeryError
from nixery.image.names import Digest, parse_digest
from nixery.runtime.clocks import SystemWallClock
from nixery.runtime.deferreds import gather
from nixery.runtime.workers import Workers
from nixery.storage.errors import BlobUnknown
from nixery.storage.gcs.blobs import blob_info, blob_name, put_blob, read_blob
from nixery.storage.gcs.client import GcsSettings
from nixery.storage.gcs.connector import Bucket, BucketConnector, open_bucket, sweep
from nixery.storage.gcs.download import Chunks, Download
from nixery.storage.gcs.http import StoredObject
from nixery.storage.gcs.objects import Objects
from nixery.storage.gcs.records import Records
from nixery.storage.gcs.retry import RetryPolicy, translate_errors
from nixery.storage.gcs.signing import URL_LIFETIME_SECONDS
from nixery.storage.gcs.ttl_cache import TTLCache
from nixery.storage.gcs.writer import Writer
from nixery.storage.interface import (
    BlobInfo,
    BlobSource,
    BlobWriter,
    ByteRange,
    PendingBlob,
    Redirect,
    Stream,
)
from nixery.storage.rules import check_small, publish_in_steps

__all__ = ["GcsStorage"]

T = TypeVar("T")

OBJECT_CACHE_TTL_SECONDS = URL_LIFETIME_SECONDS
"""
Seconds for which a blob that was seen is assumed to exist when a client requests
it: with it, a pull of ninety layers sends no request to the bucket.  The same as the lifetime
of a URL that was given to a client.
"""

MISSING_CHECK_TTL_SECONDS = 30.0
"""
The same for :meth:`GcsStorage.missing`, which is called in order to notice removed blobs,
every few seconds for an image in demand.  A check takes 1.5 ms of processor time: ninety for
each of twenty images, all the time, would keep one processor busy, and the images have most
blobs in common.
"""


CONNECT_DEADLINE_SECONDS = 5.0
"""Retry deadline in seconds of one try to connect; the tries have pauses between them."""

_log = Logger()


@define(kw_only=True, eq=False)
class GcsStorage:
    """
    An implementation of :class:`nixery.storage.interface.Storage`.

    :param settings: the settings of the bucket and its use.
    :param workers: the pool for requests; no packing runs there.
    :param clock: for pauses before the connection is retried, and for the cache.
    :param give_up: called, once, if the bucket can never be used; the reason is in
        the log then.
    :param open_bucket: makes the connection, in place of
        :func:`nixery.storage.gcs.connector.open_bucket`.
    :param retry_policy: the retry policy for the service.
    """

    settings: GcsSettings
    workers: Workers
    clock: IReactorTime
    give_up: Callable[[BaseException], None]
    retry_policy: RetryPolicy = field(factory=RetryPolicy)
    open_bucket: Callable[[Event], Bucket] | None = None

    _connector: BucketConnector = field(init=False)
    _threads: ThreadPoolExecutor = field(init=False)
    _object_cache: TTLCache[StoredObject] = field(init=False)
    # Weak references: a task has ended when its event is not referenced any more.
    _tasks: WeakSet[Event] = field(factory=WeakSet, init=False)
    _writers: WeakSet[Writer] = field(factory=WeakSet, init=False)

    def __attrs_post_init__(self) -> None:
        self._threads = ThreadPoolExecutor(self.settings.uploads, thread_name_prefix="upload")
        self._object_cache = TTLCache(self.clock.seconds)
        self._connector = BucketConnector(
            self.settings.bucket,
            self.open_bucket or self._open_bucket,
            workers=self.workers,
            clock=self.clock,
            on_connected=self._on_connected,
            give_up=self.give_up,
        )

    async def start(self) -> None:
        """Begin to connect to the bucket; only operations that need the bucket wait for it."""
        self._connector.start()

    async def stop(self) -> None:
        """
        End all running operations, as failed.

        When this returns, uploads have ended, or will end within the time that one
        request may take.
        """
        for task in tuple(self._tasks):
            task.set()
        writers = tuple(self._writers)
        for writer in writers:
            writer.stop()
        await self._connector.stop()
        await gather(writer.abort() for writer in writers)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def faults(self) -> Sequence[str]:
        """Return the reasons why the storage is not ready, a sentence each; empty if it is."""
        return self._connector.faults()

    # -- blobs ------------------------------------------------------------------------

    async def stat(self, digest: Digest) -> BlobInfo:
        """:raises BlobUnknown: there is no such blob."""
        return blob_info(digest, await self._stored(digest))

    async def missing(
        self,
        digests: Collection[Digest],
        *,
        record_use: bool = True,  # noqa: ARG002  # nothing expires here
    ) -> frozenset[Digest]:
        """
        Return those of ``digests`` that are not stored.

        Sends one request each, as many at a time as there are threads: a listing could not
        be limited to them, since digests have no common prefix.
        """
        wanted = sorted({parse_digest(digest) for digest in digests})
        found = await gather(
            self._find_object(digest, MISSING_CHECK_TTL_SECONDS) for digest in wanted
        )
        return frozenset(digest for digest, stored in zip(wanted, found, strict=True) if not stored)

    async def read(
        self,
        digest: Digest,
        *,
        record_use: bool = True,  # noqa: ARG002  # nothing expires here
    ) -> bytes:
        """
        Read a small blob as a whole, and verify its digest.

        A damaged blob with the right checksum is removed, so that it is made again like any
        other missing blob.

        :raises BlobUnknown: there is no such blob.
        """
        stored = await self._stored(digest)
        check_small(f"read {digest}", stored.size)
        data = await self._task("read a blob", lambda objects: read_blob(objects, digest))
        if data is None:
            self._object_cache.remove(digest)
            raise BlobUnknown(digest=digest)
        return data

    async def read_part(self, digest: Digest, part: ByteRange) -> bytes:
        """
        Read a small part of a blob.

        :raises BlobUnknown: there is no such blob.
        """
        check_small(f"read a part of {digest}", part.stop - part.start)
        stored = await self._stored(digest)

        def read(objects: Objects) -> bytes:
            download = Download(objects, stored, part)
            try:
                return b"".join(iter(download.read, b""))
            finally:
                download.close()

        return await self._task("read a part of a blob", read)

    async def open(
        self, digest: Digest, part: ByteRange | None = None, *, redirect: bool = True
    ) -> BlobSource:
        """
        Return the URL to redirect to; or the blob's bytes, if blobs pass through the daemon or
        ``redirect`` is false.

        :raises BlobUnknown: there is no such blob.
        """
        stored = await self._stored(digest)
        info = blob_info(digest, stored)
        bucket = await self._connector.bucket()
        if not (redirect and self.settings.redirect):
            objects = self._objects(bucket)
            wanted = part or ByteRange(start=0, stop=stored.size)
            download = Download(objects, stored, wanted)
            return Stream(info=info, chunks=Chunks(download, objects, self.workers))
        urls, name = bucket.urls, blob_name(digest)
        url = urls.cached_url(name)
        if url is None:
            url = await self._task("sign a URL", lambda objects: urls.url(name, objects.stop))
        return Redirect(info=info, url=url)

    async def create(self) -> BlobWriter:
        """Begin a blob whose digest is not known yet."""
        objects = self._objects(await self._connector.bucket())
        writer = Writer(objects, self.workers, self._threads, self.settings.chunk_size)
        self._writers.add(writer)
        return writer

    async def commit_many(self, commits: Sequence[PendingBlob]) -> list[bytes]:
        """
        Make blobs visible concurrently, each of them and then its record.

        :return: the existing records, or those that were created.
        """

        async def commit(each: PendingBlob) -> bytes:
            await each.writer.commit(each.digest, each.size, each.media_type)
            return await self.add_record(*each.record)

        return await gather(commit(each) for each in commits)

    async def put(self, data: bytes, media_type: str) -> BlobInfo:
        """Store a small blob as a whole; an existing one is kept."""
        check_small("store a blob", len(data))
        digest, stored = await self._task(
            "store a blob", lambda objects: put_blob(objects, data, media_type)
        )
        self._object_cache.add(digest, stored)
        return blob_info(digest, stored)

    async def publish(
        self,
        blobs: Collection[tuple[bytes, str]],
        needs: Collection[Digest],
        record: tuple[str, str, bytes],
        first: Collection[tuple[str, str, bytes]] = (),
    ) -> None:
        """
        Store blobs that name other blobs, and a record of them.

        :raises BlobsMissing: some of ``needs`` are not stored.
        """
        await publish_in_steps(self, blobs, needs, record, first)

    # -- records ----------------------------------------------------------------------

    async def get_record(self, kind: str, key: str) -> bytes | None:
        """Return the record, ``None`` when there is none."""
        return await self._records("read a record", lambda records: records.get(kind, key))

    async def get_records(self, kind: str, keys: Collection[str]) -> Mapping[str, bytes]:
        """Return those of the records that exist: one request each, concurrently."""
        wanted = list(keys)
        found = await gather(self.get_record(kind, key) for key in wanted)
        return {
            key: record for key, record in zip(wanted, found, strict=True) if record is not None
        }

    async def add_record(self, kind: str, key: str, value: bytes) -> bytes:
        """:return: the existing record, or ``value`` if it was created."""
        return await self._records("store a record", lambda records: records.add(kind, key, value))

    async def set_record(self, kind: str, key: str, value: bytes) -> None:
        """Create or replace the record; readers see the old or the new one."""
        await self._records("store a record", lambda records: records.set(kind, key, value))

    async def delete_record(self, kind: str, key: str) -> None:
        """Remove the record; one that is absent is no error."""
        await self._records("delete a record", lambda records: records.delete(kind, key))

    async def list_records(self, kind: str, prefix: str = "") -> Sequence[str]:
        """Return the keys of a kind that begin with ``prefix``, sorted."""
        return await self._records("list records", lambda records: records.keys(kind, prefix))

    # -- tasks ------------------------------------------------------------------------

    async def _records(self, operation: str, function: Callable[[Records], T]) -> T:
        return await self._task(operation, lambda objects: function(Records(objects=objects)))

    async def _stored(self, digest: Digest) -> StoredObject:
        """:raises BlobUnknown: there is no such blob."""
        stored = await self._find_object(digest, OBJECT_CACHE_TTL_SECONDS)
        if stored is None:
            raise BlobUnknown(digest=digest)
        return stored

    async def _find_object(self, digest: Digest, max_age: float) -> StoredObject | None:
        """Return a blob's object if it exists, or was seen at most ``max_age`` seconds ago."""
        name = blob_name(digest)

        def find(objects: Objects) -> StoredObject | None:
            # Check the cache again: another task may have added it during the wait for a thread.
            stored = self._object_cache.get(digest, max_age)
            if stored is None:
                stored = objects.stat(name)
                if stored is None:
                    self._object_cache.remove(digest)
                else:
                    self._object_cache.add(digest, stored)
            return stored

        return self._object_cache.get(digest, max_age) or await self._task("look a blob up", find)

    async def _task(self, operation: str, function: Callable[[Objects], T]) -> T:
        """
        Call a function on a thread of the pool, and return its result.

        Cancelling the wait makes the function stop at its next request or pause.
        """
        objects = self._objects(await self._connector.bucket())

        def run() -> T:
            with translate_errors(operation):
                return function(objects)

        try:
            return await self.workers.run(run)
        except BaseException:
            objects.stop.set()
            raise

    def _objects(self, bucket: Bucket) -> Objects:
        stop = Event()
        self._tasks.add(stop)
        return Objects(connection=bucket.connection, retry_policy=self.retry_policy, stop=stop)

    def _open_bucket(self, stop: Event) -> Bucket:
        retry_policy = evolve(
            self.retry_policy, total=min(CONNECT_DEADLINE_SECONDS, self.retry_policy.total)
        )
        return open_bucket(self.settings, retry_policy, stop)

    def _on_connected(self) -> None:
        _log.info("Images are stored in the bucket {bucket}.", bucket=self.settings.bucket)
        Deferred.fromCoroutine(self._sweep())

    async def _sweep(self) -> None:
        """Delete objects that crashes have left; failures are harmless."""
        now = datetime.fromtimestamp(SystemWallClock().now(), UTC)
        try:
            swept = await self._task("sweep", lambda objects: sweep(objects, now))
        except (NixeryError, CancelledError) as error:
            _log.warn("Cannot remove abandoned uploads: {error}", error=error)
        else:
            if swept:
                _log.info("{swept} abandoned uploads were removed", swept=swept)
