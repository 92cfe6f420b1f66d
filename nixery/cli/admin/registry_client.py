"""Sends requests to a running registry, for the commands that ask it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError

from nixery.cli.admin.arguments import read_password
from nixery.cli.errors import CommandRefused, WrongCall
from nixery.config.config import Config
from nixery.runtime.endpoint_strings import PLAIN, tcp_address, url_host
from nixery.runtime.errors import FetchFailed
from nixery.runtime.terminal import plain_text

__all__ = [
    "LOGIN_ADVICE",
    "RegistryClient",
    "RegistryResponse",
    "local_url",
    "make_client",
]

LOGIN_ADVICE = " (log in with --user and --password-file)"
"""The advice for an answer of 401."""

TRUST_ADVICE = (
    "its certificate is not trusted: set SSL_CERT_FILE to a PEM file with the authority that"
    " issued it"
)
"""The advice for a registry with a certificate of an authority of its own."""

_ADVICE = {
    "certificate verify failed": TRUST_ADVICE,
    "Connection refused": "connection refused: start the registry, or give its address with --url",
    "wrong version number": "the registry does not speak TLS there: write http:// in --url",
    "record layer failure": "the registry does not speak TLS there: write http:// in --url",
    "closed cleanly": "it closed the connection: if it speaks TLS, write https:// in --url",
    "DNS lookup failed": "there is no such host: give the address of the registry with --url",
}
"""Advice by texts in the errors of connections."""


@frozen(kw_only=True)
class RegistryResponse:
    """
    The answer of a registry.

    :param headers: the last value of each, by names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class RegistryClient:
    """
    Asks a registry with treq.

    :param base: the address of the registry, ``http://127.0.0.1:8080``.
    :param auth: user and password.
    """

    def __init__(self, base: str, auth: tuple[str, str] | None = None) -> None:
        self.base = base.rstrip("/")
        self._auth = auth

    async def get(self, path: str, accept: str, *, timeout: float = 120) -> RegistryResponse:
        """
        Send a GET.

        :param accept: the media types that the client takes.
        :param timeout: seconds until the answer begins.
        :raises FetchFailed: there was no answer.
        """
        import treq  # noqa: PLC0415  # takes a third of a second, and others need it not

        url = self.base + path
        headers: dict[bytes | str, bytes | str] = {"Accept": accept, "User-Agent": "nixery-admin"}
        try:
            response = await treq.get(url, headers=headers, auth=self._auth, timeout=timeout)
            body = await treq.content(response)
        except CancelledError:
            raise
        except Exception as error:  # treq documents none of them
            raise FetchFailed(url=url, reason=_reason(error)) from error
        return RegistryResponse(status=response.code, headers=_headers(response), body=body)


def make_client(config: Config, options: argparse.Namespace) -> RegistryClient:
    """
    Make the client for the options ``--url``, ``--user`` and ``--password-file``.

    :raises WrongCall: the address is no URL, or the password is missing.
    :raises CommandRefused: the address is not known, or the password cannot be read.
    """
    endpoints = [
        text.removeprefix(PLAIN)
        for text in config.http.listen
        # A certificate is valid for the name in the public URL.
        if config.tls.tls_certificate is None or text.startswith(PLAIN)
    ]
    base = options.url or local_url(endpoints, config.http.public_url)
    if base is None:
        raise CommandRefused(reason="the address of the registry is not configured: give --url")
    if not base.startswith(("http://", "https://")):
        raise WrongCall(reason=f"{base!r} is not a URL: write --url http://HOST:PORT")
    auth = None
    if options.user is not None:
        auth = options.user, read_password(options.password_file)
    return RegistryClient(base, auth)


def local_url(endpoints: Sequence[str], public_url: str | None) -> str | None:
    """Return the URL by which a daemon of this machine is reached; ``None`` if that is unknown."""
    for endpoint in endpoints:
        address = None if endpoint.startswith("ssl:") else tcp_address(endpoint)
        if address is not None and address[1]:
            host, port = address
            host = host or ("::1" if endpoint.startswith("tcp6:") else "127.0.0.1")
            return f"http://{url_host(host)}:{port}"
    return public_url


def _reason(error: Exception) -> str:
    """Return the cause of a failed request, without the types of the libraries around it."""
    # Twisted wraps the failures of a connection in a list, whose text is their representation.
    causes = [each.value for each in getattr(error, "reasons", None) or ()]
    text = "; ".join(plain_text(str(each)) or type(each).__name__ for each in causes or [error])
    for symptom, advice in _ADVICE.items():
        if symptom in text:
            return advice
    return text or type(error).__name__


def _headers(response: Any) -> Mapping[str, str]:  # treq has no types
    return {
        name.decode("ascii", "replace").lower(): values[-1].decode("utf-8", "replace")
        for name, values in response.headers.getAllRawHeaders()
    }
