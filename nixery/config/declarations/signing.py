"""Settings of signatures."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from nixery.config import types
from nixery.config.setting import ANY_VALUE, setting

__all__ = ["SigningConfig"]


@frozen(kw_only=True)
class SigningConfig:
    """Settings of signatures."""

    signing_key: Path | None = setting(
        types.PATH,
        "private key file that signs images: ECDSA P-256 or Ed25519, in PEM",
    )
    signing_key_previous: tuple[Path, ...] = setting(
        types.PATHS,
        "public key files of earlier signing keys, whose signatures are still served",
        default=(),
        default_text="none",
        requires=("signing_key", ANY_VALUE),
    )
