"""Which endpoints speak TLS, by their strings."""

from __future__ import annotations

__all__ = ["PLAIN", "speaks_tls"]

PLAIN = "plain:"
"""What an endpoint's string begins with that is not to speak TLS."""

_OWN_WAY = ("ssl:", "unix:", PLAIN)


def speaks_tls(text: str) -> bool:
    """
    Whether the endpoint of a string becomes one with TLS, where there is a certificate.

    ``ssl:`` has one of its own, and sockets of the file system stay on this machine.
    """
    return not text.startswith(_OWN_WAY) and "domain=UNIX" not in text.split(":")
