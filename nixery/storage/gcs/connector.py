"""
Connects to the bucket when the daemon starts.

Listening does not wait for it.  Operations that need the bucket during the first try wait
for that try; after it, while the service cannot be reached, they fail at once, and the
connection is retried.  Errors that no retry would change (there is no such
bucket, or no permission, or no credentials) end the daemon.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Event
from uuid import uuid4

from attrs import frozen
from google.api_core import exceptions as api
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from nixery.errors import NixeryError, ShuttingDown
from nixery.runtime.retry import Backoff, retry
from nixery.runtime.workers import Workers
from nixery.storage.errors import StorageRefused, StorageUnavailable
from nixery.storage.gcs.client import Connection, GcsSettings, connect
from nixery.storage.gcs.objects import Objects
from nixery.storage.gcs.retry import RetryPolicy, translate_errors
from nixery.storage.gcs.signing import Urls, choose_urls
from nixery.storage.gcs.writer import STAGING

__all__ = ["Bucket", "BucketConnector", "open_bucket", "sweep"]

BACKOFF = Backoff(first=1.0, longest=60.0)
"""The pauses between attempts to reach the bucket, which do not end."""

STAGING_MAX_AGE = timedelta(days=1)
"""The age at which a staging object's upload is considered abandoned."""

MAX_SWEPT_PAGES = 20
MAX_SWEPT_OBJECTS = 1000
"""Maximum pages listed and objects deleted by one start; the next start continues."""


@frozen(kw_only=True, eq=False)
class Bucket:
    """
    A bucket with an established connection.

    :param urls: the URLs that its objects are fetched from.
    """

    connection: Connection
    urls: Urls


def open_bucket(settings: GcsSettings, retry_policy: RetryPolicy, stop: Event) -> Bucket:
    """
    Connect to the bucket, and test the required operations.  Blocks.

    :raises StorageUnavailable: the service cannot be reached.
    :raises StorageRefused: there is no such bucket, or access is denied.
    """
    connection = connect(settings)
    objects = Objects(connection=connection, retry_policy=retry_policy, stop=stop)
    operation = f"use the bucket {settings.bucket}"
    with translate_errors(operation):
        try:
            # The bucket's own metadata are not requested: the required role does not
            # permit that.
            next(objects.list(STAGING, page_size=1))
            probe = objects.put(
                f"{STAGING}probe-{uuid4().hex}", b"", "text/plain", cache_control="no-store"
            )
            objects.delete(probe.name, probe.generation)
        except api.NotFound:
            raise StorageRefused(
                operation=operation,
                reason="there is no such bucket",
                advice="make it, or correct gcs_bucket (GCS_BUCKET)",
            ) from None
        urls = choose_urls(connection, settings, retry_policy, stop)
    return Bucket(connection=connection, urls=urls)


def sweep(objects: Objects, now: datetime) -> int:
    """
    Delete objects that abandoned uploads have left in the bucket.  Blocks.

    :return: the number of deleted objects.
    """
    swept = 0
    for number, page in enumerate(objects.list(STAGING), start=1):
        for stored in page:
            if stored.created is not None and stored.created < now - STAGING_MAX_AGE:
                objects.delete(stored.name, stored.generation)
                swept += 1
            if swept == MAX_SWEPT_OBJECTS:
                return swept
        if number == MAX_SWEPT_PAGES:
            break
    return swept


class BucketConnector:
    """
    Holds the connection to the bucket, from the start of the daemon to its end.

    :param name: the name of the bucket.
    :param open_: connects to it, on a thread; one try.
    :param workers: the pool for ``open_``.
    :param clock: for the pauses between tries.
    :param on_connected: called, once, when the connection is established.
    :param give_up: called, once, with the reason, if it can never be established.
    """

    _log = Logger()

    def __init__(
        self,
        name: str,
        open_: Callable[[Event], Bucket],
        *,
        workers: Workers,
        clock: IReactorTime,
        on_connected: Callable[[], None],
        give_up: Callable[[BaseException], None],
    ) -> None:
        self._name = name
        self._open = open_
        self._workers = workers
        self._clock = clock
        self._on_connected = on_connected
        self._give_up = give_up
        self._bucket: Bucket | None = None
        self._fault: NixeryError | None = None
        self._stop = Event()
        self._waiting: list[Deferred[None]] = []
        self._connecting: Deferred[None] | None = None

    def start(self) -> None:
        """Begin to connect to the bucket."""
        self._connecting = Deferred.fromCoroutine(self._connect())

    async def stop(self) -> None:
        """Stop trying, and close the connection."""
        self._stop.set()
        if self._connecting is not None:
            self._connecting.cancel()
            await self._connecting
        bucket, self._bucket = self._bucket, None
        self._resolve_waiters(ShuttingDown())
        if bucket is not None:
            bucket.connection.close()

    def faults(self) -> tuple[str, ...]:
        """Return the reasons why the storage is not ready; empty: it is ready."""
        if self._bucket is not None:
            return ()
        if self._fault is not None:
            return (self._fault.message,)
        return (f"the bucket {self._name} has not been reached yet",)

    async def bucket(self) -> Bucket:
        """
        Return the bucket.

        :raises StorageError: the connection is not established yet.
        :raises ShuttingDown: it will not be established, because the daemon stops.
        """
        if self._bucket is None and self._fault is None:
            waiter: Deferred[None] = Deferred()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
        if self._bucket is not None:
            return self._bucket
        assert self._fault is not None
        raise self._fault

    async def _connect(self) -> None:
        async def attempt(_: float) -> Bucket:
            return await self._workers.run(self._open, self._stop)

        def on_failure(error: Exception, pause: float) -> None:
            assert isinstance(error, StorageUnavailable)
            self._resolve_waiters(error)
            self._log.warn("{error} (the next try is in {pause:.0f} s)", error=error, pause=pause)

        try:
            self._bucket = await retry(
                attempt,
                BACKOFF,
                clock=self._clock,
                is_temporary=lambda error: isinstance(error, StorageUnavailable),
                on_failure=on_failure,
            )
        except (CancelledError, ShuttingDown):
            return
        except NixeryError as error:
            self._resolve_waiters(error)
            self._log.critical("Cannot start: {reason}", reason=error.message)
            self._give_up(error)
        except Exception as error:  # noqa: BLE001  # raised by three Google libraries
            self._resolve_waiters(
                StorageUnavailable(operation="start", reason="the log has the reason")
            )
            self._log.failure("The bucket {bucket} cannot be used.", bucket=self._name)
            self._give_up(error)
        else:
            self._resolve_waiters(None)
            self._on_connected()

    def _resolve_waiters(self, fault: NixeryError | None) -> None:
        """Pass the result of the try to the operations that wait for it."""
        self._fault = fault
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)
