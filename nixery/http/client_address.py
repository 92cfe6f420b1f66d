"""
Who sends a request: the address of the client, and all that stands for it where something
is counted.

It is found out once for each request, and only if somebody wants to know.  A peer that is
a trusted proxy speaks for others; see :mod:`nixery.limits.addresses`.
"""

from __future__ import annotations

from twisted.web.server import Request

from nixery.http.server import LoggedRequest
from nixery.limits.addresses import LOCAL, origin_of

__all__ = ["client_address", "client_keys"]


def client_address(request: Request) -> str:
    """The client's address; the same for all of a UNIX socket."""
    if isinstance(request, LoggedRequest):
        return request.visitor_address
    return getattr(request.client, "host", None) or LOCAL


def client_keys(request: Request) -> tuple[str, ...]:
    """What a client is counted by: its address, and its user if one has logged in."""
    if isinstance(request, LoggedRequest):
        return request.visitor_keys
    return (origin_of(client_address(request)),)
