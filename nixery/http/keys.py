"""
Serve the public key that verifies the signatures of images.
"""

from __future__ import annotations

from twisted.web.server import Request

from nixery.http.responses import PLAIN_TEXT, answer_with, set_headers

__all__ = ["PublicKeyPage"]


class PublicKeyPage:
    """
    Serves the public key.

    :param pem: SubjectPublicKeyInfo in PEM.
    """

    def __init__(self, pem: bytes) -> None:
        self._pem = pem

    async def show(self, request: Request) -> bytes:
        """Answer with the key; it may be another one after a restart."""
        set_headers(request, {b"Cache-Control": b"no-cache"})
        return answer_with(request, PLAIN_TEXT, self._pem)
