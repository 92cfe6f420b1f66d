"""
Defines the documents about an image, which are attached to it and signed.
"""

from __future__ import annotations

from attrs import frozen

__all__ = [
    "CYCLONEDX",
    "CYCLONEDX_PREDICATE",
    "IN_TOTO",
    "PROVENANCE_PREDICATE",
    "SPDX",
    "SPDX_PREDICATE",
    "Document",
]

CYCLONEDX = "application/vnd.cyclonedx+json"
SPDX = "application/spdx+json"
IN_TOTO = "application/vnd.in-toto+json"

CYCLONEDX_PREDICATE = "https://cyclonedx.org/bom"
SPDX_PREDICATE = "https://spdx.dev/Document"
PROVENANCE_PREDICATE = "https://slsa.dev/provenance/v1"


@frozen(kw_only=True)
class Document:
    """
    A document about an image: an SBOM, or its provenance.

    :param media_type: the media type of the attached blob, which is its artifact type as well.  A
        document of the type :data:`IN_TOTO` is attached as an in-toto statement about the
        manifest, with ``data`` for its predicate; others are attached as they are.
    :param predicate_type: the type of the document as the predicate of a statement.
    :param data: canonical JSON.
    """

    media_type: str
    predicate_type: str
    data: bytes
