"""Settings of the HTTP server: where it listens, and how clients reach it and wait."""

from __future__ import annotations

from urllib.parse import urlsplit

from attrs import frozen

from nixery.config import types, url_types
from nixery.config.setting import setting

__all__ = ["HTTPConfig"]


@frozen(kw_only=True)
class HTTPConfig:
    """
    Settings of the HTTP server: where it listens, and how clients reach it and wait.

    :param listen: endpoint strings, of ``listen`` or of ``port``, and those that were passed.
    """

    listen: tuple[str, ...] = setting(
        types.ENDPOINTS,
        "addresses to listen on: Twisted endpoint strings (TCP, TLS, UNIX, systemd sockets)",
        default=("tcp:8080:interface=127.0.0.1",),
        default_text="tcp:8080:interface=127.0.0.1",
        group="listening",
    )
    port: int | None = setting(
        types.integer(1, 65535),
        "TCP port to listen on, on every interface",
        variable="PORT",
        group="listening",
    )
    public_url: str | None = setting(
        url_types.BASE_URL,
        "URL at which clients reach this registry: the base of links and pull commands",
        default_text="the address that is listened on",
    )
    allowed_hosts: tuple[str, ...] = setting(
        types.HOSTS,
        "additional host names for the pages in browsers, as [nixery.lan, *.example]; *: any",
        default=(),
        default_text="none",
    )
    pull_wait_timeout: float = setting(
        types.SECONDS,
        "how long to hold a request before answering 429 (Docker's are always held)",
        default=25.0,
        aliases=("request_deadline",),
    )

    @property
    def public_host(self) -> str:
        """The host and the port in the public URL; empty if there is none."""
        return urlsplit(self.public_url or "").netloc
