"""
The pipeline that makes one image:

    revision -> package set -> evaluated packages
      -> realised closure graph -> layer plan -> packed layers in storage
      -> manifests in storage -> image

The methods of :class:`ImagePipeline` read like these lines.  It makes an image on each
call: :class:`nixery.builds.builder.Builder` decides which images are made, and when.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from nixery.artifacts.document import Document
from nixery.artifacts.provenance import Origins
from nixery.builds.build_record import BuildRecord
from nixery.builds.document_maker import DocumentMaker
from nixery.builds.errors import ImageTimedOut
from nixery.builds.image_cache import ImageCache
from nixery.builds.layer_cache import LayerRecord
from nixery.builds.packer import Packer
from nixery.builds.progress import Build
from nixery.builds.realisation import realise
from nixery.builds.request import ImageRequest
from nixery.builds.settings import BuildLimits
from nixery.image.closure import RuntimeGraph
from nixery.image.manifests import Image, ImageLayer, build_image
from nixery.image.names import Digest
from nixery.image.packages import Evaluation, attributes_with
from nixery.layers.errors import ReservedName
from nixery.layers.grouping import plan_layers
from nixery.layers.plan import LayerPlan
from nixery.layers.rootfs import RootTree, plan_root
from nixery.layers.tarball import STORE, Compression
from nixery.nix.errors import NixUnusable
from nixery.nix.interface import Nix
from nixery.nix.progress import Phase, Progress
from nixery.runtime.deferreds import TimedOut, gather, with_timeout
from nixery.runtime.workers import Workers
from nixery.sources.interface import Sources
from nixery.sources.source import PackageSet, Revision
from nixery.sources.source_trees import source_trees
from nixery.storage.errors import BlobsMissing
from nixery.storage.interface import Storage

__all__ = ["DEADLINE_MARGIN_SECONDS", "ImagePipeline"]

MAX_REPACKS = 2
"""The most times that an image is built again because its layers were removed meanwhile."""

MAX_LOGGED_NOTES = 10
"""The most lines that are logged of entries that an image's root does not have."""

DEADLINE_MARGIN_SECONDS = 30.0
"""
Seconds that an image is given beyond its deadline.  Nix has the same deadline and
begins a little later; its own failure names the derivation.
"""


@frozen(kw_only=True)
class _PackedImage:
    """
    The stored layers of an image.

    :param layers: from the bottom to the top.
    :param root: the tree in the top layer.
    """

    layers: list[ImageLayer]
    root: RootTree


@frozen(kw_only=True)
class _MadeImage:
    """An image that is not published yet, and the documents about it."""

    image: Image
    documents: Sequence[Document]

    @property
    def attached(self) -> Mapping[Digest, Sequence[Document]]:
        """The documents of each of the manifests."""
        return {manifest.digest: self.documents for manifest in self.image.manifests}


