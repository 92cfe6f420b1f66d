"""
Putting an answer on a request.

Twisted drops the body where the request is a HEAD or the status a 304: code that
sets the headers of a GET answers all of them alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from twisted.web.server import Request

from nixery.http.error_responses import ErrorResponse
from nixery.http.headers import etag, is_unchanged
from nixery.image.names import Digest
from nixery.storage.interface import BlobInfo, ByteRange

__all__ = [
    "PLAIN_TEXT",
    "answer_unchanged",
    "answer_with",
    "describe_blob",
    "client_disconnected",
    "identify",
    "send_error",
    "send_method_error",
    "request_id",
    "set_headers",
]

PLAIN_TEXT = "text/plain; charset=utf-8"


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
    """:return: whether the client has it already; the answer is then a 304."""
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
    identify(request, info.digest)
    set_headers(
        request,
        {
            b"Accept-Ranges": b"bytes",
            b"Content-Length": b"%d" % length,
            b"Content-Type": info.media_type.encode("ascii"),
        },
    )


def identify(request: Request, digest: Digest) -> None:
    """Set the headers that name content by its digest."""
    set_headers(
        request,
        {b"Docker-Content-Digest": digest.encode("ascii"), b"ETag": etag(digest)},
    )


def send_error(request: Request, problem: ErrorResponse) -> bytes:
    """Set status and headers for a problem; :return: the body."""
    # Twisted knows no name for 422, and some clients show nothing else.
    phrase = HTTPStatus(problem.status).phrase
    request.setResponseCode(problem.status, phrase.encode("ascii"))
    set_headers(request, problem.headers)
    # What is written in the log about it, too, is found by the id.
    reference = request_id(request) if problem.status >= 422 else ""
    return answer_with(request, "application/json", problem.body(reference))


def send_method_error(request: Request) -> bytes | None:
    """
    For a page that stands alone and can only be read.

    :return: the body of the 404 for a path below it, or of the 405 for another method,
        with status and headers set; None where the request is neither.
    """
    if request.postpath:
        request.setResponseCode(404)
        return answer_with(request, PLAIN_TEXT, b"not found\n")
    if request.method not in (b"GET", b"HEAD"):
        request.setResponseCode(405)
        set_headers(request, {b"Allow": b"GET, HEAD"})
        return answer_with(request, PLAIN_TEXT, b"this page can only be read\n")
    return None


def request_id(request: Request) -> str:
    """The id that the log and the client know a request by; empty where it has none."""
    return getattr(request, "id", "")


def set_headers(request: Request, headers: Mapping[bytes, bytes]) -> None:
    """Set headers of the answer."""
    for name, value in headers.items():
        request.responseHeaders.setRawHeaders(name, [value])


def client_disconnected(request: Request) -> bool:
    """
    Whether the client of a request that is not finished has gone.  Nothing can
    be asked of such a request; most of its methods fail.
    """
    return request.channel is None
