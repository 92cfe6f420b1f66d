"""Read the query parameters of pages."""

from __future__ import annotations

from twisted.web.server import Request

__all__ = ["argument", "number"]

MAX_DIGITS = 9
"""The most digits of a number that counts: very many take long to convert."""


def argument(request: Request, name: bytes) -> str:
    """Return the last value of a query parameter; empty where there is none."""
    values: list[bytes] = (request.args or {}).get(name, [b""])
    return values[-1].decode("utf-8", "replace")


def number(request: Request, name: bytes, default: int = 1) -> int:
    """Return the value of a query parameter; ``default`` where it is no number, or a huge one."""
    text = argument(request, name)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else default
