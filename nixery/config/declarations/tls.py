"""Settings of TLS."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from nixery.config import types
from nixery.config.setting import ANY_VALUE, setting

__all__ = ["TLSConfig"]


@frozen(kw_only=True)
class TLSConfig:
    """Settings of TLS."""

    tls_certificate: Path | None = setting(
        types.PATH,
        "certificate file, with its intermediate authorities: ports then speak TLS",
        requires=("tls_key", ANY_VALUE),
    )
    tls_key: Path | None = setting(
        types.PATH,
        "private key file of the certificate",
        requires=("tls_certificate", ANY_VALUE),
    )