@define(kw_only=True, eq=False)
class ImagePipeline:
    """
    The stages that make an image of a request.

    :param sources: fetches package sets.
    :param nix: evaluates and builds packages.
    :param storage: stores layers.
    :param image_cache: stores the manifests.
    :param cpu: the thread pool in which layers are grouped and packed.
    :param max_batches: the number of layers that are made at once: some on the threads of
        ``cpu``, others being written to the disk.
    :param compression: the compression of the layers.
    :param clock: measures the time of builds.
    :param limits: the deadline of an image, and its largest size.
    :param store_directory: the directory of this machine that holds the store paths.
    :param check_free_space: awaited before an image is begun, and before each of its layers; raises
        :class:`nixery.storage.errors.DiskSpaceLow` if there is too little free space.
    :param documents: makes the documents about the images; ``None``: there are none.
    :param on_built: called with the record of each image that was made; must not block.
    """

    sources: Sources
    nix: Nix
    storage: Storage
    image_cache: ImageCache
    cpu: Workers
    max_batches: int
    compression: Compression
    clock: IReactorTime
    limits: BuildLimits = field(factory=BuildLimits)
    store_directory: str = STORE
    check_free_space: Callable[[], Awaitable[None]] | None = None
    documents: DocumentMaker | None = None
    on_built: Callable[[BuildRecord], None] | None = None

    _packer: Packer = field(init=False)

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._packer = Packer(
            storage=self.storage,
            cpu=self.cpu,
            max_batches=self.max_batches,
            compression=self.compression,
            store_directory=self.store_directory,
            check_free_space=self.check_free_space,
        )

    async def fetch(self, revision: Revision, progress: Build) -> PackageSet:
        """Fetch the package set of a revision; it may take minutes."""
        if not source_trees(revision):
            return await self.sources.fetch(revision)
        progress.phase(Phase.FETCHING)
        package_set = await self.sources.fetch(revision)
        progress.phase(Phase.EVALUATING)
        return package_set

    async def evaluate(
        self, package_set: PackageSet, request: ImageRequest, progress: Build
    ) -> Evaluation:
        """Evaluate the packages of an image."""
        progress.set_running()
        evaluation = Deferred.fromCoroutine(
            self.nix.evaluate(package_set, request.name.system, request.name.package_requests)
        )
        # Called after the evaluation was started: starting a process takes a while.
        self.nix.prewarm()
        return await evaluation

    async def make(self, request: ImageRequest, evaluation: Evaluation, progress: Build) -> Image:
        """
        Make an image and publish it; make it again if a collection removed its layers.

        :param evaluation: the evaluation of the requested packages.
        :param progress: receives the progress.
        :raises BuildFailed: a derivation failed.
        :raises ImageTimedOut: all stages together took too long.
        :raises ImageTooLarge: it is larger than images may be.
        :raises ReservedName: a file has a name that layers cannot have.
        :raises BlobsMissing: layers were removed each time.
        :raises NixeryError: any other failure of a stage.
        """
        key = request.image_key(evaluation)
        for _ in range(MAX_REPACKS):
            made = await self._make_within_deadline(request, evaluation, progress)
            try:
                await self.image_cache.add(key, made.image, made.attached)
            except BlobsMissing as error:
                self._log.warn("an image is built again: {error}", error=error)
            else:
                return made.image
        made = await self._make_within_deadline(request, evaluation, progress)
        await self.image_cache.add(key, made.image, made.attached)
        return made.image

    async def _make_within_deadline(
        self, request: ImageRequest, evaluation: Evaluation, progress: Build
    ) -> _MadeImage:
        """
        Make an image within the deadline.

        :raises ImageTimedOut: all stages together took too long.
        """
        progress.set_running()
        started_at = self.clock.seconds()
        limit = self.limits.deadline
        try:
            made = await with_timeout(
                limit + DEADLINE_MARGIN_SECONDS,
                self.clock,
                self._run_stages(request, evaluation, progress),
            )
        except TimedOut:
            raise ImageTimedOut(
                image=request.name.repository,
                phase=progress.view().describe_activity(),
                seconds=limit,
                setting="build_deadline",
            ) from None
        self._log.info(
            "{image} was built in {seconds:.2f} s as {digest}",
            image=request.name.repository,
            seconds=self.clock.seconds() - started_at,
            digest=made.image.manifests[0].digest,
        )
        return made

    async def stop(self) -> None:
        """Cancel the layers that are being packed."""
        await self._packer.stop()

    async def _run_stages(
        self, request: ImageRequest, evaluation: Evaluation, progress: Progress
    ) -> _MadeImage:
        if self.check_free_space is not None:
            await self.check_free_space()
        rooted = await self.nix.root_if_valid(evaluation.output_paths)
        if rooted is not None:
            realisation = rooted.realisation
        else:
            realisation, evaluation = await realise(
                self.nix,
                lambda: self.sources.fetch(request.revision),
                request.name,
                evaluation,
                progress,
            )
        try:
            graph = (
                rooted.graph
                if rooted is not None
                else await self.nix.closure(evaluation.output_paths)
            )
            self.limits.check_closure_size(graph.nar_size)
            await self._check_names(graph, evaluation)
            plan = await self.cpu.run(
                plan_layers, graph, request.settings.popularity, request.settings.layers
            )
            progress.phase(Phase.PACKING)
            packed: _PackedImage
            documents: tuple[Document, ...]
            # The documents are about what is in the layers, and not about the layers.
            work: tuple[Coroutine[Deferred[Any], Any, Any], ...] = (
                self._pack(evaluation, graph, plan, progress),
                self._make_documents(request, evaluation, graph, realisation.origins),
            )
            packed, documents = await gather(work)
            if self.nix.root_expired(realisation):
                await self._discard_layers(plan)
            self._log_root(request.name.repository, packed.root)
        finally:
            # The layers are in storage: store paths that are collected from here on are
            # not needed any more.
            await self.nix.release(realisation)
        progress.phase(Phase.STORING)
        image = build_image(
            layers=packed.layers,
            packages=evaluation.packages,
            system=evaluation.system,
            has_shell=packed.root.shell == "/bin/bash",
            has_ca_bundle=packed.root.has_ca_bundle,
        )
        if self.on_built is not None:
            self.on_built(
                BuildRecord(
                    digest=image.manifests[0].digest,
                    source=request.revision.label,
                    evaluation=evaluation,
                    graph=graph,
                    plan=plan,
                    layers=packed.layers,
                    popularity=request.settings.popularity,
                    programs=packed.root.programs(),
                    notes=tuple(packed.root.describe()),
                )
            )
        return _MadeImage(image=image, documents=documents)

    async def _make_documents(
        self, request: ImageRequest, evaluation: Evaluation, graph: RuntimeGraph, origins: Origins
    ) -> tuple[Document, ...]:
        if self.documents is None:
            return ()
        return await self.documents.make(request, evaluation, graph, origins)

    async def _discard_layers(self, plan: LayerPlan) -> None:
        """
        Discard the layers whose store paths may have been removed while they were packed.

        :raises NixUnusable: always.
        """
        # A directory that is being removed looks like a smaller one.
        reason = "the process that kept its store paths from garbage collection has ended"
        for group in plan:
            await self._packer.discard_layer(group.paths, reason)
        raise NixUnusable(reason=f"{reason} while they were packed: try again")

    async def _check_names(self, graph: RuntimeGraph, evaluation: Evaluation) -> None:
        """
        Check that layers can hold all files of a closure, before any of it is stored.

        :raises ReservedName: a file has a name that a layer cannot have.
        """
        try:
            await self._packer.check_names(graph.paths)
        except ReservedName as error:
            top = "/".join(error.path.split("/")[:4])
            packages = attributes_with(evaluation, graph, top)
            raise evolve(error, packages=packages) from error

    def _log_root(self, image: str, root: RootTree) -> None:
        """Log the first of the packages' entries that are not in the root."""
        notes = [*root.describe()]
        for note in notes[:MAX_LOGGED_NOTES]:
            self._log.info("{image}: {note}", image=image, note=note)
        if len(notes) > MAX_LOGGED_NOTES:
            self._log.info(
                "{image}: {count} more entries of its packages are not at its root",
                image=image,
                count=len(notes) - MAX_LOGGED_NOTES,
            )

    async def _pack(
        self,
        evaluation: Evaluation,
        graph: RuntimeGraph,
        plan: LayerPlan,
        progress: Progress,
    ) -> _PackedImage:
        """Pack the layers of a closure and the root, and store them."""
        trees: list[RootTree] = []

        async def pack_root() -> LayerRecord:
            # Runs concurrently with the layers, which do not depend on it.
            tree = await self.cpu.run(
                plan_root,
                evaluation.packages,
                closure=[path.path for path in graph.paths],
                store=self.store_directory,
            )
            trees.append(tree)
            return await self._packer.get_root_layer(tree)

        # The largest layer first: begun last, it would keep one thread busy while the
        # others are idle.
        order = sorted(
            range(len(plan)), key=lambda index: plan.layers[index].nar_size, reverse=True
        )
        jobs = [
            pack_root(),
            *(
                self._packer.get_layer(plan.layers[index].paths, plan.layers[index].nar_size)
                for index in order
            ),
        ]
        done = 0

        async def count_when_done(job: Coroutine[Deferred[Any], Any, LayerRecord]) -> LayerRecord:
            nonlocal done
            record = await job
            done += 1
            progress.count(Phase.PACKING, done, len(jobs), "layers")
            return record

        top, *others = await gather(count_when_done(job) for job in jobs)
        records = dict(zip(order, others, strict=True))
        compression = self.compression.kind
        layers = [
            *(
                records[index].image_layer(compression, group.names)
                for index, group in enumerate(plan)
            ),
            top.image_layer(compression, ["symbolic links to the packages' files"]),
        ]
        return _PackedImage(layers=layers, root=trees[0])
