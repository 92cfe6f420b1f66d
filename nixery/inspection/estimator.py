"""
Estimate the price of an image before it is pulled.

    name + tag --resolve--> revision --known?--> ready: the sizes in its manifest
                               |
                               +--evaluate--> packages --known?--> ready
                                                 |
                                                 +--closure valid?--> the plan of its layers
                                                 |
                                                 +--dry run--> downloads, builds

The way is that of a pull (:mod:`nixery.pulls.images`) up to where that begins to build.  Nothing is
built or downloaded beyond what an evaluation needs, no root outlives an estimate, and no use is
recorded: an estimate keeps no image in the storage.

Estimates have a queue of their own, fair between clients, so that they never keep a pull waiting;
each belongs to its client, and ends when that leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from nixery.builds.builder import Builder
from nixery.builds.candidates import CandidateSearch, visible_candidates
from nixery.builds.image_maker import MISSING_PLATFORM
from nixery.builds.planned_layers import plan_stored_layers
from nixery.builds.request import ImageRequest
from nixery.errors import NixeryError, UnexpectedOutput
from nixery.image.closure import RuntimeGraph
from nixery.image.errors import PackagesRefused
from nixery.image.image_index import skip_reason
from nixery.image.manifests import Image, Manifest
from nixery.image.names import Digest, ImageName, Tag
from nixery.image.packages import Evaluation, Package
from nixery.inspection.comparison import Comparison
from nixery.inspection.errors import ImageNotPulled
from nixery.inspection.estimate import (
    UNKNOWN_SIZE,
    Estimate,
    Held,
    PlatformEstimate,
    StorePlan,
)
from nixery.inspection.pull_sizes import exact_size, least_size, planned_size, shared_size
from nixery.limits.fair_queue import FairQueue
from nixery.nix.dry_run import DryRun
from nixery.nix.interface import RootedClosure
from nixery.process.errors import ProcessTimedOut
from nixery.sources.interface import Sources

__all__ = ["Estimator"]

_T = TypeVar("_T")

MAX_RUNNING = 2
"""The estimates that evaluate at once, beside the evaluations of pulls."""

MAX_WAITING = 32
"""The estimates that may wait for their turn."""


class _Catalog(Protocol):
    """Supplies the images that this registry has served."""

    async def find(self, name: ImageName, tag: Tag, system: str = "") -> Manifest | None:
        """Return the manifest last served for a name and a tag; of an index, a system's."""

    async def find_served(self, name: ImageName, digest: Digest, system: str) -> Manifest | None:
        """Return a manifest that was served for a name under any tag; of an index, a system's."""


class _Comparer(Protocol):
    """Compares images."""

    async def compare(self, old: Manifest, new: Manifest) -> Comparison:
        """Compare an image that a client has with one that it pulls."""


class _DryRunner(Protocol):
    """Asks Nix for the work that packages take."""

    async def dry_run(self, packages: Sequence[Package]) -> DryRun:
        """As :meth:`nixery.nix.dry_run.DryRunner.dry_run`."""


@frozen(kw_only=True)
class _HeldLayers:
    """The layers that a client has: of the image that it named, for one system."""

    manifest: Manifest
    digests: frozenset[Digest]


