"""Make all documents about an image."""

from __future__ import annotations

from nixery.artifacts.components import image_components, image_title
from nixery.artifacts.cyclonedx import cyclonedx_document
from nixery.artifacts.document import (
    CYCLONEDX,
    CYCLONEDX_PREDICATE,
    IN_TOTO,
    PROVENANCE_PREDICATE,
    SPDX,
    SPDX_PREDICATE,
    Document,
)
from nixery.artifacts.provenance import Provenance
from nixery.artifacts.spdx import spdx_document
from nixery.image.closure import RuntimeGraph
from nixery.image.packages import Evaluation

__all__ = ["MAX_DOCUMENT_BYTES", "make_bills_of_materials", "make_documents"]

MAX_DOCUMENT_BYTES = 11 * 2**20
"""
The size up to which a document is attached: signed, it grows by a third, and storages hold blobs
of up to 16 MiB in memory.  A bill of materials of 6,000 store paths has as much.
"""


def make_documents(
    graph: RuntimeGraph, evaluation: Evaluation, provenance: Provenance
) -> tuple[Document, ...]:
    """
    Return the bills of materials of an image, then its provenance.

    For thousands of store paths this takes a tenth of a second: call it on a worker thread.
    """
    return (
        *make_bills_of_materials(graph, evaluation),
        Document(
            media_type=IN_TOTO,
            predicate_type=PROVENANCE_PREDICATE,
            data=provenance.encode(),
        ),
    )


def make_bills_of_materials(graph: RuntimeGraph, evaluation: Evaluation) -> tuple[Document, ...]:
    """
    Return the bills of materials of an image: CycloneDX, then SPDX.

    One that is larger than :data:`MAX_DOCUMENT_BYTES` is left out.
    """
    title = image_title(evaluation)
    components = image_components(graph, evaluation)
    bills = (
        Document(
            media_type=CYCLONEDX,
            predicate_type=CYCLONEDX_PREDICATE,
            data=cyclonedx_document(title, components),
        ),
        Document(
            media_type=SPDX,
            predicate_type=SPDX_PREDICATE,
            data=spdx_document(title, components),
        ),
    )
    return tuple(document for document in bills if len(document.data) <= MAX_DOCUMENT_BYTES)
