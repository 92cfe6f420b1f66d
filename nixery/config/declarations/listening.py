"""Settings of the addresses: where the daemon listens, TLS, and the URL that clients use."""

from __future__ import annotations

from nixery.config import types
from nixery.config.setting import ANY_VALUE, Setting

__all__ = ["LISTENING_SETTINGS"]

LISTENING_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="listen",
        kind=types.ENDPOINTS,
        help="where to listen: Twisted endpoint strings (TCP, TLS, UNIX, systemd sockets)",
        default=("tcp:8080:interface=127.0.0.1",),
        default_text="tcp:8080:interface=127.0.0.1",
        group="listening",
    ),
    Setting(
        name="port",
        kind=types.integer(1, 65535),
        help="listen on this TCP port of every interface",
        variable="PORT",
        group="listening",
    ),
    Setting(
        name="tls_certificate",
        kind=types.PATH,
        help="the file of the certificate, then its authorities: ports then speak TLS",
        requires=("tls_key", ANY_VALUE),
    ),
    Setting(
        name="tls_key",
        kind=types.PATH,
        help="the file of the certificate's private key",
        requires=("tls_certificate", ANY_VALUE),
    ),
    Setting(
        name="public_url",
        kind=types.BASE_URL,
        help="how clients reach this registry: the base of links and pull commands",
        default_text="the address that is listened on",
    ),
)
