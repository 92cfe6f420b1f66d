"""
Build the root of the resource tree: the registry API, pages, and the other resources,
each under its own first path segment.
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
    Make the root of the resource tree.

    :param registry: the resource for ``/v2``.
    :param children: the other resources, by the first segment of their paths; the empty
        segment is the root page itself.
    :param missing: answers all other paths; a line of plain text by default.
    """
    root = _Root(missing or _Missing())
    root.putChild(b"v2", registry)
    for segment, child in children.items():
        root.putChild(segment.encode("ascii"), child)
    return root


class _Root(Resource):
    """A resource that answers all unknown paths with the same child."""

    def __init__(self, missing: Resource) -> None:
        super().__init__()
        self._missing = missing

    def getChild(self, _path: bytes, _request: Request) -> Resource:  # noqa: N802
        return self._missing


class _Missing(Resource):
    """Answers with a 404, in a line of plain text."""

    def __init__(self) -> None:
        super().__init__()
        self.isLeaf = True

    def render(self, request: Request) -> bytes:
        request.setResponseCode(404)
        set_headers(request, {b"X-Content-Type-Options": b"nosniff"})
        body = answer_with(request, PLAIN_TEXT, b"not found\n")
        # Twisted logs a message for a body that it has to drop.
        return b"" if request.method == b"HEAD" else body
