"""
Answer requests that failed: typed errors, unexpected exceptions, unknown paths and methods.

The registry API and the token endpoint answer with the JSON of the OCI distribution
specification; all other paths with a page for browsers, and a line of text for other clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

from twisted.internet.defer import CancelledError
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.web.server import Request
from werkzeug.exceptions import MethodNotAllowed, NotFound

from nixery.errors import NixeryError, ShuttingDown
from nixery.http.error_responses import (
    ErrorResponse,
    error_response,
    internal_error_response,
    log_text,
)
from nixery.http.registry.errors import FailedPull
from nixery.http.responses import request_id, send_error, send_text_error, set_headers
from nixery.http.server import first_segment
from nixery.http.ui.image_link import find_image_link
from nixery.http.ui.pages import Pages

__all__ = ["answer_failure"]

_log = Logger()

_JSON = frozenset({b"v2", b"token"})
"""The first segments of paths whose errors are JSON."""

_NOT_ALLOWED: Mapping[bytes, str] = {
    b"v2": "this registry builds its images itself: nothing can be pushed to it or deleted",
    b"token": "tokens are fetched with GET, or with POST and a form",
}

_NOT_FOUND: Mapping[bytes, str] = {b"v2": "the registry API has no such path"}


def answer_failure(request: Request, failure: Failure, pages: Pages | None = None) -> bytes:
    """
    Set status and headers for a request that failed; :return: the body.

    :param failure: a typed error; an exception of werkzeug's; a cancellation, which means that
        the daemon stops, since the client still waits; or any other exception, which is logged.
    :param pages: renders errors for browsers; ``None``: they get a line of text as well.
    """
    segment = first_segment(request)
    response = _response(request, failure, segment)
    if segment in _JSON:
        return send_error(request, response)
    set_headers(request, response.headers)
    if pages is None:
        return send_text_error(request, response.status, response.message)
    image = find_image_link(request.path) if failure.check(NotFound) else None
    return pages.error(request, response.status, response.message, image)


def _response(request: Request, failure: Failure, segment: bytes) -> ErrorResponse:
    match failure.value:
        case FailedPull(error=error, build_url=url):
            return _typed(request, error, url)
        case NixeryError() as error:
            return _typed(request, error)
        case CancelledError():
            return _typed(request, ShuttingDown())
        case MethodNotAllowed(valid_methods=methods):
            return ErrorResponse(
                status=405,
                code="UNSUPPORTED",
                message=_NOT_ALLOWED.get(segment, "this page can only be read"),
                headers={b"Allow": ", ".join(sorted(methods or ())).encode("ascii")},
            )
        case NotFound():
            return ErrorResponse(
                status=404,
                code="UNSUPPORTED",
                message=_NOT_FOUND.get(segment, "there is nothing here"),
            )
    # The request's id, where it has one, also finds its line in the log.
    reference = request_id(request) or uuid4().hex[:12]
    _log.failure(
        "{method} {path} failed (reference {reference})",
        failure,
        method=log_text(request.method),
        path=log_text(request.path),
        reference=reference,
    )
    return internal_error_response(reference)


def _typed(request: Request, error: NixeryError, build_url: str | None = None) -> ErrorResponse:
    response = error_response(error, build_url)
    if response.status >= 500:
        # A stop of the daemon is not an error, and has been logged already.
        level = LogLevel.info if isinstance(error, ShuttingDown) else LogLevel.error
        _log.emit(
            level,
            "{method} {path} is answered with {status}: {error!r}",
            method=log_text(request.method),
            path=log_text(request.path),
            status=response.status,
            error=error,
        )
    return response
