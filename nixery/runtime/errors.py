"""
Errors of starting the daemon (ports, certificates, state and installed files), and of downloads.
"""

from __future__ import annotations

import errno
import os
import re

from attrs import frozen

from nixery.errors import NixeryError, UnusableFile

__all__ = [
    "CertificateUnusable",
    "FetchFailed",
    "ListeningFailed",
    "ResourceMissing",
    "StateDirectoryLocked",
]


_TCP_PORT = re.compile(r"\b(?:tcp6?|ssl):(?:port=)?(\d+)")
"""The port in an endpoint's string."""


@frozen(kw_only=True)
class ListeningFailed(NixeryError):
    """An endpoint that cannot be listened on, usually because another program does."""

    endpoint: str
    reason: str

    @property
    def message(self) -> str:
        port = _TCP_PORT.search(self.endpoint)
        if port is not None and self.reason == os.strerror(errno.EADDRINUSE):
            return (
                f"port {port[1]} is already in use: stop the program that uses it, or choose"
                " another port with --port or --listen"
            )
        return (
            f"cannot listen on {self.endpoint}: {self.reason};"
            " choose another address with --port or --listen"
        )


class CertificateUnusable(UnusableFile):
    """The TLS certificate, or its key, cannot be used for clients."""

    problem = "cannot use {path} for TLS"
    advice = "tls_certificate and tls_key name the files"


@frozen(kw_only=True)
class StateDirectoryLocked(NixeryError):
    """Another daemon uses the state directory."""

    directory: str

    @property
    def message(self) -> str:
        return (
            f"another process uses the state directory {self.directory}: stop it, or give this one"
            " a directory of its own (state_directory, --state-directory)"
        )


@frozen(kw_only=True)
class ResourceMissing(NixeryError):
    """Files that belong to the program are missing where it was installed."""

    name: str
    places: tuple[str, ...]

    @property
    def message(self) -> str:
        return (
            f"the installation is incomplete: its {self.name} files are not in"
            f" {' or '.join(self.places)}; install the package again"
        )


@frozen(kw_only=True)
class FetchFailed(NixeryError):
    """
    A URL could not be fetched.

    :param url: the URL, without any secrets in it.
    :param status: the HTTP status of the answer, ``None`` if there was none.
    :param retry_after: seconds after which the server asks for a retry.
    :param temporary: whether another attempt may succeed.
    """

    url: str
    reason: str
    status: int | None = None
    retry_after: float | None = None
    temporary: bool = True

    @property
    def message(self) -> str:
        return f"{self.url} could not be fetched: {self.reason}"
