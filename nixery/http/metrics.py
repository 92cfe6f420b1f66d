"""
Serve the daemon's metrics to Prometheus at ``/metrics``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.web.server import Request

from nixery.http.responses import answer_with, set_headers

__all__ = ["MetricsPage"]


class MetricsPage:
    """
    The page of metrics.

    :param expose: takes the ``Accept`` header, and returns the page's media type and bytes.
    """

    def __init__(self, expose: Callable[[str], Awaitable[tuple[str, bytes]]]) -> None:
        self._expose = expose

    async def show(self, request: Request) -> bytes:
        """Answer a request."""
        set_headers(
            request,
            {
                b"Cache-Control": b"no-store",
                b"Vary": b"Accept",
                b"X-Content-Type-Options": b"nosniff",
            },
        )
        accept = request.requestHeaders.getRawHeaders(b"Accept", [])
        media_type, body = await self._expose(b",".join(accept).decode("latin-1"))
        return answer_with(request, media_type, body)
