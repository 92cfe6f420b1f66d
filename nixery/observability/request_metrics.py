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

CLIENT_CLOSED_REQUEST = 499
"""The status, as in nginx, of a request whose client disconnected before its answer."""

OTHER_ROUTE = "other"

_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})

_REPOSITORY_ROUTES = {
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

    :param metrics: the metrics to count in.
    :param page_segments: returns the first segments of the paths other than ``v2``; called again
        for each segment that is not yet known to be one.
    """

    def __init__(self, metrics: Metrics, page_segments: Callable[[], Collection[bytes]]) -> None:
        self._metrics = metrics
        self._page_segments = page_segments
        self._request_counters: dict[tuple[str, bytes, int], Counter] = {}
        self._route_metrics: dict[str, tuple[Histogram, Counter]] = {}

    def record(self, request: EndedRequest, seconds: float) -> None:
        """
        Count a request that has ended.

        :param seconds: its duration.
        """
        route = route_of(request.path, self._page_segments)
        method = request.method if request.method in _METHODS else b"other"
        key = route, method, CLIENT_CLOSED_REQUEST if request.aborted else request.code
        counter = self._request_counters.get(key)
        if counter is None:
            counter = self._request_counters[key] = self._metrics.requests.labels(
                route, method.decode("ascii"), str(key[2])
            )
        counter.inc()
        route_metrics = self._route_metrics.get(route)
        if route_metrics is None:
            route_metrics = self._route_metrics[route] = (
                self._metrics.request_seconds.labels(route),
                self._metrics.response_bytes.labels(route),
            )
        route_metrics[0].observe(seconds)
        route_metrics[1].inc(request.sentLength)


def route_of(path: bytes, page_segments: Callable[[], Collection[bytes]]) -> str:
    """
    Return the template of the route that a path belongs to, one of some dozen texts.

    The path is read as :mod:`nixery.http.routes` lists it, from the right end, but not
    parsed into values: a path that is refused has a route as well.
    """
    if path.startswith(b"/v2/"):
        before, _, last = path.rpartition(b"/")
        kind = before[before.rfind(b"/") + 1 :]
        if kind == b"manifests":
            return "/v2/{name}/manifests/" + ("{digest}" if b":" in last else "{tag}")
        if not last and before == b"/v2":
            return "/v2/"
        return _REPOSITORY_ROUTES.get(kind, "/v2/other")
    first = path[1:].partition(b"/")[0]
    if first == b"v2":
        return "/v2/"
    return "/" + first.decode("ascii") if first in page_segments() else OTHER_ROUTE
