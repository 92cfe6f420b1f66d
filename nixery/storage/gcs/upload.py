"""
Uploads a blob of unknown size chunk by chunk, in a resumable upload.

The protocol is the service's ("Resumable uploads"): a session is begun, and chunks are
put into it with their offset; each is answered with 308 and the number of bytes kept, the
last one with the object.  The object is not visible before the last chunk, which
carries the checksum of the whole: bytes that were damaged on the way are never published.

The library's own writer is not used.  It cancels nothing when it is terminated, it
publishes half a blob when it is dropped, and it gives up if the service keeps
less than it was sent, as the service may.  Here, after any error, the
service is asked how much it has, and the rest is sent.
"""

from __future__ import annotations

import re

from google.api_core import exceptions as api
from requests import Response
from twisted.logger import Logger

from nixery.errors import NixeryError
from nixery.storage.errors import UploadLost
from nixery.storage.gcs.http import (
    Body,
    StoredObject,
    encode_crc32c,
    extend_crc32c,
    from_json,
    request,
)
from nixery.storage.gcs.objects import Objects
from nixery.storage.gcs.retry import RetryState, UnexpectedResponse, translate_errors

__all__ = ["CHUNK_UNIT", "Upload"]

CHUNK_UNIT = 256 * 1024
"""All chunks but the last are a multiple of this."""

OPERATION = "upload a blob"

SESSION_END_STATUSES = frozenset({400, 404, 410, 412})
"""
The statuses that end a session.  400 is the answer to a checksum that does not match: some
bytes were changed on the way, and it is not known which.
"""

_RANGE = re.compile(r"bytes=0-(\d+)")


class Upload:
    """
    One session, on one thread.

    :param objects: the bucket, for the task that uploads.
    :param name: the name of the object; it is used by this upload only.
    :param media_type: the media type of the object.
    """

    _log = Logger()

    def __init__(self, objects: Objects, name: str, media_type: str) -> None:
        self._objects = objects
        self._name = name
        self._media_type = media_type
        self._session: str | None = None
        # The number of bytes that the service has, as last reported, and the checksum of
        # all bytes that were passed to send().
        self._persisted = 0
        self._crc = 0

    def start(self) -> None:
        """
        Begin the session.

        :raises StorageError: it cannot be begun.
        """
        with translate_errors(OPERATION):
            self._session = self._objects.start_session(self._name, self._media_type)

    def send(self, chunk: bytes, *, last: bool) -> StoredObject | None:
        """
        Send a chunk, and retry until the service keeps it.

        :param last: whether it is the last one; it must not be empty.
        :return: the object, after the last one.
        :raises UploadLost: the service has lost the session, or bytes it had kept.
        :raises StorageUnavailable: it makes no progress.
        """
        start = self._persisted
        stop = start + len(chunk)
        self._crc = extend_crc32c(chunk, self._crc)
        attempts = RetryState(OPERATION, self._objects.retry_policy, self._objects.stop)
        querying = False  # or sending
        while True:
            attempts.check()
            try:
                remaining = None if querying else memoryview(chunk)[self._persisted - start :]
                response = self._put(remaining, stop, last=last)
                if response.status_code != 308:
                    return self._check_object(response, stop, last=last)
                persisted = _parse_range(response)
            except NixeryError:
                raise
            # As in attempt(): the exceptions that are raised here are not documented.
            except Exception as error:  # noqa: BLE001
                if isinstance(error, api.GoogleAPICallError) and error.code in SESSION_END_STATUSES:
                    return self._recover_object(error, stop, last=last)
                with translate_errors(OPERATION):
                    attempts.failed(error)
                querying = True
                continue
            if not start <= persisted <= stop:
                raise UploadLost(
                    operation=OPERATION,
                    reason=f"the service has {persisted} bytes after it was sent {stop}",
                )
            progress = persisted > self._persisted
            self._persisted = persisted
            if persisted == stop and not last:
                return None
            if progress:
                attempts.progressed()
            elif not querying or persisted == stop:
                with translate_errors(OPERATION):
                    attempts.failed(
                        UnexpectedResponse("the service makes nothing of what it is sent")
                    )
            # If the service has all bytes but no object, the query makes it create one.
            querying = persisted == stop

    def cancel(self) -> None:
        """Cancel the upload at the service, also after the task was stopped.  Never raises."""
        if self._session is None:
            return
        objects = self._objects.for_cleanup()
        try:
            request(objects.connection, objects.retry_policy, "DELETE", self._session)
        except Exception as error:  # noqa: BLE001
            # 499 is success here.  After any other error, the service drops the session
            # by itself, after a week.
            if not (isinstance(error, api.GoogleAPICallError) and error.code in (404, 410, 499)):
                self._log.debug("an upload could not be cancelled: {error!r}", error=error)

    def _put(self, data: memoryview | None, stop: int, *, last: bool) -> Response:
        """Send ``data``, or, if that is ``None``, ask how much is kept."""
        assert self._session is not None
        byte_range = "*" if data is None else f"{self._persisted}-{stop - 1}"
        headers = {"Content-Range": f"bytes {byte_range}/{stop if last else '*'}"}
        if last:
            headers["X-Goog-Hash"] = f"crc32c={encode_crc32c(self._crc)}"
        return request(
            self._objects.connection,
            self._objects.retry_policy,
            "PUT",
            self._session,
            headers=headers,
            data=b"" if data is None else Body(data, stop=self._objects.stop),
        )

    def _check_object(self, response: Response, size: int, *, last: bool) -> StoredObject:
        stored = from_json(response)
        if not last or not stored.matches(size, encode_crc32c(self._crc)):
            # The object has other bytes, or a part only: it must not be published.
            self._objects.for_cleanup().delete(self._name)
            raise UploadLost(
                operation=OPERATION, reason="the service made an object of something else"
            )
        return stored

    def _recover_object(
        self, error: api.GoogleAPICallError, size: int, *, last: bool
    ) -> StoredObject | None:
        """Handle a lost session; if it had succeeded and its answer was lost, find the object."""
        if last:
            stored = self._objects.stat(self._name)
            if stored is not None and stored.matches(size, encode_crc32c(self._crc)):
                return stored
        raise UploadLost(
            operation=OPERATION, reason=f"the service ended the upload with status {error.code}"
        ) from error


def _parse_range(response: Response) -> int:
    """Return how many bytes are kept according to a 308: none, if it has no range."""
    text = response.headers.get("Range")
    if text is None:
        return 0
    match = _RANGE.fullmatch(text)
    if match is None:
        raise UnexpectedResponse("the answer is not the service's: its range means nothing")
    return int(match[1]) + 1
