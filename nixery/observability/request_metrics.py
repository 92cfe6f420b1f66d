"""
Records metrics of requests: by route, method and status.

A cached manifest is answered in a fraction of a millisecond, and each request is counted here: the
counters are found by one key in a dictionary, which costs microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from prometheus_client import Counter, Histogram

from nixery.observability.metrics import Metrics

__all__ = ["EndedRequest", "RequestMeter", "route_of"]

CLIENT_LEFT = 499
"""The status, as in nginx, of a request whose client disconnected before its answer."""

OTHER = "other"

_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})

_UNDER_NAME = {
    b"blobs": "/v2/{name}/blobs/{digest}",
    b"referrers": "/v2/{name}/referrers/{digest}",
    b"tags": "/v2/{name}/tags/list",
}


class EndedRequest(Protocol):
    """The interface of a request that has ended."""

    @property
    def method(self) -> bytes:
        """The method as the client sent it."""

    @property
    def path(self) -> bytes:
        """The path as the client sent it, without its query."""

    @property
    def code(self) -> int:
        """The status of the answer."""

    @property
    def sentLength(self) -> int:  # noqa: N802  # Twisted's name
        """The number of body bytes that were sent."""

    @property
    def aborted(self) -> bool:
        """True if the connection was lost before the answer was complete."""


class RequestMeter:
    """
    Counts requests.

    :param measures: the metrics to count in.
    :param pages: returns the first segments of the paths other than ``v2``; called again for each
        segment that is not yet known to be one.
    """

    def __init__(self, measures: Metrics, pages: Callable[[], Collection[bytes]]) -> None:
        self._measures = measures
        self._pages = pages
        self._answers: dict[tuple[str, bytes, int], Counter] = {}
        self._routes: dict[str, tuple[Histogram, Counter]] = {}

    def ended(self, request: EndedRequest, seconds: float) -> None:
        """
        Count a request that has ended.

        :param seconds: its duration.
        """
        route = route_of(request.path, self._pages)
        method = request.method if request.method in _METHODS else b"other"
        key = route, method, CLIENT_LEFT if request.aborted else request.code
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answers[key] = self._measures.requests.labels(
                route, method.decode("ascii"), str(key[2])
            )
        answer.inc()
        of_route = self._routes.get(route)
        if of_route is None:
            of_route = self._routes[route] = (
                self._measures.request_seconds.labels(route),
                self._measures.response_bytes.labels(route),
            )
        of_route[0].observe(seconds)
        of_route[1].inc(request.sentLength)


def route_of(path: bytes, pages: Callable[[], Collection[bytes]]) -> str:
    """
    Return the template of the route that a path belongs to, one of some dozen texts.

    The path is read as :mod:`nixery.http.registry.paths` reads it, from the right end, but not
    parsed into values: a path that is refused has a route as well.
    """
    if path.startswith(b"/v2/"):
        before, _, last = path.rpartition(b"/")
        kind = before[before.rfind(b"/") + 1 :]
        if kind == b"manifests":
            return "/v2/{name}/manifests/" + ("{digest}" if b":" in last else "{tag}")
        if not last and before == b"/v2":
            return "/v2/"
        return _UNDER_NAME.get(kind, "/v2/other")
    first = path[1:].partition(b"/")[0]
    if first == b"v2":
        return "/v2/"
    return "/" + first.decode("ascii") if first in pages() else OTHER
