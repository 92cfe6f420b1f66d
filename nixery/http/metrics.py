"""
Serve the daemon's metrics to Prometheus at ``/metrics``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.web.resource import Resource
from twisted.web.server import Request

from nixery.errors import ShuttingDown
from nixery.http.coroutine_resource import CoroutineResource
from nixery.http.responses import (
    PLAIN_TEXT,
    answer_with,
    client_disconnected,
    send_method_error,
    set_headers,
)

__all__ = ["metrics_page"]


def metrics_page(expose: Callable[[str], Awaitable[tuple[str, bytes]]]) -> Resource:
    """
    Make the resource for the page.

    :param expose: takes the ``Accept`` header, and returns the page's media type and bytes.
    """

    async def answer(request: Request) -> bytes | None:
        set_headers(
            request,
            {
                b"Cache-Control": b"no-store",
                b"Vary": b"Accept",
                b"X-Content-Type-Options": b"nosniff",
            },
        )
        misuse = send_method_error(request)
        if misuse is not None:
            return misuse
        accept = request.requestHeaders.getRawHeaders(b"Accept", [])
        try:
            media_type, body = await expose(b",".join(accept).decode("latin-1"))
        except ShuttingDown:
            request.setResponseCode(503)
            media_type, body = PLAIN_TEXT, b"the daemon stops\n"
        return None if client_disconnected(request) else answer_with(request, media_type, body)

    return CoroutineResource(answer)
