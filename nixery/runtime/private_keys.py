"""
Reads the private keys that this registry signs with.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

__all__ = ["PrivateKey", "read_private_key"]

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey


def read_private_key(path: Path) -> PrivateKey:
    """
    Read a key: Ed25519, or ECDSA on P-256, in PEM and without a passphrase.

    :raises ValueError: it does not exist, or is not such a key; the message says which.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("it holds no private key in PEM without a passphrase") from None
    if isinstance(key, Ed25519PrivateKey) or (
        isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1)
    ):
        return key
    raise ValueError("its key is neither Ed25519 nor ECDSA on the curve P-256")
