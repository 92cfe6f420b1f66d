"""
Makes in-toto statements about a manifest.

Format: in-toto attestation framework 1.0, "Statement".
"""

from __future__ import annotations

from nixery.image.canonical_json import canonical_json
from nixery.image.names import Digest

__all__ = ["SIGNATURE_PREDICATE", "make_statement"]

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"

SIGNATURE_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
"""The type of the predicate by which cosign says nothing but that an image is signed."""


def make_statement(subject: Digest, predicate_type: str, predicate: bytes) -> bytes:
    """
    Return a statement.

    :param predicate: canonical JSON.
    """
    # Joined, not parsed and encoded again: an SBOM may have megabytes.
    rest = canonical_json(
        {
            "predicateType": predicate_type,
            "subject": [{"digest": {"sha256": subject.removeprefix("sha256:")}}],
        }
    )
    return b'{"_type":"%s","predicate":%s,%s' % (
        STATEMENT_TYPE.encode("ascii"),
        predicate,
        rest.removeprefix(b"{"),
    )
