"""
Serve ``/healthz`` and ``/readyz`` to monitors and load balancers.

The daemon is healthy if it answers at all: a fault that a restart does not fix must not
cause one.  It is ready if it can build and serve images, that is, if its dependencies can
be used too.  Faults are listed, a line each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twisted.web.server import Request

from nixery.http.error_responses import printable
from nixery.http.responses import PLAIN_TEXT, answer_with, set_headers

__all__ = ["HealthPage"]


class HealthPage:
    """
    A page that says ``ok``, or lists the faults.

    :param find_faults: returns the present faults, a sentence each; does not fail.
    :param tells: true if the client of a request may read the faults; others are told
        only that there is one.
    """

    def __init__(
        self,
        find_faults: Callable[[], Awaitable[Sequence[str]]],
        tells: Callable[[Request], bool] = lambda _: True,
    ) -> None:
        self._find_faults = find_faults
        self._tells = tells

    async def show(self, request: Request) -> bytes:
        """Answer a request."""
        set_headers(
            request,
            {
                b"Cache-Control": b"no-store",
                b"Content-Security-Policy": b"default-src 'none'",
                b"X-Content-Type-Options": b"nosniff",
            },
        )
        faults = await self._find_faults()
        if not faults:
            return answer_with(request, PLAIN_TEXT, b"ok\n")
        request.setResponseCode(503)
        if not self._tells(request):
            return answer_with(request, PLAIN_TEXT, b"not ready\n")
        lines = (printable(fault).replace("\n", "\n  ") + "\n" for fault in faults)
        return answer_with(request, PLAIN_TEXT, "".join(lines).encode("utf-8", "replace"))