@define(kw_only=True, eq=False)
class Estimator:
    """
    Estimates the price of images.

    :param sources: resolves tags and fetches package sets.
    :param builder: would make the images.
    :param dry_runner: asks Nix for the work.
    :param catalog: knows the image that a client has.
    :param comparer: computes partial pulls.
    :param candidates: finds other names for those that do not exist.
    :param skips_missing_platforms: whether an index lacks the platforms that are missing; if not,
        there is no index without them.
    :param substitute_only: whether the registry builds nothing: what would be built is not
        available then.
    """

    sources: Sources
    builder: Builder
    dry_runner: _DryRunner
    catalog: _Catalog
    comparer: _Comparer
    candidates: CandidateSearch
    skips_missing_platforms: bool = True
    substitute_only: bool = False

    _queue: FairQueue[str] = field(
        factory=lambda: FairQueue(
            max_running=MAX_RUNNING,
            max_waiting=MAX_WAITING,
            what="estimates wait for their turn",
            retry_after=5.0,
        ),
        init=False,
    )
    _log = Logger()

    @property
    def _compression(self) -> str:
        return self.builder.pipeline.compression.kind

    async def estimate(
        self,
        client: str,
        name: ImageName,
        tag: Tag,
        having: Held | None = None,
        *,
        may_see: Callable[[str], bool] = lambda _name: True,
    ) -> Estimate:
        """
        Estimate the price of the image of a name at the revision that a tag names.

        Cancelling ends its evaluation.

        :param client: identifies the client; turns are shared fairly between clients.
        :param having: the image that the client has; the caller has checked that it may see it.
        :param may_see: tells whether the client may see the image of this name, for names that may
            have been meant.
        :raises ImageNotPulled: this registry does not know the image that the client has.
        :raises UnknownRevision: the tag names no revision.
        :raises PackagesRefused: packages do not exist, or may not be used.
        :raises ImageTooLarge: it would be larger than images may be.
        :raises QueueFull: too many estimates wait already.
        :raises NixeryError: any other failure of an evaluation, as of a pull.
        """
        revision = await self.sources.resolve(tag)
        request = self.builder.split(await self.builder.request(name, revision))
        parts = request.parts or (request,)
        platforms: list[PlatformEstimate] = []
        failures: list[NixeryError] = []
        for part in parts:
            held = None if having is None else await self._held(having, part.name.system)
            try:
                platforms.append(await self._estimate_platform(client, part, held))
            except MISSING_PLATFORM as error:
                failure = await self._with_candidates(error, may_see)
                failures.append(failure)
                if not (request.parts and self.skips_missing_platforms):
                    raise failure from error
                platforms.append(
                    PlatformEstimate(system=part.name.system, missing=skip_reason(failure.message))
                )
        if len(failures) == len(parts):
            raise failures[0]
        return Estimate(
            name=name, tag=tag, revision=revision.label, having=having, platforms=tuple(platforms)
        )

    async def _held(self, having: Held, system: str) -> _HeldLayers:
        name, reference = having.name, having.reference
        if ":" in reference:
            manifest = await self.catalog.find_served(name, Digest(reference), system)
        else:
            manifest = await self.catalog.find(name, Tag(reference), system)
        if manifest is None:
            raise ImageNotPulled(image=having.label)
        _, *layers = manifest.blobs()
        return _HeldLayers(manifest=manifest, digests=frozenset(layer.digest for layer in layers))

    async def _with_candidates(
        self, error: NixeryError, may_see: Callable[[str], bool]
    ) -> NixeryError:
        """Return the error with names that may have been meant by those that do not exist."""
        if not isinstance(error, PackagesRefused):
            return error
        problems = await self.candidates.complete(error.problems)
        return PackagesRefused(
            problems=tuple(visible_candidates(each, may_see) for each in problems)
        )

    async def _estimate_platform(
        self, client: str, request: ImageRequest, held: _HeldLayers | None
    ) -> PlatformEstimate:
        self.builder.package_rules.check(request.name)
        images = self.builder.pipeline.image_cache
        estimate = PlatformEstimate(system=request.name.system)
        if request.revision.pinned:
            image = await images.get(request.key, record_use=False)
            if image is not None:
                return await self._ready(estimate, image, held)
        # Fetched before the turn, since it may take minutes; concurrent fetches are one.
        package_set = await self.sources.fetch(request.revision)

        async def work() -> PlatformEstimate:
            evaluation = await self.builder.pipeline.nix.evaluate(
                package_set, request.name.system, request.name.package_requests
            )
            self.builder.package_rules.check_evaluation(evaluation)
            evaluated = evolve(estimate, evaluation=evaluation)
            image = await images.get(request.image_key(evaluation), record_use=False)
            if image is not None:
                return await self._ready(evaluated, image, held)
            return await self._unbuilt(evaluated, request, evaluation, held)

        return await self._queue.run(client, work, name=request.name)

    # -- images that are there ------------------------------------------------------------

    async def _ready(
        self, estimate: PlatformEstimate, image: Image, held: _HeldLayers | None
    ) -> PlatformEstimate:
        manifest = image.manifests[0]
        _, *layers = manifest.blobs()
        has = frozenset[Digest]() if held is None else held.digests
        partial = None
        if held is not None and self._compression == "zstd-chunked":
            partial = (await self.comparer.compare(held.manifest, manifest)).partial
        return evolve(
            estimate,
            ready=True,
            digest=manifest.digest,
            pull=exact_size([layer.size for layer in layers]),
            shared=None
            if held is None
            else exact_size([layer.size for layer in layers if layer.digest in has]),
            partial=partial,
        )

    # -- images that are to be built ------------------------------------------------------

    async def _unbuilt(
        self,
        estimate: PlatformEstimate,
        request: ImageRequest,
        evaluation: Evaluation,
        held: _HeldLayers | None,
    ) -> PlatformEstimate:
        async def valid(rooted: RootedClosure) -> PlatformEstimate:
            self.builder.pipeline.limits.check_closure_size(rooted.graph.nar_size)
            layers = await plan_stored_layers(
                self.builder.pipeline, request, evaluation, rooted.graph
            )
            return evolve(
                estimate,
                store=StorePlan(all_valid=True, valid_paths=len(rooted.graph)),
                pull=planned_size(layers, self._compression),
                shared=None if held is None else shared_size(layers, held.digests),
            )

        found = await self._with_closure(evaluation.output_paths, valid)
        if found is not None:
            return found
        try:
            dry_run = await self.dry_runner.dry_run(evaluation.packages)
        except (UnexpectedOutput, ProcessTimedOut) as error:
            self._log.warn(
                "{image}: its price is not known: {error}",
                image=request.name.repository,
                error=error,
            )
            return evolve(estimate, store=_UNKNOWN_PLAN)
        if not dry_run.known:
            return evolve(estimate, store=evolve(_UNKNOWN_PLAN, unreachable=dry_run.unreachable))
        derivations = {package.derivation for package in evaluation.packages}
        if derivations & set(dry_run.unavailable):
            # A garbage collection has taken them; a pull evaluates again.
            return evolve(estimate, store=_UNKNOWN_PLAN)
        return await self._to_realise(estimate, evaluation, dry_run)

    async def _to_realise(
        self, estimate: PlatformEstimate, evaluation: Evaluation, dry_run: DryRun
    ) -> PlatformEstimate:
        invalid = {*dry_run.fetches, *dry_run.unavailable}
        built = set(dry_run.builds)
        valid = sorted(
            {
                output.path
                for package in evaluation.packages
                if package.derivation not in built
                for output in package.outputs
            }
            - invalid
        )

        async def measure(rooted: RootedClosure) -> RuntimeGraph:
            return rooted.graph

        graph = (await self._with_closure(valid, measure)) or RuntimeGraph(paths={})
        # What builds need is downloaded too, and which of it will be in the image is not known
        # before they have ended.
        known_size = graph.nar_size + (0 if built else dry_run.unpacked_size)
        self.builder.pipeline.limits.check_closure_size(known_size)
        pull = UNKNOWN_SIZE
        if known_size:
            pull = least_size(known_size, self._compression)
        return evolve(
            estimate,
            store=StorePlan(
                valid_paths=len(graph),
                fetched=dry_run.fetches,
                download_size=dry_run.download_size,
                unpacked_size=dry_run.unpacked_size,
                built=() if self.substitute_only else dry_run.builds,
                unavailable=(
                    *(dry_run.builds if self.substitute_only else ()),
                    *dry_run.unavailable,
                ),
                unreachable=dry_run.unreachable,
            ),
            pull=pull,
        )

    async def _with_closure(
        self,
        outputs: Sequence[str],
        work: Callable[[RootedClosure], Coroutine[Deferred[Any], Any, _T]],
    ) -> _T | None:
        """
        Do some work on the closure of valid outputs, which is protected meanwhile.

        :return: ``None`` if an output is not valid.
        """
        nix = self.builder.pipeline.nix
        rooted = await nix.root_if_valid(outputs)
        if rooted is None:
            return None
        try:
            return await work(rooted)
        finally:
            await nix.release(rooted.realisation)


_UNKNOWN_PLAN = StorePlan(known=False, download_size=None, unpacked_size=None)
