"""
Sends single HTTP requests to the service, and parses its descriptions of objects.

Retries are not done here: see :mod:`nixery.storage.gcs.retry`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from threading import Event
from typing import Any, cast

import google_crc32c
from attrs import evolve, frozen
from google.api_core import exceptions as api
from google.cloud.storage import Blob
from requests import Response

from nixery.storage.gcs.client import Connection
from nixery.storage.gcs.retry import RetryPolicy, UnexpectedResponse, stopped

__all__ = [
    "IMMUTABLE",
    "Body",
    "StoredObject",
    "response_crc32c",
    "extend_crc32c",
    "encode_crc32c",
    "translate_upload_errors",
    "from_blob",
    "from_json",
    "request",
]

PIECE_BYTES = 256 * 1024
"""Size in bytes of the pieces that are sent."""

IMMUTABLE = "public, no-transform, immutable, max-age=31536000"
"""
``Cache-Control`` of objects that are named by their digest.  ``no-transform`` keeps
intermediaries from compressing them, after which they would not match their digest.
"""


@frozen(kw_only=True)
class StoredObject:
    """
    An object as it is stored.

    :param size: in bytes.
    :param crc32c: the CRC32C of its bytes, as the service writes it: big-endian, in base64.
    :param generation: distinguishes the versions of one name.
    :param created: the time of its creation, by the service's clock.
    """

    name: str
    size: int
    crc32c: str
    generation: int
    media_type: str
    created: datetime | None = None

    def matches(self, size: int, crc32c: str) -> bool:
        """Tell whether it has this size and checksum."""
        return (self.size, self.crc32c) == (size, crc32c)


def request(
    connection: Connection,
    retry_policy: RetryPolicy,
    method: str,
    url: str,
    *,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    data: Body | bytes = b"",
    stream: bool = False,
) -> Response:
    """
    Send one request over the client's session, without following redirects.

    :raises GoogleAPICallError: the service refused it.
    """
    response: Response = connection.session.request(
        method,
        url,
        params=params,
        headers=dict(headers or {}),
        # Sockets accept any kind of buffer.
        data=cast("Iterable[bytes] | bytes", data),
        stream=stream,
        timeout=retry_policy.timeouts,
        # 308 is no redirect here: it means that an upload is incomplete.
        allow_redirects=False,
    )
    if response.status_code >= 400:
        try:
            raise api.from_http_response(response)
        finally:
            response.close()
    return response


class Body:
    """
    The body of a request, sent in pieces.

    A socket's time-out is the time in which ``sendall`` has to send all it was
    given: for a chunk of 16 MiB in one piece, five seconds would demand 27 Mbit/s.
    Given in pieces, each piece has that time.  And a task that is stopped stops
    between two pieces.

    Each try iterates it from the start: google-auth repeats a request after it has
    refreshed a token, and would send nothing of a file that was read already.
    """

    def __init__(self, data: bytes | memoryview, *, stop: Event) -> None:
        self._data = memoryview(data)
        self._stop = stop

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, len(self._data), PIECE_BYTES):
            if self._stop.is_set():
                raise stopped("send an object")
            yield self._data[start : start + PIECE_BYTES]


@contextmanager
def translate_upload_errors() -> Iterator[None]:
    """
    Raise errors of the library's uploads with the reason that the service gave.

    The library raises errors that name the URL and not the reason, and an error of status
    200 if the answer did not come from the service.
    """
    try:
        yield
    except api.GoogleAPICallError as error:
        if error.response is None:
            raise
        if error.response.status_code < 400:
            raise UnexpectedResponse(
                "the answer is not the service's: nothing is stored"
            ) from error
        raise api.from_http_response(error.response) from None


def extend_crc32c(data: bytes, crc: int = 0) -> int:
    """Extend ``crc``, the CRC32C of the preceding bytes, by ``data``."""
    return int(google_crc32c.extend(crc, data))


def encode_crc32c(crc: int) -> str:
    """Format a CRC32C as the service writes it."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode("ascii")


def response_crc32c(response: Response) -> str:
    """
    Return the checksum of the whole object, from an answer with some or all of its bytes.

    :raises UnexpectedResponse: there is none: the answer did not come from the service.
    """
    for each in response.headers.get("X-Goog-Hash", "").split(","):
        name, _, value = each.strip().partition("=")
        if name == "crc32c":
            return value
    response.close()
    raise UnexpectedResponse("the answer is not the service's: no checksum")


def from_json(response: Response) -> StoredObject:
    """:raises UnexpectedResponse: it is no description of an object."""
    try:
        value = response.json()
        return _make_object(
            value["name"],
            value.get("size"),
            value["crc32c"],
            value["generation"],
            value.get("contentType"),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _invalid_description() from error


def from_blob(blob: Blob) -> StoredObject:
    """:raises UnexpectedResponse: the answer that the library read describes no object."""
    try:
        return evolve(
            _make_object(blob.name, blob.size, blob.crc32c, blob.generation, blob.content_type),
            created=blob.time_created,
        )
    except (TypeError, ValueError) as error:
        raise _invalid_description() from error


def _make_object(
    name: object, size: Any, crc32c: str | None, generation: Any, media_type: object
) -> StoredObject:
    """:raises TypeError: something is missing."""
    if crc32c is None:
        raise TypeError("no checksum")
    return StoredObject(
        name=str(name),
        # A service may omit fields that are zero.
        size=int(size or 0),
        crc32c=str(crc32c),
        generation=int(generation),
        media_type=str(media_type or "application/octet-stream"),
    )


def _invalid_description() -> UnexpectedResponse:
    return UnexpectedResponse("the answer is not the service's: no object is described")
