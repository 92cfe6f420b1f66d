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
        "the file of the certificate, then its authorities: ports then speak TLS",
        requires=("tls_key", ANY_VALUE),
    )
    tls_key: Path | None = setting(
        types.PATH,
        "the file of the certificate's private key",
        requires=("tls_certificate", ANY_VALUE),
    )
