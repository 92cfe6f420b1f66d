"""
Parse the header ``Authorization``, and make the challenges of ``WWW-Authenticate``.

Basic credentials: RFC 7617.  Bearer tokens: RFC 6750.  Challenges: RFC 9110, section 11.6.1;
for tokens, the distribution specification's "Token Authentication".
"""

from __future__ import annotations

import binascii
from base64 import b64decode

from attrs import frozen

from nixery.access.errors import LoginFailed

__all__ = ["BASIC", "Basic", "Bearer", "bearer_challenge", "parse_authorization"]

REALM = "Nixery"

BASIC = f'Basic realm="{REALM}", charset="UTF-8"'
"""The challenge that clients answer with a name and a password; browsers prompt for them."""


@frozen(kw_only=True)
class Basic:
    """Credentials that are a name and a password."""

    user: str
    password: str


@frozen(kw_only=True)
class Bearer:
    """Credentials that are a token."""

    token: str


def parse_authorization(header: bytes) -> Basic | Bearer:
    """
    Read the header ``Authorization``.

    :raises LoginFailed: it is neither Basic nor Bearer, or malformed.
    """
    scheme, _, value = header.strip().partition(b" ")
    value = value.strip()
    match scheme.lower():
        case b"basic":
            try:
                decoded = b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                raise LoginFailed from None
            try:
                text = decoded.decode("utf-8")
            except UnicodeDecodeError:
                # Older clients, from before RFC 7617, send Latin-1.
                text = decoded.decode("latin-1")
            user, colon, password = text.partition(":")
            if not colon:
                raise LoginFailed
            return Basic(user=user, password=password)
        case b"bearer":
            return Bearer(token=value.decode("latin-1"))
    raise LoginFailed


def bearer_challenge(
    realm: str, service: str, repository: str | None = None, error: str | None = None
) -> str:
    """
    Make the challenge that clients answer with a token that they fetch.

    :param realm: the URL of the token endpoint.
    :param service: the service that the token is for.
    :param repository: the repository that the token has to be valid for; a valid name.
    :param error: the fault of the token that was sent: a code of RFC 6750.
    """
    parts = [f'realm="{realm}"', f'service="{service}"']
    if repository is not None:
        parts.append(f'scope="repository:{repository}:pull"')
    if error is not None:
        parts.append(f'error="{error}"')
    return "Bearer " + ",".join(parts)
