"""
Verifies signatures as clients do, with nothing of the registry's own code.

It reads what cosign, podman and skopeo read, field by field, and checks what they check: it stands
for them where they are not installed.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

__all__ = ["Refused", "verify_bundle", "verify_simple_signing"]

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT = "application/vnd.in-toto+json"


class Refused(Exception):
    """A client would refuse the signature."""


def verify_simple_signing(
    layer: dict[str, Any], payload: bytes, *, pem: bytes, manifest: str
) -> str:
    """
    Verify a layer of the manifest under cosign's tag.

    :param layer: its descriptor.
    :param payload: the blob.
    :param manifest: the digest of the image's manifest that was pulled.
    :return: the reference that was signed.
    :raises Refused: it is no signature of that manifest by that key.
    """
    if layer["mediaType"] != "application/vnd.dev.cosign.simplesigning.v1+json":
        raise Refused("media type")
    if layer["digest"] != "sha256:" + hashlib.sha256(payload).hexdigest():
        raise Refused("digest of the payload")
    signature = layer["annotations"]["dev.cosignproject.cosign/signature"]
    _verify(pem, b64decode(signature, validate=True), payload)
    value = json.loads(payload)
    if set(value) != {"critical", "optional"} or value["optional"] is not None:
        raise Refused("members of the payload")
    critical = value["critical"]
    if set(critical) != {"identity", "image", "type"}:
        raise Refused("members of critical")
    if critical["type"] != "cosign container image signature":
        raise Refused("type")
    if critical["image"] != {"docker-manifest-digest": manifest}:
        raise Refused("another manifest")
    (reference,) = critical["identity"].values()
    if not isinstance(reference, str) or set(critical["identity"]) != {"docker-reference"}:
        raise Refused("identity")
    return reference


def verify_bundle(bundle: bytes, *, pem: bytes, manifest: str) -> dict[str, Any]:
    """
    Verify a bundle.

    :param manifest: the digest of the image's manifest that was pulled.
    :return: the statement that was signed.
    :raises Refused: it is no signed statement about that manifest by that key.
    """
    value = json.loads(bundle)
    if set(value) != {"mediaType", "verificationMaterial", "dsseEnvelope"}:
        raise Refused("members of the bundle")
    if value["mediaType"] != BUNDLE:
        raise Refused("media type")
    key = load_pem_public_key(pem)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    hint = b64decode(value["verificationMaterial"]["publicKey"]["hint"], validate=True)
    if hint != hashlib.sha256(der).digest():
        raise Refused("hint of another key")
    envelope = value["dsseEnvelope"]
    if envelope["payloadType"] != STATEMENT:
        raise Refused("type of the payload")
    payload = b64decode(envelope["payload"], validate=True)
    [signature] = envelope["signatures"]
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
    _verify(pem, b64decode(signature["sig"], validate=True), signed)
    statement: dict[str, Any] = json.loads(payload)
    if statement["_type"] != "https://in-toto.io/Statement/v1":
        raise Refused("type of the statement")
    if [each["digest"] for each in statement["subject"]] != [
        {"sha256": manifest.removeprefix("sha256:")}
    ]:
        raise Refused("another manifest")
    return statement


def _verify(pem: bytes, signature: bytes, data: bytes) -> None:
    key = load_pem_public_key(pem)
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(key, EllipticCurvePublicKey):
            key.verify(signature, data, ECDSA(SHA256()))
        else:
            raise Refused("kind of the key")
    except InvalidSignature:
        raise Refused("signature") from None
