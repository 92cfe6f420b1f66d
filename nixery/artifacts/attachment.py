"""
Makes the manifests that attach blobs to the manifest of an image, and reads them.

    manifest --layers--> blob, a document or a bundle
       |
       +--subject--> manifest of the image

Clients find them by the referrers API, which lists for a manifest those whose subject it is.  The
same image and the same blob make the same manifest.

Formats: OCI image specification 1.1, "Guidelines for Artifact Usage"; OCI distribution
specification 1.1, "Listing Referrers".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from nixery.artifacts.document import IN_TOTO, Document
from nixery.artifacts.statement import make_statement
from nixery.errors import NixeryError
from nixery.image.canonical_json import Json, canonical_json
from nixery.image.config import CREATED
from nixery.image.manifests import (
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    descriptor_json,
    descriptor_of,
    digest_of,
    parse_descriptor,
)
from nixery.image.names import Digest, parse_digest

__all__ = [
    "EMPTY_CONFIG",
    "EMPTY_TYPE",
    "IMAGE_ANNOTATION",
    "PREDICATE_ANNOTATION",
    "Attachment",
    "NewAttachment",
    "attach",
    "attach_document",
    "decode_attachments",
    "encode_attachments",
    "referrers_index",
    "subject_of",
]

EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY_CONFIG = b"{}"
"""The config of every attached manifest, and its media type."""

PREDICATE_ANNOTATION = "in-toto.io/predicate-type"
"""The annotation that names what a statement says."""

IMAGE_ANNOTATION = "nixery.image.manifest"
"""The annotation of manifests that belong to an image's manifest and are no referrers of it."""


@frozen(kw_only=True)
class Attachment:
    """
    A blob that is attached to a manifest of an image, and the manifest that attaches it.

    :param manifest: the manifest that attaches the blob.
    :param blob: the blob; its media type is the artifact type.
    :param predicate_type: what the blob says, as the type of an in-toto predicate.
    :param annotations: those of the manifest.
    """

    manifest: Descriptor
    blob: Descriptor
    predicate_type: str
    annotations: Mapping[str, str]

    @property
    def artifact_type(self) -> str:
        """The type by which clients ask for it."""
        return self.blob.media_type

    @property
    def digests(self) -> frozenset[Digest]:
        """The digests of all its blobs: the manifest, its config, and the attached one."""
        return frozenset({self.manifest.digest, self.blob.digest, digest_of(EMPTY_CONFIG)})

    def describe(self) -> Json:
        """Return its entry in a list of referrers."""
        return {
            **descriptor_json(self.manifest),
            "annotations": self.annotations,
            "artifactType": self.artifact_type,
        }


@frozen(kw_only=True)
class NewAttachment:
    """
    An attachment that is to be stored.

    :param blobs: its blobs and their media types, innermost first.
    """

    attachment: Attachment
    blobs: tuple[tuple[bytes, str], ...]


def attach(
    subject: Manifest,
    blob: bytes,
    artifact_type: str,
    predicate_type: str,
    annotations: Mapping[str, str],
) -> NewAttachment:
    """
    Attach a blob to a manifest.

    :param annotations: of the new manifest, besides the time of its creation.
    """
    annotations = {**annotations, "org.opencontainers.image.created": CREATED}
    described = descriptor_of(blob, artifact_type)
    body = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": descriptor_json(descriptor_of(EMPTY_CONFIG, EMPTY_TYPE)),
            "layers": [descriptor_json(described)],
            "subject": descriptor_json(subject),
            "annotations": annotations,
        }
    )
    return NewAttachment(
        attachment=Attachment(
            manifest=descriptor_of(body, OCI_MANIFEST),
            blob=described,
            predicate_type=predicate_type,
            annotations=annotations,
        ),
        blobs=((EMPTY_CONFIG, EMPTY_TYPE), (blob, artifact_type), (body, OCI_MANIFEST)),
    )


def attach_document(subject: Manifest, document: Document) -> NewAttachment:
    """Attach a document to a manifest, as its media type says."""
    if document.media_type != IN_TOTO:
        return attach(subject, document.data, document.media_type, document.predicate_type, {})
    statement = make_statement(subject.digest, document.predicate_type, document.data)
    return attach(
        subject,
        statement,
        IN_TOTO,
        document.predicate_type,
        {PREDICATE_ANNOTATION: document.predicate_type},
    )


def referrers_index(attachments: Iterable[Attachment]) -> bytes:
    """Return an OCI index of attachments, the response of the referrers API."""
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [attachment.describe() for attachment in attachments],
        }
    )


def subject_of(body: bytes) -> Digest | None:
    """
    Return the manifest of the image that a manifest belongs to; ``None`` if it is an image's own.
    """
    try:
        value = json.loads(body)
        subject, annotations = value.get("subject"), value.get("annotations")
        if subject is not None:
            return parse_digest(subject["digest"])
        if annotations is not None and IMAGE_ANNOTATION in annotations:
            return parse_digest(annotations[IMAGE_ANNOTATION])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, NixeryError):
        return None
    return None


def encode_attachments(subject: Digest, attachments: Sequence[Attachment]) -> bytes:
    """Return the record of the attachments of a manifest, in their order."""
    return canonical_json(
        {
            "digest": subject,
            "attachments": [
                {
                    "annotations": each.annotations,
                    "blob": descriptor_json(each.blob),
                    "manifest": descriptor_json(each.manifest),
                    "predicateType": each.predicate_type,
                }
                for each in attachments
            ],
        }
    )


def decode_attachments(record: bytes) -> tuple[Attachment, ...]:
    """
    Read a record of attachments.

    :raises ValueError: it is none.
    """
    try:
        return tuple(
            Attachment(
                manifest=parse_descriptor(each["manifest"]),
                blob=parse_descriptor(each["blob"]),
                predicate_type=str(each["predicateType"]),
                annotations={str(key): str(text) for key, text in each["annotations"].items()},
            )
            for each in json.loads(record)["attachments"]
        )
    except (AttributeError, KeyError, TypeError, RecursionError, NixeryError) as error:
        raise ValueError(f"it is no record of attachments: {error}") from error
