"""
Issues and verifies JSON Web Tokens, which the daemon signs with its own key.

The key alone determines the algorithm: a token whose header names another one, or none at
all, is rejected.  Tokens live for minutes; verifying one needs nothing but the key, so every
instance that has the same key can issue and verify them.

Format: RFC 7519; claims: the CNCF Distribution project's "Token Authentication
Implementation".
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jwt
from attrs import field, frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from nixery.access.errors import TokenInvalid, TokenKeyUnusable
from nixery.runtime.clocks import WallClock, WallTime
from nixery.runtime.private_keys import PrivateKey, read_private_key

__all__ = ["ACCESS", "REFRESH", "Claims", "SigningKey", "Tokens", "load_key", "load_or_create_key"]

ACCESS = "access"
REFRESH = "refresh"
"""The purpose of a token: to pull, or to get further tokens with."""

MAX_TOKEN_CHARACTERS = 8192
"""Maximum length of a token in characters."""

SERVICE = "nixery"
"""Issuer and audience of the tokens."""

_MAX_CLOCK_SKEW_SECONDS = 10
"""Seconds by which the clocks of two instances may differ."""


@frozen(kw_only=True)
class SigningKey:
    """A private key, and the one algorithm that it is used with."""

    private_key: PrivateKey = field(repr=False)

    @property
    def algorithm(self) -> str:
        return "EdDSA" if isinstance(self.private_key, Ed25519PrivateKey) else "ES256"


@frozen(kw_only=True)
class Claims:
    """
    The claims of a token.

    :param user: the user it was issued to; ``None``: a client that has not logged in.
    :param fingerprint: the fingerprint of the password that the user had, see
        :meth:`nixery.access.passwords.Passwords.fingerprint`.
    :param repositories: the repositories that may be pulled with it.
    :param expires: when it expires.
    """

    user: str | None
    fingerprint: str | None
    repositories: frozenset[str]
    expires: WallTime


@frozen(kw_only=True)
class Tokens:
    """
    Issues and verifies tokens.

    :param wall_clock: tells when a token is issued, and whether it is in force.
    """

    key: SigningKey
    wall_clock: WallClock

    def issue(
        self,
        purpose: str,
        user: str | None,
        fingerprint: str | None,
        repositories: Iterable[str],
        lifetime: int,
    ) -> str:
        """
        Issue a token.

        :param purpose: :data:`ACCESS` or :data:`REFRESH`.
        """
        now = int(self.wall_clock.now())
        return jwt.encode(
            {
                "iss": SERVICE,
                "aud": SERVICE,
                "sub": user or "",
                "iat": now,
                "nbf": now - _MAX_CLOCK_SKEW_SECONDS,
                "exp": now + lifetime,
                "jti": secrets.token_hex(8),
                "use": purpose,
                "mark": fingerprint or "",
                "access": [
                    {"type": "repository", "name": name, "actions": ["pull"]}
                    for name in sorted(repositories)
                ],
            },
            self.key.private_key,
            algorithm=self.key.algorithm,
        )

    def verify(self, token: str, purpose: str) -> Claims:
        """
        Verify a token and return its claims.

        :raises TokenInvalid: it was not issued with this key, is not in force, or is for
            another use.
        """
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise TokenInvalid(reason="it is too long")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self.key.private_key.public_key(),
                algorithms=[self.key.algorithm],
                audience=SERVICE,
                issuer=SERVICE,
                options={
                    "require": ["iss", "aud", "sub", "iat", "nbf", "exp"],
                    # Checked below, with our own clock.  PyJWT would also reject a token just
                    # issued by another instance whose clock is a second ahead.
                    "verify_iat": False,
                    "verify_nbf": False,
                    "verify_exp": False,
                },
            )
            self._check_times(float(claims["nbf"]), float(claims["exp"]))
            if claims["use"] != purpose:
                raise TokenInvalid(reason="it is for something else")
            return Claims(
                user=claims["sub"] or None,
                fingerprint=claims["mark"] or None,
                repositories=frozenset(each["name"] for each in claims["access"]),
                expires=WallTime(float(claims["exp"])),
            )
        # PyJWT raises exceptions of many types for malformed tokens.
        except (
            jwt.PyJWTError,
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as error:
            raise TokenInvalid(reason=f"it is none of ours ({type(error).__name__})") from None

    def _check_times(self, not_before: float, expires: float) -> None:
        """:raises TokenInvalid: the token is not in force."""
        now = self.wall_clock.now()
        # Both comparisons are false for NaN.
        if not now < expires:
            raise TokenInvalid(reason="it has expired")
        if not not_before <= now:
            raise TokenInvalid(
                reason="it is from the future: the clock of the registry was set back, log in again"
            )


def load_key(path: Path) -> SigningKey:
    """
    Read a key: Ed25519, or ECDSA on P-256, in PEM and without a passphrase.

    :raises TokenKeyUnusable: it does not exist, or is not such a key.
    """
    try:
        return SigningKey(private_key=read_private_key(path))
    except ValueError as error:
        raise TokenKeyUnusable(path=str(path), reason=str(error)) from error


def load_or_create_key(path: Path) -> SigningKey:
    """
    Load the key at ``path``; create it, readable by its owner only, if there is none.

    :raises TokenKeyUnusable: it can neither be read nor created.
    """
    try:
        if not path.exists():
            _create_key(path)
    except OSError as error:
        raise TokenKeyUnusable(
            path=str(path), reason=f"it cannot be made: {error.strerror or error}"
        ) from error
    return load_key(path)


def _create_key(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
