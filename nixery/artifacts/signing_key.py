"""
Signs with a key, and verifies signatures.

Equal data have equal signatures, whichever process makes them: those of Ed25519 are deterministic,
and those of ECDSA on P-256 are made as RFC 6979 says.  So replicas that have the same key make the
same blobs, with the same digests.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from pathlib import Path

from attrs import field, frozen
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from nixery.artifacts.errors import SigningKeyUnusable
from nixery.runtime.private_keys import PrivateKey, read_private_key

__all__ = ["SigningKey", "VerificationKey", "load_signing_key", "load_verification_key"]


@frozen(kw_only=True)
class VerificationKey:
    """A public key that verifies signatures."""

    public_key: Ed25519PublicKey | EllipticCurvePublicKey

    @property
    def pem(self) -> bytes:
        """The key as SubjectPublicKeyInfo in PEM, as clients read it."""
        return self.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def id(self) -> str:
        """The SHA-256 of its SubjectPublicKeyInfo, 64 hexadecimal digits."""
        return self._fingerprint().hex()

    @property
    def hint(self) -> str:
        """The same in base64, by which bundles name the key that verifies them."""
        return b64encode(self._fingerprint()).decode("ascii")

    def is_valid(self, signature: bytes, data: bytes) -> bool:
        """Tell whether a signature of some data was made with this key."""
        try:
            if isinstance(self.public_key, Ed25519PublicKey):
                self.public_key.verify(signature, data)
            else:
                self.public_key.verify(signature, data, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True

    def _fingerprint(self) -> bytes:
        der = self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(der).digest()


@frozen(kw_only=True)
class SigningKey:
    """A private key that signs images, and its public part."""

    private_key: PrivateKey = field(repr=False)
    verification: VerificationKey = field(init=False)

    @verification.default
    def _public_part(self) -> VerificationKey:
        return VerificationKey(public_key=self.private_key.public_key())

    def sign(self, data: bytes) -> bytes:
        """Return the signature: 64 bytes of Ed25519, or ASN.1 DER of ECDSA with SHA-256."""
        if isinstance(self.private_key, Ed25519PrivateKey):
            return self.private_key.sign(data)
        return self.private_key.sign(data, ECDSA(SHA256(), deterministic_signing=True))


def load_signing_key(path: Path) -> SigningKey:
    """
    Read the key that signs images.

    :raises SigningKeyUnusable: it does not exist, or is no key of a kind that signs images, or
        the installed OpenSSL cannot sign with it deterministically.
    """
    try:
        key = SigningKey(private_key=read_private_key(path))
        key.sign(b"")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningKeyUnusable(path=str(path), reason=str(error)) from error
    return key


def load_verification_key(path: Path) -> VerificationKey:
    """
    Read a public key: Ed25519, or ECDSA on P-256, in PEM.

    :raises SigningKeyUnusable: it does not exist, or is no such key.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        reason = f"it cannot be read: {error.strerror or error}"
        raise SigningKeyUnusable(path=str(path), reason=reason) from error
    except (ValueError, UnsupportedAlgorithm):
        raise SigningKeyUnusable(path=str(path), reason="it holds no public key in PEM") from None
    if isinstance(key, Ed25519PublicKey) or (
        isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    ):
        return VerificationKey(public_key=key)
    raise SigningKeyUnusable(
        path=str(path), reason="its key is neither Ed25519 nor ECDSA on the curve P-256"
    )
