"""
A resumable upload: a blob whose end is not known yet, chunk by chunk.

The protocol is the service's ("Resumable uploads"): a session is begun, chunks are
put into it with their place, and each is answered 308 with how much is kept, the
last one with the object.  Nobody sees an object before the last chunk, which
carries the checksum of the whole: what was changed on the way never appears.

The library's own writer is not used.  It cancels nothing when it is terminated, it
publishes half a blob when it is dropped, and it gives up where the service keeps
less than it was sent, as the service may.  Here, after whatever went wrong, the
service is asked how much it has, and sent what it has not.
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

SESSION_OVER = frozenset({400, 404, 410, 412})
"""
The statuses that a session ends with.  400 is what a checksum gets that does not match: something
changed the bytes on the way, and which of them is not known.
"""

_RANGE = re.compile(r"bytes=0-(\d+)")


class Upload:
    """
    One session, on one thread.

    :param objects: the bucket, for the task that uploads.
    :param name: of the object; nobody else uses it.
    :param media_type: of the object.
    """

    _log = Logger()

    def __init__(self, objects: Objects, name: str, media_type: str) -> None:
        self._objects = objects
        self._name = name
        self._media_type = media_type
        self._session: str | None = None
        # How much the service has, for all we know, and the checksum of all that
        # was given to send().
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
        Send a chunk, and see to it that the service keeps it.

        :param last: whether it is the last one; it must not be empty.
        :return: the object, after the last one.
        :raises UploadLost: the service has lost the session, or what it had kept.
        :raises StorageUnavailable: it makes no progress.
        """
        start = self._kept
        stop = start + len(chunk)
        self._crc = crc_of(chunk, self._crc)
        attempts = RetryState(OPERATION, self._objects.patience, self._objects.stop)
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
            # As in attempt(): what is raised here is documented nowhere.
            except Exception as error:  # noqa: BLE001
                if isinstance(error, api.GoogleAPICallError) and error.code in SESSION_OVER:
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
            # With all of it and no object, asking makes one.
            asking = kept == stop

    def cancel(self) -> None:
        """Have the service forget what it has.  Never raises; whatever the task's state."""
        if self._session is None:
            return
        cleaning = self._objects.cleaning()
        try:
            request(cleaning.connection, cleaning.patience, "DELETE", self._session)
        except Exception as error:  # noqa: BLE001
            # 499 is success here.  Whatever else: the service forgets by itself,
            # after a week.
            if not (isinstance(error, api.GoogleAPICallError) and error.code in (404, 410, 499)):
                self._log.debug("an upload could not be cancelled: {error!r}", error=error)

    def _put(self, data: memoryview | None, stop: int, *, last: bool) -> Response:
        """Send ``data``, or, where that is ``None``, ask how much is kept."""
        assert self._session is not None
        place = "*" if data is None else f"{self._kept}-{stop - 1}"
        headers = {"Content-Range": f"bytes {place}/{stop if last else '*'}"}
        if last:
            headers["X-Goog-Hash"] = f"crc32c={crc_text(self._crc)}"
        return request(
            self._objects.connection,
            self._objects.patience,
            "PUT",
            self._session,
            headers=headers,
            data=b"" if data is None else Body(data, stop=self._objects.stop),
        )

    def _finished(self, answer: Response, size: int, *, last: bool) -> StoredObject:
        stored = from_json(answer)
        if not last or not stored.holds(size, crc_text(self._crc)):
            # Somebody else's bytes, or half of ours: not to be published.
            self._objects.cleaning().delete(self._name)
            raise UploadLost(
                operation=OPERATION, reason="the service made an object of something else"
            )
        return stored

    def _lost(self, error: api.GoogleAPICallError, size: int, *, last: bool) -> StoredObject | None:
        """The session is gone, perhaps because it has ended, and the answer was lost."""
        if last:
            stored = self._objects.stat(self._name)
            if stored is not None and stored.holds(size, crc_text(self._crc)):
                return stored
        raise UploadLost(
            operation=OPERATION, reason=f"the service ended the upload with status {error.code}"
        ) from error


def _kept(answer: Response) -> int:
    """How many bytes a 308 says are kept: none, where it has no range."""
    text = answer.headers.get("Range")
    if text is None:
        return 0
    match = _RANGE.fullmatch(text)
    if match is None:
        raise UnexpectedResponse("the answer is not the service's: its range means nothing")
    return int(match[1]) + 1
