"""
Makes the signatures that podman, skopeo, CRI-O and cosign read: by the scheme of cosign's tags.

The tag ``sha256-<hex>.sig`` of a repository is a manifest whose layers are *payloads*: each names
an image as clients write it, and its manifest.  An annotation of the layer is the signature of the
payload.  One that a client accepts is enough.

The layers of the manifest under ``sha256-<hex>.att`` are the signed statements that cosign before
version 3 reads: the envelopes that newer versions find in bundles.

Format: cosign, "Signature Specification"; containers/image, "atomic container signature".
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence

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
    descriptor_of,
    digest_of,
    parse_descriptor,
)
from nixery.image.names import Digest

__all__ = [
    "ENVELOPE",
    "SIMPLE_SIGNING",
    "Signature",
    "TaggedManifest",
    "attestation_manifest",
    "decode_signature",
    "encode_signature",
    "make_payload",
    "sign_payload",
    "signature_manifest",
]

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
"""The media type of a payload."""

ENVELOPE = "application/vnd.dsse.envelope.v1+json"
"""The media type of a signed statement."""

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
        payload=descriptor_of(payload, SIMPLE_SIGNING),
        signature=key.sign(payload),
        key_id=key.verification.id,
    )


@frozen(kw_only=True)
class TaggedManifest:
    """
    A manifest that cosign finds by a tag, and its config.

    :param layers: the blobs that it names besides.
    """

    manifest: Manifest
    config: bytes
    layers: tuple[Digest, ...]

    @property
    def digests(self) -> frozenset[Digest]:
        """The digests of all its blobs, and its own."""
        return frozenset({self.manifest.digest, digest_of(self.config), *self.layers})


def signature_manifest(image: Digest, signatures: Sequence[Signature]) -> TaggedManifest:
    """
    Return the manifest of the signatures of an image's manifest.

    :param image: the digest of the signed manifest.
    """
    return _tagged_manifest(
        image,
        [
            (each.payload, {SIGNATURE_ANNOTATION: b64encode(each.signature).decode("ascii")})
            for each in signatures
        ],
    )


def attestation_manifest(image: Digest, envelopes: Sequence[tuple[bytes, str]]) -> TaggedManifest:
    """
    Return the manifest of the signed statements about an image's manifest.

    :param image: the digest of that manifest.
    :param envelopes: each with the type of the statement's predicate.
    """
    return _tagged_manifest(
        image,
        [
            (
                descriptor_of(envelope, ENVELOPE),
                # The signature is in the envelope; cosign wants the annotation all the same.
                {SIGNATURE_ANNOTATION: "", "predicateType": predicate_type},
            )
            for envelope, predicate_type in envelopes
        ],
    )


def _tagged_manifest(
    image: Digest, layers: Sequence[tuple[Descriptor, Mapping[str, str]]]
) -> TaggedManifest:
    digests = [layer.digest for layer, _ in layers]
    config = canonical_json({"rootfs": {"type": "layers", "diff_ids": digests}})
    body = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor_json(descriptor_of(config, OCI_CONFIG)),
            "layers": [
                {**descriptor_json(layer), "annotations": annotations}
                for layer, annotations in layers
            ],
            "annotations": {IMAGE_ANNOTATION: image},
        }
    )
    manifest = Manifest(media_type=OCI_MANIFEST, digest=digest_of(body), body=body)
    return TaggedManifest(manifest=manifest, config=config, layers=tuple(digests))


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
