"""Reads what endpoint strings of Twisted say: the address, and whether TLS is used."""

from __future__ import annotations

import re

__all__ = ["PLAIN", "describe_endpoint", "speaks_tls", "tcp_address", "url_host"]

PLAIN = "plain:"
"""The prefix of the string of an endpoint that is not to use TLS."""

_OWN_WAY = ("ssl:", "unix:", PLAIN)

_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104  # recognised, not listened on


def speaks_tls(text: str) -> bool:
    """
    Tell whether the endpoint of a string is wrapped in TLS, where there is a certificate.

    An ``ssl:`` endpoint has a certificate of its own, and UNIX sockets stay on this machine.
    """
    return not text.startswith(_OWN_WAY) and "domain=UNIX" not in text.split(":")


def tcp_address(text: str) -> tuple[str, int] | None:
    """
    Return the interface and the port of an endpoint; ``None`` if it is not one of TCP.

    :return: the interface is empty for all of them, and the port 0 for a free one.
    """
    kind, *fields = (
        field.replace("\\:", ":") for field in re.split(r"(?<!\\):", text.removeprefix(PLAIN))
    )
    if kind not in ("tcp", "tcp6", "ssl") or not fields:
        return None
    named = dict(field.split("=", 1) for field in fields if "=" in field)
    port = named.get("port", fields[0])
    interface = named.get("interface", "")
    return ("" if interface in _WILDCARDS else interface, int(port)) if port.isdigit() else None


def describe_endpoint(text: str, scheme: str) -> str:
    """
    Describe where an endpoint listens, for people.

    :param scheme: of the URLs that lead to it.
    """
    kind, _, rest = text.removeprefix(PLAIN).partition(":")
    if kind == "unix":
        return f"the UNIX socket {rest.partition(':')[0].removeprefix('address=')}"
    address = tcp_address(text)
    if address is None:
        return text
    interface, port = address
    number = f"port {port}" if port else "a free port"
    if not interface:
        return f"{scheme}, {number} of every interface"
    if not port:
        return f"{scheme}, {number} of {interface}"
    return f"{scheme}://{url_host(interface)}:{port}"


def url_host(host: str) -> str:
    """Return a host as it is written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
