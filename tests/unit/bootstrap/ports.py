"""Ports that are taken."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

__all__ = ["taken_port"]


@contextlib.contextmanager
def taken_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that has a listener."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        listener.listen()
        yield listener.getsockname()[1]
