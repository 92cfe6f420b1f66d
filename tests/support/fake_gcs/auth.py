"""
Authentication and signatures of the fake Google Cloud Storage: tokens, the
metadata server, the IAM service, and URLs of version 4.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, quote

from attrs import define, field
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.support.fake_gcs.state import Refusal

__all__ = ["ACCOUNT", "Authority"]

ACCOUNT = "nixery@project.iam.gserviceaccount.com"


@define(kw_only=True, slots=False)
class Authority:
    """
    The one account there is, its key, and what was issued for it.

    :param skew: seconds by which the clock of the service is ahead.
    """

    key: rsa.RSAPrivateKey = field(
        factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    skew: float = 0.0
    tokens: set[str] = field(factory=set)

    @cached_property
    def pem(self) -> str:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode("ascii")

    def key_file(self, url: str) -> dict[str, str]:
        """A service account's key file, as Google gives it out."""
        return {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "1",
            "private_key": self.pem,
            "client_email": ACCOUNT,
            "client_id": "1",
            "token_uri": f"{url}/token",
        }

    def token(self) -> dict[str, Any]:
        """A new access token."""
        token = f"token-{len(self.tokens)}"
        self.tokens.add(token)
        return {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}

    def exchange(self, body: bytes) -> dict[str, Any]:
        """
        A token for an assertion (RFC 7523).

        :raises Refusal: it is not signed by the account's key.
        """
        form = dict(parse_qsl(body.decode("ascii")))
        signed, _, signature = form.get("assertion", "").rpartition(".")
        padded = signature + "=" * (-len(signature) % 4)
        if not self._verifies(base64.urlsafe_b64decode(padded), signed.encode("ascii")):
            raise Refusal(400, "invalid_grant")
        return self.token()

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())

    def sign_blob(self, body: bytes) -> dict[str, str]:
        """The answer of the IAM service."""
        message = base64.b64decode(json.loads(body)["payload"])
        return {"signedBlob": base64.b64encode(self.sign(message)).decode("ascii")}

    def admits(self, authorization: str | None) -> bool:
        """Tell whether a request has a token that was issued."""
        return (authorization or "").removeprefix("Bearer ") in self.tokens

    def verify_url(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> None:
        """
        Verify the signature of a URL.

        :param path: as it was sent.
        :param headers: by their names in lower case.
        :raises Refusal: it is not signed, not for this, or not any more.
        """
        given = dict(parse_qsl(query, keep_blank_values=True))
        try:
            signature = bytes.fromhex(given.pop("X-Goog-Signature"))
            date, lifetime = given["X-Goog-Date"], int(given["X-Goog-Expires"])
            account, _, scope = given["X-Goog-Credential"].partition("/")
            signed = given["X-Goog-SignedHeaders"]
            begun = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except (KeyError, ValueError):
            raise Refusal(
                403, "Anonymous caller does not have storage.objects.get access"
            ) from None
        canonical = "\n".join(
            [
                method,
                path,
                "&".join(
                    sorted(f"{_quote(name)}={_quote(value)}" for name, value in given.items())
                ),
                *(f"{name}:{headers.get(name, '').strip()}" for name in signed.split(";")),
                "",
                signed,
                "UNSIGNED-PAYLOAD",
            ]
        )
        digest = hashlib.sha256(canonical.encode("utf-8")).hexdigest()
        text = f"GOOG4-RSA-SHA256\n{date}\n{scope}\n{digest}"
        if account != ACCOUNT or not self._verifies(signature, text.encode("ascii")):
            raise Refusal(403, "SignatureDoesNotMatch")
        now = datetime.now(UTC) + timedelta(seconds=self.skew)
        if now > begun + timedelta(seconds=lifetime):
            raise Refusal(400, "ExpiredToken")

    def _verifies(self, signature: bytes, message: bytes) -> bool:
        try:
            self.key.public_key().verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True


def _quote(text: str) -> str:
    return quote(text, safe="~")
