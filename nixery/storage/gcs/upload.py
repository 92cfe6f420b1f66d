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
from nixery.storage.gcs.http import Body, StoredObject, crc_of, crc_text, from_json, request
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
        self._kept = 0
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
        start = self._kept
        stop = start + len(chunk)
        self._crc = crc_of(chunk, self._crc)
        attempts = RetryState(OPERATION, self._objects.retry_policy, self._objects.stop)
        asking = False  # or sending
        while True:
            attempts.check()
            try:
                rest = None if asking else memoryview(chunk)[self._kept - start :]
                answer = self._put(rest, stop, last=last)
                if answer.status_code != 308:
                    return self._finished(answer, stop, last=last)
                kept = _kept(answer)
            except NixeryError:
                raise
            # As in attempt(): the exceptions that are raised here are not documented.
            except Exception as error:  # noqa: BLE001
                if isinstance(error, api.GoogleAPICallError) and error.code in SESSION_END_STATUSES:
                    return self._lost(error, stop, last=last)
                with translate_errors(OPERATION):
                    attempts.failed(error)
                asking = True
                continue
            if not start <= kept <= stop:
                raise UploadLost(
                    operation=OPERATION,
                    reason=f"the service has {kept} bytes after it was sent {stop}",
                )
            progress = kept > self._kept
            self._kept = kept
            if kept == stop and not last:
                return None
            if progress:
                attempts.progressed()
            elif not asking or kept == stop:
                with translate_errors(OPERATION):
                    attempts.failed(
                        UnexpectedResponse("the service makes nothing of what it is sent")
                    )
            # If the service has all bytes but no object, the query makes it create one.
            asking = kept == stop

    def cancel(self) -> None:
        """Cancel the upload at the service, also after the task was stopped.  Never raises."""
        if self._session is None:
            return
        cleaning = self._objects.cleaning()
        try:
            request(cleaning.connection, cleaning.retry_policy, "DELETE", self._session)
        except Exception as error:  # noqa: BLE001
            # 499 is success here.  After any other error, the service drops the session
            # by itself, after a week.
            if not (isinstance(error, api.GoogleAPICallError) and error.code in (404, 410, 499)):
                self._log.debug("an upload could not be cancelled: {error!r}", error=error)

    def _put(self, data: memoryview | None, stop: int, *, last: bool) -> Response:
        """Send ``data``, or, if that is ``None``, ask how much is kept."""
        assert self._session is not None
        place = "*" if data is None else f"{self._kept}-{stop - 1}"
        headers = {"Content-Range": f"bytes {place}/{stop if last else '*'}"}
        if last:
            headers["X-Goog-Hash"] = f"crc32c={crc_text(self._crc)}"
        return request(
            self._objects.connection,
            self._objects.retry_policy,
            "PUT",
            self._session,
            headers=headers,
            data=b"" if data is None else Body(data, stop=self._objects.stop),
        )

    def _finished(self, answer: Response, size: int, *, last: bool) -> StoredObject:
        stored = from_json(answer)
        if not last or not stored.holds(size, crc_text(self._crc)):
            # The object has other bytes, or a part only: it must not be published.
            self._objects.cleaning().delete(self._name)
            raise UploadLost(
                operation=OPERATION, reason="the service made an object of something else"
            )
        return stored

    def _lost(self, error: api.GoogleAPICallError, size: int, *, last: bool) -> StoredObject | None:
        """Handle a lost session; if it had succeeded and its answer was lost, find the object."""
        if last:
            stored = self._objects.stat(self._name)
            if stored is not None and stored.holds(size, crc_text(self._crc)):
                return stored
        raise UploadLost(
            operation=OPERATION, reason=f"the service ended the upload with status {error.code}"
        ) from error


def _kept(answer: Response) -> int:
    """Return how many bytes are kept according to a 308: none, if it has no range."""
    text = answer.headers.get("Range")
    if text is None:
        return 0
    match = _RANGE.fullmatch(text)
    if match is None:
        raise UnexpectedResponse("the answer is not the service's: its range means nothing")
    return int(match[1]) + 1
