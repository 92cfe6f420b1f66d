"""
Set status, headers and body of a response.

Twisted drops the body when the request is a HEAD or the status is 304, so the same code
answers GET, HEAD and conditional requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from twisted.web.server import Request

from nixery.http.error_responses import ErrorResponse, printable
from nixery.http.headers import etag, is_unchanged
from nixery.image.names import Digest
from nixery.storage.interface import BlobInfo, ByteRange

__all__ = [
    "PLAIN_TEXT",
    "answer_unchanged",
    "answer_with",
    "describe_blob",
    "describe_parts",
    "client_disconnected",
    "identify",
    "send_error",
    "send_text_error",
    "set_status",
    "request_id",
    "set_headers",
]

PLAIN_TEXT = "text/plain; charset=utf-8"

_PHRASES = {507: "Insufficient Storage: the disk of the registry is full"}
"""Reason phrases that say more than the standard's."""


def answer_with(request: Request, media_type: str, body: bytes) -> bytes:
    """
    Set the headers for a document.

    :param media_type: is sent as it is, without a charset.
    :return: ``body``, to be written.
    """
    set_headers(
        request,
        {b"Content-Type": media_type.encode("ascii"), b"Content-Length": b"%d" % len(body)},
    )
    return body


def answer_unchanged(request: Request, digest: Digest) -> bool:
    """Answer with a 304 if the client has this content already; :return: true if it has."""
    values = request.requestHeaders.getRawHeaders(b"If-None-Match")
    if values is None or not is_unchanged(values, digest):
        return False
    request.setResponseCode(304)
    identify(request, digest)
    return True


def describe_blob(request: Request, info: BlobInfo, part: ByteRange | None) -> None:
    """Set status and headers for a blob, or for a part of it."""
    length = info.size
    if part is not None:
        length = part.stop - part.start
        request.setResponseCode(206)
        content_range = b"bytes %d-%d/%d" % (part.start, part.stop - 1, info.size)
        set_headers(request, {b"Content-Range": content_range})
    _describe_body(request, info, info.media_type, length)


def describe_parts(request: Request, info: BlobInfo, media_type: str, length: int) -> None:
    """
    Set status and headers for several parts of a blob.

    :param media_type: of the body, with its boundary.
    :param length: of the body, in bytes.
    """
    request.setResponseCode(206)
    _describe_body(request, info, media_type, length)


def _describe_body(request: Request, info: BlobInfo, media_type: str, length: int) -> None:
    identify(request, info.digest)
    set_headers(
        request,
        {
            b"Accept-Ranges": b"bytes",
            b"Content-Length": b"%d" % length,
            b"Content-Type": media_type.encode("ascii"),
        },
    )


def identify(request: Request, digest: Digest) -> None:
    """Set the headers that name content by its digest."""
    set_headers(
        request,
        {b"Docker-Content-Digest": digest.encode("ascii"), b"ETag": etag(digest)},
    )


def send_error(request: Request, problem: ErrorResponse) -> bytes:
    """Set status and headers for an error response; :return: the body."""
    set_status(request, problem.status)
    set_headers(request, problem.headers)
    # The id also finds the lines about this request in the log.
    reference = request_id(request) if problem.status >= 422 else ""
    return answer_with(request, "application/json", problem.body(reference))


def send_text_error(request: Request, status: int, message: str) -> bytes:
    """
    Set status and headers for an error in a line of text; :return: the body.

    :param message: a sentence for a person, without its full stop.
    """
    set_status(request, status)
    set_headers(request, {b"Cache-Control": b"no-store", b"X-Content-Type-Options": b"nosniff"})
    return answer_with(request, PLAIN_TEXT, f"{printable(message)}\n".encode("utf-8", "replace"))


def set_status(request: Request, status: int) -> None:
    """Set the status, with a reason phrase."""
    # Twisted has none for 422, and of a 5xx Docker, podman and skopeo show nothing but the phrase.
    phrase = _PHRASES.get(status, HTTPStatus(status).phrase)
    request.setResponseCode(status, phrase.encode("ascii"))


def request_id(request: Request) -> str:
    """Return the id of a request in the log and in its response; empty if it has none."""
    return getattr(request, "id", "")


def set_headers(request: Request, headers: Mapping[bytes, bytes]) -> None:
    """Set headers of the response."""
    for name, value in headers.items():
        request.responseHeaders.setRawHeaders(name, [value])


def client_disconnected(request: Request) -> bool:
    """
    Tell whether the client of an unfinished request has disconnected.  Such a request
    cannot be used any more; most of its methods fail.
    """
    return request.channel is None
