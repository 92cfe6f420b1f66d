"""
Serve ``/healthz`` and ``/readyz`` to monitors and load balancers.

The daemon is healthy if it answers at all: a fault that a restart would not mend must not
cause one.  It is ready if it can build and serve images, that is, if its dependencies can
be used too.  Faults are listed, a line each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twisted.internet.defer import CancelledError
from twisted.web.resource import Resource
from twisted.web.server import Request

from nixery.http.coroutine_resource import CoroutineResource
from nixery.http.error_responses import printable
from nixery.http.responses import (
    PLAIN_TEXT,
    answer_with,
    client_disconnected,
    send_method_error,
    set_headers,
)

__all__ = ["health_page"]


def health_page(
    find_faults: Callable[[], Awaitable[Sequence[str]]],
    tells: Callable[[Request], bool] = lambda _: True,
) -> Resource:
    """
    Make a page that says ``ok``, or lists the faults.

    :param find_faults: returns the present faults, a sentence each; does not fail.
    :param tells: true if the client of a request may read the faults; others are told
        only that there is one.
    """

    async def answer(request: Request) -> bytes | None:
        set_headers(
            request,
            {
                b"Cache-Control": b"no-store",
                b"Content-Security-Policy": b"default-src 'none'",
                b"X-Content-Type-Options": b"nosniff",
            },
        )
        misuse = send_method_error(request)
        if misuse is not None:
            return misuse
        try:
            faults = await find_faults()
        except CancelledError:
            if client_disconnected(request):
                raise
            faults = ["the daemon stops"]
        if not faults:
            return answer_with(request, PLAIN_TEXT, b"ok\n")
        request.setResponseCode(503)
        if not tells(request):
            return answer_with(request, PLAIN_TEXT, b"not ready\n")
        lines = (printable(fault).replace("\n", "\n  ") + "\n" for fault in faults)
        return answer_with(request, PLAIN_TEXT, "".join(lines).encode("utf-8", "replace"))

    return CoroutineResource(answer)
