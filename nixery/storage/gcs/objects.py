"""
Operations on the objects of a bucket: one request each, retried until it succeeds or
fails for good.

Everything here blocks, on worker threads.  The client library is used for metadata and
for uploads in one request; other uploads and downloads go over its session directly,
because the library's own methods have hazards: its uploads of more than 8 MiB become
sessions that fail in ways of their own, and its downloads do not tell which object
the bytes belong to.

``NotFound``, ``PreconditionFailed`` and similar errors are raised as the library
raises them, for the caller to interpret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Event
from typing import Any, TypeVar

from attrs import evolve, frozen
from google.api_core import exceptions as api
from requests import Response

from nixery.storage.gcs.client import Connection
from nixery.storage.gcs.http import (
    IMMUTABLE,
    StoredObject,
    encode_crc32c,
    extend_crc32c,
    from_blob,
    request,
    response_crc32c,
    translate_upload_errors,
)
from nixery.storage.gcs.retry import RetryPolicy, UnexpectedResponse, attempt

__all__ = ["MAX_UPLOAD", "Objects"]

T = TypeVar("T")

MAX_UPLOAD = 8 * 2**20
"""Maximum bytes that the library sends in one request; for more it opens a session."""

CLEANUP_POLICY = RetryPolicy(connect=5.0, read=10.0, total=10.0)
"""The policy for clean-up requests without a waiting caller; a sweep does what they miss."""

FIELDS = "name,size,crc32c,generation,contentType,timeCreated"


@frozen(kw_only=True, eq=False)
class Objects:
    """
    The objects of a bucket, for one task.

    Methods raise :class:`nixery.storage.errors.StorageUnavailable` at the retry deadline, and
    :class:`nixery.errors.StorageError` when the task is stopped.

    :param stop: set when the task's result is not needed any more.
    """

    connection: Connection
    retry_policy: RetryPolicy
    stop: Event

    def for_cleanup(self) -> Objects:
        """Return the same bucket for cleaning up, usable after the task was stopped."""
        return evolve(self, stop=Event(), retry_policy=_shorten(self.retry_policy))

    def stat(self, name: str) -> StoredObject | None:
        """Return an object's description, ``None`` if there is no such object."""

        def look_up() -> StoredObject | None:
            blob = self._bucket().get_blob(name, retry=None, timeout=self.retry_policy.timeouts)
            return None if blob is None else from_blob(blob)

        return self._attempt("look an object up", look_up)

    def put(
        self, name: str, data: bytes, media_type: str, *, cache_control: str, replacing: int = 0
    ) -> StoredObject:
        """
        Store an object of at most :data:`MAX_UPLOAD` bytes in one request.

        :param replacing: the generation that it replaces; 0: there must be none.
        :raises PreconditionFailed: another generation exists.  After a lost answer, that
            may be this very object.
        """
        crc32c = encode_crc32c(extend_crc32c(data))
        refusals = 0

        def send() -> StoredObject:
            nonlocal refusals
            blob = self._bucket().blob(name)
            blob.cache_control = cache_control
            try:
                with translate_upload_errors():
                    blob.upload_from_string(
                        data,
                        content_type=media_type,
                        if_generation_match=replacing,
                        # The service rejects bytes that do not match it.
                        checksum="crc32c",
                        retry=None,
                        timeout=self.retry_policy.timeouts,
                    )
            except api.BadRequest:
                # The answer to a wrong checksum: retry, because the bytes are still in
                # memory, and are unlikely to be damaged on the way twice.
                refusals += 1
                if refusals > 1:
                    raise
                raise UnexpectedResponse(
                    "the service received something else than it was sent"
                ) from None
            stored = from_blob(blob)
            if not stored.matches(len(data), crc32c):
                raise UnexpectedResponse("the service tells of another object than it was sent")
            return stored

        return self._attempt("store an object", send)

    def start_session(self, name: str, media_type: str) -> str:
        """
        Begin a resumable upload of an object that must not exist yet.

        :return: the URL of the session.
        """

        def start() -> str:
            blob = self._bucket().blob(name)
            blob.content_type = media_type
            blob.cache_control = IMMUTABLE
            with translate_upload_errors():
                return str(
                    blob.create_resumable_upload_session(
                        content_type=media_type,
                        if_generation_match=0,
                        # The checksum of the whole is sent with the last chunk.
                        checksum=None,
                        retry=None,
                        timeout=self.retry_policy.timeouts,
                    )
                )

        return self._attempt("upload a blob", start)

    def get(self, name: str) -> bytes | None:
        """Read a small object as a whole, and verify its checksum; ``None`` if there is none."""

        def fetch() -> bytes | None:
            try:
                with self.fetch(name) as response:
                    data = response.content
                    if encode_crc32c(extend_crc32c(data)) != response_crc32c(response):
                        raise UnexpectedResponse("what was received is not what the service sent")
                    return data
            except api.NotFound:
                return None

        return self._attempt("read an object", fetch)

    def fetch(
        self, name: str, *, start: int = 0, stop: int | None = None, generation: int | None = None
    ) -> Response:
        """
        Begin to read an object, or its bytes from ``start`` to before ``stop``, without
        retries.

        :raises NotFound: there is no such object, or not this generation of it.
        """
        params = {"alt": "media"}
        if generation is not None:
            params["generation"] = str(generation)
        # The objects have no Content-Encoding, and no intermediary may add one.
        headers = {"Accept-Encoding": "identity"}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        response = request(
            self.connection,
            self.retry_policy,
            "GET",
            self.connection.url(part="/download", name=name),
            params=params,
            headers=headers,
            stream=True,
        )
        if "Range" not in headers:
            response_crc32c(response)
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            response.close()
            raise UnexpectedResponse("the answer is not the service's: it is of another part")
        return response

    def move(self, source: StoredObject, name: str, *, replacing: int = 0) -> StoredObject:
        """
        Rename an object atomically.

        :raises NotFound: it does not exist, perhaps because an earlier answer was lost.
        :raises PreconditionFailed: an object of the new name exists.
        """

        def move() -> StoredObject:
            bucket = self._bucket()
            return from_blob(
                bucket.move_blob(
                    bucket.blob(source.name),
                    name,
                    if_generation_match=replacing,
                    if_source_generation_match=source.generation,
                    retry=None,
                    timeout=self.retry_policy.timeouts,
                )
            )

        return self._attempt("publish an object", move)

    def rewrite(
        self, source: StoredObject, name: str, token: str | None, *, replacing: int = 0
    ) -> tuple[StoredObject | None, str | None, int]:
        """
        Do one step of a copy within the bucket.

        :return: the copy when it is complete; else the token for the next step, and
            how many bytes were copied so far.
        :raises GoogleAPICallError: with 410, the token is not valid any more.
        """

        def rewrite() -> tuple[StoredObject | None, str | None, int]:
            bucket = self._bucket()
            target = bucket.blob(name)
            target.content_type = source.media_type
            target.cache_control = IMMUTABLE
            next_token, copied, _ = target.rewrite(
                bucket.blob(source.name, generation=source.generation),
                token=token,
                if_generation_match=replacing,
                if_source_generation_match=source.generation,
                retry=None,
                timeout=self.retry_policy.timeouts,
            )
            return (from_blob(target) if next_token is None else None), next_token, int(copied)

        return self._attempt("copy an object", rewrite)

    def retype(self, stored: StoredObject, media_type: str) -> StoredObject:
        """Change an object's media type."""

        def patch() -> StoredObject:
            blob = self._bucket().blob(stored.name)
            blob.content_type = media_type
            blob.patch(
                if_generation_match=stored.generation,
                retry=None,
                timeout=self.retry_policy.timeouts,
            )
            return evolve(stored, media_type=media_type)

        return self._attempt("describe an object", patch)

    def delete(self, name: str, generation: int | None = None) -> None:
        """
        Delete an object, if it exists in this generation.
        """

        def delete() -> None:
            with suppress(api.NotFound, api.PreconditionFailed):
                self._bucket().blob(name).delete(
                    if_generation_match=generation, retry=None, timeout=self.retry_policy.timeouts
                )

        self._attempt("delete an object", delete)

    def list(self, prefix: str, *, page_size: int = 1000) -> Iterator[list[StoredObject]]:
        """
        List the objects whose names begin with ``prefix``, page by page.

        :raises NotFound: there is no such bucket.
        """
        token: str | None = None
        while True:

            def page(token: str | None = token) -> tuple[list[StoredObject], str | None]:
                listing = self.connection.client.list_blobs(
                    self.connection.bucket,
                    prefix=prefix,
                    page_token=token,
                    page_size=page_size,
                    fields=f"items({FIELDS}),nextPageToken",
                    retry=None,
                    timeout=self.retry_policy.timeouts,
                )
                objects = [from_blob(blob) for blob in next(listing.pages, ())]
                return objects, listing.next_page_token

            objects, token = self._attempt("list objects", page)
            yield objects
            if token is None:
                return

    def _bucket(self) -> Any:
        # A new blob object each time: these are mutable, and no two threads may share
        # one.
        return self.connection.client.bucket(self.connection.bucket)

    def _attempt(self, operation: str, function: Callable[[], T]) -> T:
        return attempt(operation, self.retry_policy, self.stop, function)


def _shorten(retry_policy: RetryPolicy) -> RetryPolicy:
    return evolve(
        retry_policy,
        connect=min(retry_policy.connect, CLEANUP_POLICY.connect),
        read=min(retry_policy.read, CLEANUP_POLICY.read),
        total=min(retry_policy.total, CLEANUP_POLICY.total),
    )
