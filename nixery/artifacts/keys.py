"""
Holds the key that signs images, and those that have signed them before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from nixery.artifacts.signing_key import (
    SigningKey,
    VerificationKey,
    load_signing_key,
    load_verification_key,
)

__all__ = ["KeyRing", "load_keys"]


@frozen(kw_only=True)
class KeyRing:
    """
    The keys of a registry.

    :param signing: signs.
    :param previous: have signed before; what they signed is still served.
    """

    signing: SigningKey
    previous: tuple[VerificationKey, ...] = ()

    @property
    def verifying(self) -> tuple[VerificationKey, ...]:
        """All keys that clients may verify with, the one that signs first."""
        return (self.signing.verification, *self.previous)


def load_keys(signing: Path, previous: Sequence[Path]) -> KeyRing:
    """
    Read the keys.

    :raises SigningKeyUnusable: one cannot be used.
    """
    return KeyRing(
        signing=load_signing_key(signing),
        previous=tuple(load_verification_key(path) for path in previous),
    )
