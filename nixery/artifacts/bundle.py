"""
Makes Sigstore bundles: a signed in-toto statement, and a hint which key signed it.

Formats: Sigstore bundle 0.3; DSSE 1.0, whose signatures are of the payload with its type and both
lengths before it.
"""

from __future__ import annotations

import json
from base64 import b64encode

from nixery.artifacts.attachment import NewAttachment, attach
from nixery.artifacts.document import IN_TOTO
from nixery.artifacts.signing_key import SigningKey
from nixery.image.canonical_json import canonical_json
from nixery.image.manifests import Manifest

__all__ = ["BUNDLE", "attach_bundle", "envelope_of", "pre_authentication_encoding"]

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
"""The media type of a bundle, and the artifact type of its manifest."""


def attach_bundle(
    subject: Manifest, predicate_type: str, statement: bytes, key: SigningKey
) -> NewAttachment:
    """
    Attach a statement about a manifest to it, signed.

    :param predicate_type: that of the statement.
    """
    material = canonical_json({"publicKey": {"hint": key.verification.hint}})
    # Canonical JSON, joined as in a statement.
    bundle = b'{"dsseEnvelope":%s,"mediaType":"%s","verificationMaterial":%s}' % (
        _envelope(key, statement),
        BUNDLE.encode("ascii"),
        material,
    )
    return attach(
        subject,
        bundle,
        BUNDLE,
        predicate_type,
        {
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": predicate_type,
        },
    )


def envelope_of(bundle: bytes) -> bytes:
    """
    Return the signed statement in a bundle, as it is stored by itself.

    :raises ValueError: it is no bundle.
    """
    try:
        return canonical_json(json.loads(bundle)["dsseEnvelope"])
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it is no bundle: {error}") from error


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that the signature of a DSSE envelope is made of."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _envelope(key: SigningKey, statement: bytes) -> bytes:
    signature = key.sign(pre_authentication_encoding(IN_TOTO, statement))
    return b'{"payload":"%s","payloadType":"%s","signatures":[{"sig":"%s"}]}' % (
        b64encode(statement),
        IN_TOTO.encode("ascii"),
        b64encode(signature),
    )
