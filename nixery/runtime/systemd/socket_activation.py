"""
Takes over sockets that were opened before the daemon was started, and passed to it.

systemd does so for a socket unit: ports below 1024 need no privilege then, and clients
that connect while the daemon is restarted wait instead of being refused.

Twisted looks for them when it is imported, and removes their number from the environment: so
Twisted is asked for one after the other, until there is none.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from itertools import count

from twisted.internet.endpoints import serverFromString

from nixery.runtime.endpoint_strings import url_host

__all__ = ["passed_address", "passed_endpoints"]

_DOMAINS = {
    socket.AF_INET: "INET",
    socket.AF_INET6: "INET6",
    socket.AF_UNIX: "UNIX",
}


def _family(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as passed:
        return passed.family


def _descriptor(index: int) -> int | None:
    """Return the descriptor of a socket that was passed; ``None`` if there are not so many."""
    try:
        # The endpoint is not given a reactor; only its descriptor is read.
        endpoint = serverFromString(None, f"systemd:domain=INET:index={index}")
    except LookupError:
        return None
    descriptor: int = endpoint.fileno
    return descriptor


def passed_address(text: str) -> str | None:
    """
    Return the address of a socket that was passed, by its endpoint string.

    :return: host and port, or a path; ``None`` if the endpoint is not such a socket.
    """
    if not text.startswith("systemd:"):
        return None
    try:
        descriptor = serverFromString(None, text).fileno
        with socket.socket(fileno=os.dup(descriptor)) as passed:
            name = passed.getsockname()
    except (LookupError, OSError, ValueError):
        return None
    if not isinstance(name, tuple):
        return os.fsdecode(name)
    host, port, *_ = name
    return f"{url_host(host)}:{port}"


def passed_endpoints(
    *,
    descriptor: Callable[[int], int | None] = _descriptor,
    family: Callable[[int], int] = _family,
) -> tuple[str, ...]:
    """
    Return endpoint strings for the sockets that were passed to this process.

    :param descriptor: the number of the socket with an index.
    :param family: the address family of a descriptor.  Raises :class:`OSError`.
    """
    found: list[str] = []
    for index in count():
        number = descriptor(index)
        if number is None:
            return tuple(found)
        try:
            domain = _DOMAINS.get(socket.AddressFamily(family(number)))
        except (OSError, ValueError):
            continue
        if domain is not None:
            found.append(f"systemd:domain={domain}:index={index}")
    raise AssertionError("unreachable")
