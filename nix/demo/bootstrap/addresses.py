"""Parses the addresses that a registry is told to listen on, and checks whether they are free."""

from __future__ import annotations

import errno
import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address

__all__ = ["Address", "loopback", "parse_endpoint"]


@dataclass(frozen=True)
class Address:
    """
    A TCP port that is listened on.

    :param host: an address; empty for every interface.
    :param port: its number.
    """

    host: str
    port: int

    @property
    def everywhere(self) -> bool:
        """Tell whether every interface of the machine is meant."""
        try:
            return not self.host or ip_address(self.host).is_unspecified
        except ValueError:
            return False

    @property
    def registry(self) -> str:
        """The host that clients on this machine write before an image's name."""
        if self.everywhere or self.host == "127.0.0.1":
            return f"localhost:{self.port}"
        return str(self)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def describe(self) -> str:
        """Format the address for a sentence."""
        return f"port {self.port} of every interface" if self.everywhere else str(self)

    def problem(self) -> str | None:
        """Return the reason why the address cannot be listened on now, if there is one."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the registry does it: recently closed connections do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
                probe.listen()
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return f"{self.describe()} is in use by another program"
                return f"{self.describe()} cannot be listened on ({error.strerror or error})"
        return None


def loopback(port: int) -> str:
    """Return the endpoint string of a port that only this machine reaches."""
    return f"tcp:{port}:interface=127.0.0.1"


def parse_endpoint(text: str) -> Address | None:
    r"""
    Parse the address in an endpoint string of Twisted's.

    :param text: ``tcp:8080:interface=127.0.0.1``, with ``\:`` for a colon inside a value.
    :return: ``None`` if it is no TCP port of fixed number.
    """
    kind, *rest = (
        re.sub(r"\\(.)", r"\1", part) for part in re.split(r"(?<!\\):", text.removeprefix("plain:"))
    )
    if kind not in {"tcp", "tcp6", "ssl"}:
        return None
    named = dict(part.split("=", 1) for part in rest if "=" in part)
    positional = [part for part in rest if "=" not in part]
    port = named.get("port") or (positional[0] if positional else "")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        return None
    host = named.get("interface", "::" if kind == "tcp6" else "")
    return Address(host, int(port))
