"""
The root of everything that is served: the registry API, pages, and whatever else has
a place of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from twisted.web.resource import Resource
from twisted.web.server import Request

from nixery.http.responses import PLAIN_TEXT, answer_with, set_headers

__all__ = ["make_root"]


def make_root(
    registry: Resource,
    *,
    children: Mapping[str, Resource] = MappingProxyType({}),
    missing: Resource | None = None,
) -> Resource:
    """
    The root of the resource tree.

    :param registry: what answers under ``/v2``.
    :param children: what answers elsewhere, by the first segment of its path; the
        root itself is the empty one.
    :param missing: answers for all other paths; a plain line by default.
    """
    root = _Root(missing or _Missing())
    root.putChild(b"v2", registry)
    for segment, child in children.items():
        root.putChild(segment.encode("ascii"), child)
    return root


class _Root(Resource):
    """A resource that has no children but those it was given."""

    def __init__(self, missing: Resource) -> None:
        super().__init__()
        self._missing = missing

    def getChild(self, _path: bytes, _request: Request) -> Resource:  # noqa: N802
        return self._missing


class _Missing(Resource):
    """Says that there is nothing, in a line."""

    def __init__(self) -> None:
        super().__init__()
        self.isLeaf = True

    def render(self, request: Request) -> bytes:
        request.setResponseCode(404)
        set_headers(request, {b"X-Content-Type-Options": b"nosniff"})
        body = answer_with(request, PLAIN_TEXT, b"not found\n")
        # Twisted makes a note in the log of a body that it has to drop.
        return b"" if request.method == b"HEAD" else body
