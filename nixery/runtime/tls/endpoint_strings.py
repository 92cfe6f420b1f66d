"""Tells by its string whether an endpoint uses TLS."""

from __future__ import annotations

__all__ = ["PLAIN", "speaks_tls"]

PLAIN = "plain:"
"""The prefix of the string of an endpoint that is not to use TLS."""

_OWN_WAY = ("ssl:", "unix:", PLAIN)


def speaks_tls(text: str) -> bool:
    """
    Tell whether the endpoint of a string is wrapped in TLS, where there is a certificate.

    An ``ssl:`` endpoint has a certificate of its own, and UNIX sockets stay on this machine.
    """
    return not text.startswith(_OWN_WAY) and "domain=UNIX" not in text.split(":")
