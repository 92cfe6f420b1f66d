"""Make the documents about an image that has just been made."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from attrs import define

from nixery.artifacts.document import Document
from nixery.artifacts.image_documents import make_documents
from nixery.artifacts.provenance import Material, Provenance
from nixery.builds.build_record import BuildRecord
from nixery.builds.request import ImageRequest
from nixery.image.names import canonical_repository
from nixery.nix.interface import Nix
from nixery.runtime.clocks import WallClock
from nixery.runtime.workers import Workers
from nixery.sources.source import (
    Revision,
    SourceTree,
    is_pinned_path,
    overlay_paths,
    source_trees,
)

__all__ = ["DocumentMaker", "source_materials"]


@define(kw_only=True, eq=False)
class DocumentMaker:
    """
    Makes the documents about images that have just been made.

    :param nix: has built the images.
    :param cpu: the pool in which documents are made.
    :param builder: the URI of who builds the images.
    :param wall_clock: tells the time for the provenance; ``None`` to leave it out.
    """

    nix: Nix
    cpu: Workers
    builder: str
    wall_clock: WallClock | None = None

    async def make(self, request: ImageRequest, record: BuildRecord) -> tuple[Document, ...]:
        """Make the documents about an image, in the order in which clients see them."""
        evaluation = record.evaluation
        provenance = Provenance(
            builder=self.builder,
            image=canonical_repository(request.name.repository),
            system=evaluation.system,
            sources=source_materials(request.revision),
            derivations=[package.derivation for package in evaluation.packages],
            evaluation=self.nix.evaluation_identity(),
            nix_version=self.nix.version(),
            graph=record.graph,
            origins=record.origins,
            finished_on=None if self.wall_clock is None else _rfc_3339(self.wall_clock.now()),
        )
        return await self.cpu.run(make_documents, record.graph, evaluation, provenance)


def source_materials(revision: Revision) -> tuple[Material, ...]:
    """Return the package set of a revision, then the overlays on it."""
    trees = [_fetched(tree) for tree in source_trees(revision)]
    if not trees:
        trees = [_local(Path(revision.identity["path"]))]
    return (*trees, *map(_local, overlay_paths(revision)))


def _fetched(tree: SourceTree) -> Material:
    if tree.kind == "flake" and tree.url.startswith("path:"):
        return _local(Path(tree.url.removeprefix("path:")))
    return Material(
        uri=f"git+{tree.url}" if tree.kind == "git" else tree.url,
        digest={"gitCommit": tree.commit} if tree.commit else {},
    )


def _local(path: Path) -> Material:
    # A store path says what is in it, and is the same on every machine.
    return Material(uri=f"nix:{path}" if is_pinned_path(path) else path.absolute().as_uri())


def _rfc_3339(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
