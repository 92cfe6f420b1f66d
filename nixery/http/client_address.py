"""
Determine the address of a request's client, and the keys under which limits count it.

The address is computed once per request, on first use.  A peer that is a trusted proxy
forwards requests of other clients; see :mod:`nixery.limits.addresses`.
"""

from __future__ import annotations

from twisted.web.server import Request

from nixery.http.server import LoggedRequest
from nixery.limits.addresses import UNIX_SOCKET, client_key_of

__all__ = ["client_address", "client_keys"]


def client_address(request: Request) -> str:
    """Return the client's address; all clients of a UNIX socket share one."""
    if isinstance(request, LoggedRequest):
        return request.client_address
    return getattr(request.client, "host", None) or UNIX_SOCKET


def client_keys(request: Request) -> tuple[str, ...]:
    """Return the keys that a client is counted by: its address, and its user if logged in."""
    if isinstance(request, LoggedRequest):
        return request.client_keys
    return (client_key_of(client_address(request)),)
