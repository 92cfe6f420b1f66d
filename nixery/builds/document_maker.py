"""Make the documents about an image that has just been made."""

from __future__ import annotations

from datetime import UTC, datetime

from attrs import define
from twisted.logger import Logger

from nixery.artifacts.document import Document
from nixery.artifacts.image_documents import make_documents
from nixery.artifacts.provenance import Origins, Provenance
from nixery.builds.materials import flake_materials, source_materials
from nixery.builds.request import ImageRequest
from nixery.image.closure import RuntimeGraph
from nixery.image.names import canonical_repository
from nixery.image.packages import Evaluation
from nixery.nix.interface import Nix
from nixery.runtime.clocks import WallClock
from nixery.runtime.workers import Workers
from nixery.sources.interface import Sources

__all__ = ["DocumentMaker"]


DOCUMENTS = 3
"""The number of documents about an image that is not too large."""


@define(kw_only=True, eq=False)
class DocumentMaker:
    """
    Makes the documents about images that have just been made.

    :param sources: fetches package sets; the flakes of images are there already.
    :param nix: has built the images.
    :param cpu: the pool in which documents are made.
    :param builder: the URI of who builds the images.
    :param wall_clock: tells the time for the provenance; ``None`` to leave it out.
    """

    sources: Sources
    nix: Nix
    cpu: Workers
    builder: str
    wall_clock: WallClock | None = None

    _log = Logger()

    async def make(
        self, request: ImageRequest, evaluation: Evaluation, graph: RuntimeGraph, origins: Origins
    ) -> tuple[Document, ...]:
        """
        Make the documents about an image, in the order in which clients see them.

        :param graph: the closure of the evaluated packages.
        :param origins: the origins of the store paths that were made valid for the image.
        """
        materials = source_materials(request.revision)
        if request.revision.identity["kind"] == "flake":
            package_set = await self.sources.fetch(request.revision)
            materials += await self.cpu.run(flake_materials, package_set)
        provenance = Provenance(
            builder=self.builder,
            image=canonical_repository(request.name.repository),
            system=evaluation.system,
            sources=materials,
            derivations=[package.derivation for package in evaluation.packages],
            evaluation=self.nix.evaluation_identity(),
            nix_version=self.nix.version(),
            graph=graph,
            origins=origins,
            finished_on=None if self.wall_clock is None else _rfc_3339(self.wall_clock.now()),
        )
        documents = await self.cpu.run(make_documents, graph, evaluation, provenance)
        if len(documents) < DOCUMENTS:
            self._log.warn(
                "{image} has too many store paths ({count}) for {missing} of its SBOMs",
                image=request.name.repository,
                count=len(graph),
                missing=DOCUMENTS - len(documents),
            )
        return documents


def _rfc_3339(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
