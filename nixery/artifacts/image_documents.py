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

__all__ = ["make_bills_of_materials", "make_documents"]


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
    """Return the bills of materials of an image: CycloneDX, then SPDX."""
    title = image_title(evaluation)
    components = image_components(graph, evaluation)
    return (
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
