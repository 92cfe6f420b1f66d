"""
Makes the signatures that podman, skopeo, CRI-O and cosign read: by the scheme of cosign's tags.

The tag ``sha256-<hex>.sig`` of a repository is a manifest whose layers are *payloads*: each names
an image as clients write it, and its manifest.  An annotation of the layer is the signature of the
payload.  One that a client accepts is enough.

Format: cosign, "Signature Specification"; containers/image, "atomic container signature".
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence

from attrs import frozen

from nixery.artifacts.attachment import IMAGE_ANNOTATION
from nixery.artifacts.signing_key import SigningKey
from nixery.errors import NixeryError
from nixery.image.canonical_json import canonical_json
from nixery.image.manifests import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    descriptor_json,
    digest_of,
    parse_descriptor,
)
from nixery.image.names import Digest

__all__ = [
    "SIMPLE_SIGNING",
    "Signature",
    "decode_signature",
    "encode_signature",
    "make_payload",
    "sign_payload",
    "signature_config",
    "signature_manifest",
]

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
"""The media type of a payload."""

SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"


@frozen(kw_only=True)
class Signature:
    """
    A signature.

    :param payload: what was signed.
    :param key_id: the id of the key that verifies it.
    """

    payload: Descriptor
    signature: bytes
    key_id: str


def make_payload(reference: str, digest: Digest) -> bytes:
    """
    Return what is signed to say that a reference, with its host and tag, names a manifest.
    """
    return canonical_json(
        {
            "critical": {
                "identity": {"docker-reference": reference},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": None,
        }
    )


def sign_payload(payload: bytes, key: SigningKey) -> Signature:
    """Sign a payload."""
    return Signature(
        payload=Descriptor(media_type=SIMPLE_SIGNING, digest=digest_of(payload), size=len(payload)),
        signature=key.sign(payload),
        key_id=key.verification.id,
    )


def signature_config(signatures: Sequence[Signature]) -> bytes:
    """Return the config of the manifest of some signatures: that of an image of their payloads."""
    return canonical_json(
        {"rootfs": {"type": "layers", "diff_ids": [each.payload.digest for each in signatures]}}
    )


def signature_manifest(image: Digest, signatures: Sequence[Signature]) -> Manifest:
    """
    Return the manifest of the signatures of an image's manifest.

    :param image: the digest of the signed manifest.
    """
    config = signature_config(signatures)
    body = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
            "layers": [
                {
                    **descriptor_json(each.payload),
                    "annotations": {
                        SIGNATURE_ANNOTATION: b64encode(each.signature).decode("ascii")
                    },
                }
                for each in signatures
            ],
            "annotations": {IMAGE_ANNOTATION: image},
        }
    )
    return Manifest(media_type=OCI_MANIFEST, digest=digest_of(body), body=body)


def encode_signature(image: Digest, signature: Signature) -> bytes:
    """
    Return the record of a signature.

    :param image: the digest of the signed manifest.
    """
    return canonical_json(
        {
            "digest": image,
            "key": signature.key_id,
            "payload": descriptor_json(signature.payload),
            "signature": b64encode(signature.signature).decode("ascii"),
        }
    )


def decode_signature(record: bytes) -> Signature:
    """
    Read the record of a signature.

    :raises ValueError: it is none.
    """
    try:
        value = json.loads(record)
        return Signature(
            payload=parse_descriptor(value["payload"]),
            signature=b64decode(value["signature"], validate=True),
            key_id=str(value["key"]),
        )
    except (KeyError, TypeError, RecursionError, NixeryError) as error:
        raise ValueError(f"it is no record of a signature: {error}") from error
