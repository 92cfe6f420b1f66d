"""
Answer ``/api/estimate/NAME?tag=TAG&with=NAME:TAG``: the price of an image before it is pulled, as
JSON.

Nothing is built.  The estimate ends when its client leaves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.web.server import Request

from nixery.errors import NixeryError
from nixery.http.client_address import client_keys
from nixery.http.error_responses import error_response
from nixery.http.responses import answer_with, client_disconnected, set_headers
from nixery.http.ui.image_reference import ImageReferences
from nixery.http.ui.query import argument
from nixery.http.visibility import VisibilityRules
from nixery.image.names import ImageName, Tag, parse_tag
from nixery.inspection.errors import ImageNotPulled
from nixery.inspection.estimate import Estimate, Held

__all__ = ["EstimatePage", "Estimator"]

_NOTHING: Mapping[str, object] = {
    "image": None,
    "tag": None,
    "revision": None,
    "with": None,
    "ready": None,
    "platforms": [],
}


class Estimator(Protocol):
    """Estimates the price of images."""

    async def estimate(
        self,
        client: str,
        name: ImageName,
        tag: Tag,
        having: Held | None = None,
        *,
        may_see: Callable[[str], bool],
    ) -> Estimate:
        """As :meth:`nixery.inspection.estimator.Estimator.estimate`."""


class EstimatePage:
    """
    Serves estimates.

    :param estimator: makes them.
    :param visibility: decides which images a client may see.
    :param references: parses the names of images.
    """

    def __init__(
        self, estimator: Estimator, visibility: VisibilityRules, references: ImageReferences
    ) -> None:
        self._estimator = estimator
        self._visibility = visibility
        self._references = references

    async def answer(self, request: Request, repository: str) -> bytes | None:
        """Answer with the estimate of the image that a path names."""
        found: Mapping[str, object]
        status = 200
        try:
            estimate = await self._estimate(request, repository)
        except NixeryError as error:
            if client_disconnected(request):
                return None
            problem = error_response(error)
            set_headers(request, problem.headers)
            status, found = problem.status, {"error": problem.message, **_NOTHING}
        else:
            if estimate is None:
                status = 403
                found = {"error": "one of these packages is not for you", **_NOTHING}
            else:
                found = {"error": None, **estimate.json()}
        if client_disconnected(request):
            return None
        request.setResponseCode(status)
        set_headers(request, {b"Cache-Control": b"no-store", b"X-Content-Type-Options": b"nosniff"})
        return answer_with(request, "application/json", json.dumps(found).encode("ascii") + b"\n")

    async def _estimate(self, request: Request, repository: str) -> Estimate | None:
        """
        Return the estimate; ``None`` if the client may not see the image.

        :raises NixeryError: the query is malformed, or the image cannot be evaluated.
        """

        def may_see(name: str) -> bool:
            return self._visibility.may_see(request, name)

        name = self._references.parse_name(repository)
        tag = parse_tag(argument(request, b"tag").strip() or "latest")
        if not may_see(name.repository):
            return None
        having = None
        if text := argument(request, b"with").strip():
            having = Held(*self._references.parse(text))
            # Answered as one that was never pulled: that it exists is not for this client.
            if not may_see(having.name.repository):
                raise ImageNotPulled(image=having.label)
        # The user before the address, which is that of the client of a trusted proxy.
        client = client_keys(request)[-1]
        return await self._estimator.estimate(client, name, tag, having, may_see=may_see)
