"""
Sockets that were opened before the daemon was started, and passed to it.

systemd does so for a socket unit: ports below 1024 need no privilege then, and clients
that connect while the daemon is restarted wait instead of being refused.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

__all__ = ["passed_endpoints"]

_FIRST = 3
"""The descriptor of the first of them; see sd_listen_fds(3)."""

_DOMAINS = {
    socket.AF_INET: "INET",
    socket.AF_INET6: "INET6",
    socket.AF_UNIX: "UNIX",
}


def _family(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as passed:
        return passed.family


def passed_endpoints(
    environ: Mapping[str, str],
    *,
    pid: int | None = None,
    family: Callable[[int], int] = _family,
) -> tuple[str, ...]:
    """
    Endpoint strings for the sockets that were passed to this process.

    :param pid: of this process: what was passed to another one, and inherited from that,
        is not for us.
    :param family: the address family of a descriptor.  Raises :class:`OSError`.
    """
    if environ.get("LISTEN_PID") != str(os.getpid() if pid is None else pid):
        return ()
    count = environ.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdigit()):
        return ()
    found = []
    for index in range(int(count)):
        try:
            domain = _DOMAINS.get(socket.AddressFamily(family(_FIRST + index)))
        except (OSError, ValueError):
            continue
        if domain is not None:
            found.append(f"systemd:domain={domain}:index={index}")
    return tuple(found)
