"""
The pipeline: from an image name and a tag to an image that is stored.

    name + tag -> revision -> evaluated packages -> (known image? answer)
      -> realised closure graph -> layer plan -> packed layers in storage
      -> manifests in storage -> answer

The first line is :mod:`nixery.pulls.images`; the methods of :class:`Builder` read like the
others.  A build is a job of the server: keyed, shared by all who ask for the same
image, never owned by a connection.
"""

from __future__ import annotations

from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from typing import Any

from attrs import define, evolve, field, frozen
from cachetools import LRUCache
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from nixery.builds import cache_keys
from nixery.builds.build_record import BuildRecord
from nixery.builds.errors import ImageTimedOut
from nixery.builds.fair_queue import FairQueue
from nixery.builds.image_cache import FailureCache, ImageCache
from nixery.builds.layer_cache import LayerRecord
from nixery.builds.packer import Packer
from nixery.builds.progress import Build
from nixery.builds.realisation import realise
from nixery.errors import NixeryError, ShuttingDown
from nixery.image.canonical_json import Json, sha256_hex
from nixery.image.closure import RuntimeGraph
from nixery.image.errors import ImageLimitExceeded
from nixery.image.manifests import CONFIG_VERSION, Image, ImageLayer, build_image
from nixery.image.names import ImageName
from nixery.image.packages import Evaluation
from nixery.layers import tarball
from nixery.layers.grouping import LayerPlan, LayerSettings, Popularity, plan_layers
from nixery.layers.rootfs import ROOT_VERSION, RootTree, plan_root
from nixery.layers.tarball import STORE, Compression
from nixery.limits.build_quota import BuildQuota
from nixery.limits.errors import ImageTooLarge
from nixery.limits.package_rules import PackageRules
from nixery.nix.errors import (
    BuildFailed,
    BuildTimedOut,
    EvaluationTimedOut,
    NixUnusable,
    WrongSystem,
)
from nixery.nix.interface import Nix
from nixery.nix.progress import Phase, Progress
from nixery.runtime.deferreds import TimedOut, gather, with_timeout
from nixery.runtime.single_flight import SingleFlight
from nixery.runtime.workers import Workers
from nixery.sources.interface import Sources
from nixery.sources.source import PackageSet, Revision, source_trees
from nixery.storage.errors import BlobsMissing
from nixery.storage.interface import Storage

__all__ = ["BuildLimits", "Builder", "ImageSettings"]

MAX_REPACKS = 2
"""How often an image is made again whose layers were removed while it was made."""

REMEMBERED = (
    BuildFailed,
    BuildTimedOut,
    EvaluationTimedOut,
    ImageLimitExceeded,
    ImageTimedOut,
    ImageTooLarge,
    WrongSystem,
)
"""Failures that cost much and that the next try would only repeat."""


MARGIN = 30.0
"""
Seconds that an image is given beyond its deadline.  Nix has the same deadline and
begins a little later; its own failure says which derivation it was.
"""


@frozen(kw_only=True)
class BuildLimits:
    """
    What builds may take.

    :param builds: how many images are made at once.
    :param evaluations: how many images' packages are looked up at once.
    :param queue: how many images wait for either.
    :param deadline: seconds that the making of one image may take, from when its
        turn has come.
    :param stop_grace: seconds that the builds which run are given to end when the
        daemon stops.
    :param closure: bytes that an image may have, unpacked; ``None``: any number.
    """

    builds: int = 4
    evaluations: int = 4
    queue: int = 64
    deadline: float = 14400.0
    stop_grace: float = 0.0
    closure: int | None = None


@frozen(kw_only=True)
class ImageSettings:
    """
    What shapes an image besides its packages.

    :param layers: how a closure is cut into layers.  The root of the image takes
        one more.
    :param popularity: package-set-wide reference counts; empty if unknown.
    :param compression: how layers are compressed.
    """

    layers: LayerSettings
    popularity: Popularity
    compression: Compression

    def identity(self) -> dict[str, Json]:
        """All of it as plain data, for cache keys."""
        return {
            "compression": self.compression.label,
            "config": CONFIG_VERSION,
            "layers": self.layers.identity(),
            "popularity": self.popularity.digest,
            "root": ROOT_VERSION,
            "tar": tarball.FORMAT,
        }


@frozen(kw_only=True)
class _Packed:
    """
    What an image consists of, stored.

    :param layers: from the bottom to the top.
    :param root: what the top one holds.
    """

    layers: list[ImageLayer]
    root: RootTree


@define(kw_only=True, eq=False)
class Builder(Service):
    """
    Makes images, each of them once.

    :param sources: where packages come from.
    :param nix: evaluates and builds them.
    :param storage: keeps what is made.
    :param images: what has been made.
    :param files: the pool in which file systems are asked small questions.
    :param cpu: the pool in which layers are grouped and packed.
    :param packers: how many layers are in the making at once: some on the threads of
        ``cpu``, others on their way to the disk.
    :param settings: what shapes the images.
    :param popularity: the popularity data to make an image by, instead of those of
        ``settings``; they may change while the daemon runs.
    :param clock: measures what builds take.
    :param limits: what they may take.
    :param failure_ttl: how long a failure is remembered, in seconds.
    :param store: the directory of this machine that holds the store paths.
    :param room: awaited before an image is begun, and before each of its layers; raises
        :class:`nixery.storage.errors.DiskSpaceLow` where there is too little for it.
    :param made: is told how an image was made; must not take time.
    :param rules: which packages are served.
    :param allowance: how many images are made for a client.
    """

    sources: Sources
    nix: Nix
    storage: Storage
    images: ImageCache
    files: Workers
    cpu: Workers
    packers: int
    settings: ImageSettings
    clock: IReactorTime
    failure_ttl: float
    limits: BuildLimits = BuildLimits()
    store: str = STORE
    popularity: Callable[[], Awaitable[Popularity]] | None = None
    room: Callable[[], Awaitable[None]] | None = None
    made: Callable[[BuildRecord], None] | None = None
    rules: PackageRules = field(factory=PackageRules)
    allowance: BuildQuota = field(factory=BuildQuota)

    _packer: Packer = field(init=False)
    _keys: MutableMapping[tuple[ImageName, Revision, str], str] = field(init=False)
    _failures: FailureCache = field(init=False)
    _evaluating: SingleFlight[str, Evaluation] = field(factory=SingleFlight, init=False)
    _building: SingleFlight[str, Image] = field(factory=SingleFlight, init=False)
    # Who does what others, who ask for the same image by another name, wait for.
    _makers: dict[str, Build] = field(factory=dict, init=False)
    _evaluation_queue: FairQueue[ImageName] = field(init=False)
    _build_queue: FairQueue[ImageName] = field(init=False)
    _stopping: bool = field(default=False, init=False)

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._keys = LRUCache(4096)
        self._failures = FailureCache(seconds=self.clock.seconds, ttl=self.failure_ttl)
        self._evaluation_queue = FairQueue(
            max_running=self.limits.evaluations, max_waiting=self.limits.queue
        )
        self._build_queue = FairQueue(max_running=self.limits.builds, max_waiting=self.limits.queue)
        self._packer = Packer(
            storage=self.storage,
            cpu=self.cpu,
            slots=self.packers,
            compression=self.settings.compression,
            store=self.store,
            room=self.room,
        )

    @property
    def queues(self) -> Mapping[str, FairQueue[ImageName]]:
        """What images wait in for their turn."""
        return {"evaluation": self._evaluation_queue, "build": self._build_queue}

    @property
    def stopping(self) -> bool:
        """Whether no builds are taken any more."""
        return self._stopping

    async def current_settings(self) -> ImageSettings:
        """What shapes the images that are asked for now; the first ones wait for it."""
        if self.popularity is None:
            return self.settings
        popularity = await self.popularity()
        if popularity is not self.settings.popularity:
            self.settings = evolve(self.settings, popularity=popularity)
        return self.settings

    def request_key(self, name: ImageName, revision: Revision, settings: ImageSettings) -> str:
        """
        The key of what a name asks for at a revision: of all that its image depends on,
        as far as that is known without evaluating anything.
        """
        # Hashing all of it takes longer than a warm answer does otherwise; only these
        # three change while the daemon runs.
        asked = name, revision, settings.popularity.digest
        key = self._keys.get(asked)
        if key is None:
            key = self._keys[asked] = cache_keys.request_key(
                name,
                revision,
                {**settings.identity(), "evaluation": self.nix.evaluation_identity()},
            )
        return key

    async def evaluate(
        self, name: ImageName, revision: Revision, request: str, progress: Build
    ) -> Evaluation:
        """
        The packages of an image; evaluated once for all who ask at the same time.

        :param request: the request key of the name at the revision.
        :param progress: told how far it is.
        :raises QueueFull: too many wait for their evaluation already.
        :raises PackagesDenied: packages are not served.
        :raises PackagesRefused: packages do not exist, or may not be used.
        :raises RememberedFailure: it has failed a short while ago.
        :raises ShuttingDown: the daemon stops.
        :raises NixeryError: Nix failed.
        """
        if self._stopping:
            raise ShuttingDown
        self.rules.check(name)
        self._failures.check(request)

        async def work() -> Evaluation:
            # What users have misspelt is no fault of anybody here.
            with self._noting(name, "evaluated", request, self._log.info):
                # Not while others wait for their turn: it may take minutes.
                package_set = await self._fetch(revision, progress)

                async def evaluate() -> Evaluation:
                    progress.started()
                    evaluating = Deferred.fromCoroutine(
                        self.nix.evaluate(package_set, name.system, name.requirements)
                    )
                    # Second, because starting a process takes a while.
                    self.nix.prepare()
                    return await evaluating

                evaluation = await self._evaluation_queue.run(name, evaluate, progress.queued)
                self.rules.check_found(evaluation)
                return evaluation

        progress.phase(Phase.EVALUATING)
        return await self._evaluating.run(request, work)

    async def _fetch(self, revision: Revision, progress: Build) -> PackageSet:
        if not source_trees(revision):
            return await self.sources.fetch(revision)
        progress.phase(Phase.FETCHING)
        package_set = await self.sources.fetch(revision)
        progress.phase(Phase.EVALUATING)
        return package_set

    async def build(
        self,
        name: ImageName,
        revision: Revision,
        evaluation: Evaluation,
        progress: Build,
        settings: ImageSettings,
    ) -> Image:
        """
        The image of evaluated packages; the known one, or one that is made once for
        all who ask.

        :param progress: told how far it is, or who makes the image already.
        :param settings: what shapes it, as :meth:`current_settings` said.
        :raises BuildFailed: a derivation failed.
        :raises BuildsExceeded: the client has had too many images built.
        :raises ImageTooLarge: it is larger than images may be.
        :raises QueueFull: too many images wait to be built already.
        :raises RememberedFailure: it has failed a short while ago.
        :raises ShuttingDown: the daemon stops.
        :raises NixeryError: whatever else may go wrong on the way.
        """
        if self._stopping:
            raise ShuttingDown
        key = cache_keys.image_key(evaluation, settings.identity())
        known = await self.images.get(key)
        if known is not None:
            return known
        maker = self._makers.get(key)
        if maker is not None:
            progress.follow(maker)
        return await self._building.run(
            key, lambda: self._build(key, name, revision, evaluation, progress, settings)
        )

    def stopService(self) -> Deferred[None]:
        """
        Take no more builds, give those that run a while, and cancel what is left;
        fires when all have ended.
        """
        self._stopping = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        # What has not begun never will, and what is evaluated would not be built.
        self._evaluation_queue.stop()
        self._build_queue.stop()
        evaluating = self._evaluating.stop()
        await self._settle()
        # Outermost first: a build that is cancelled cleans up after itself, and
        # what it waited for is of no use to anyone then.
        await evaluating
        await self._building.stop()
        await self._packer.stop()

    async def _settle(self) -> None:
        """Give the builds that run a while to end."""
        grace = self.limits.stop_grace
        if len(self._building) == 0 or grace <= 0:
            return
        self._log.info(
            "waiting up to {seconds:g} s for {count} builds",
            seconds=grace,
            count=len(self._building),
        )
        with suppress(TimedOut):
            await with_timeout(grace, self.clock, self._building.settled())

    async def _build(
        self,
        key: str,
        name: ImageName,
        revision: Revision,
        evaluation: Evaluation,
        progress: Build,
        settings: ImageSettings,
    ) -> Image:
        """Make an image when its turn comes, tell how it went, and remember failures."""
        # Derivations stand beside the image's own key: the same outputs may be
        # built in another way now, and that deserves a try.
        attempt = sha256_hex(
            {"image": key, "derivations": [package.derivation for package in evaluation.packages]}
        )
        self._failures.check(attempt)
        self.allowance.begin()
        for missing in evaluation.left_out:
            self._log.info(
                "{image}: the package set has no {missing}, which is left out",
                image=name.repository,
                missing=missing,
            )
        self._makers[key] = progress
        try:
            with self._noting(name, "built", attempt, self._log.error):
                return await self._build_queue.run(
                    name,
                    lambda: self._publish(
                        key,
                        lambda: self._make_in_time(name, revision, evaluation, progress, settings),
                    ),
                    progress.queued,
                )
        finally:
            del self._makers[key]

    @contextmanager
    def _noting(
        self, name: ImageName, done: str, key: str, tell: Callable[..., None]
    ) -> Iterator[None]:
        """
        Tell what fails, and remember it where that is worth it.

        :param done: what is being done to the image.
        :param key: what a failure is remembered by.
        :param tell: writes a line to the log, as grave as the failure is.
        """
        try:
            yield
        except CancelledError as error:
            raise ShuttingDown from error
        except ShuttingDown:
            raise
        except NixeryError as error:
            tell("{image} was not {done}: {error}", image=name.repository, done=done, error=error)
            if isinstance(error, REMEMBERED):
                self._failures.add(key, error)
            raise
        except Exception:
            # Perhaps nobody waits any more who would be told of it.
            self._log.failure("{image} was not {done}", image=name.repository, done=done)
            raise

    async def _publish(self, key: str, make: Callable[[], Awaitable[Image]]) -> Image:
        """
        Make an image and publish it, again where a collection took layers from under it.

        :raises BlobsVanished: it did so each time.
        """
        for _ in range(MAX_REPACKS):
            image = await make()
            try:
                await self.images.add(key, image)
            except BlobsMissing as error:
                self._log.warn("an image is made again: {error}", error=error)
            else:
                return image
        image = await make()
        await self.images.add(key, image)
        return image

    async def _make_in_time(
        self,
        name: ImageName,
        revision: Revision,
        evaluation: Evaluation,
        progress: Build,
        settings: ImageSettings,
    ) -> Image:
        """:raises ImageTimedOut: all of it together took too long."""
        progress.started()
        begun = self.clock.seconds()
        limit = self.limits.deadline
        try:
            image = await with_timeout(
                limit + MARGIN,
                self.clock,
                self._make(name, revision, evaluation, progress, settings),
            )
        except TimedOut:
            raise ImageTimedOut(
                image=name.repository,
                phase=progress.view().doing(),
                seconds=limit,
                setting="build_deadline",
            ) from None
        self._log.info(
            "{image} was built in {seconds:.2f} s as {digest}",
            image=name.repository,
            seconds=self.clock.seconds() - begun,
            digest=image.manifests[0].digest,
        )
        return image

    async def _make(
        self,
        name: ImageName,
        revision: Revision,
        evaluation: Evaluation,
        progress: Progress,
        settings: ImageSettings,
    ) -> Image:
        if self.room is not None:
            await self.room()
        held = await self.nix.hold(_outputs(evaluation))
        if held is not None:
            realisation = held.realisation
        else:
            realisation, evaluation = await realise(
                self.nix,
                lambda: self.sources.fetch(revision),
                name,
                evaluation,
                progress,
            )
        try:
            graph = held.graph if held is not None else await self.nix.closure(_outputs(evaluation))
            self._check_size(graph)
            plan = await self.cpu.run(plan_layers, graph, settings.popularity, settings.layers)
            progress.phase(Phase.PACKING)
            packed = await self._pack(evaluation, plan, progress)
            if self.nix.lost(realisation):
                await self._mistrust(plan)
        finally:
            # Layers are in storage: what a collection takes from here on is not
            # missed.
            await self.nix.release(realisation)
        progress.phase(Phase.STORING)
        image = build_image(
            layers=packed.layers,
            packages=evaluation.packages,
            system=evaluation.system,
            has_shell=packed.root.shell == "/bin/bash",
            has_ca_bundle=packed.root.has_ca_bundle,
        )
        if self.made is not None:
            self.made(
                BuildRecord(
                    digest=image.manifests[0].digest,
                    source=revision.label,
                    evaluation=evaluation,
                    graph=graph,
                    plan=plan,
                    layers=packed.layers,
                    popularity=settings.popularity,
                )
            )
        return image

    async def _mistrust(self, plan: LayerPlan) -> None:
        """
        Forget layers whose store paths a collection may have been removing meanwhile.

        :raises NixUnusable: always.
        """
        # A directory that is being removed looks like one that holds less.
        reason = "the process that kept its store paths from garbage collection has ended"
        for group in plan:
            await self._packer.forget(group.paths, reason)
        raise NixUnusable(reason=f"{reason} while they were packed: try again")

    def _check_size(self, graph: RuntimeGraph) -> None:
        limit = self.limits.closure
        if limit is not None and (size := graph.nar_size) > limit:
            raise ImageTooLarge(
                what="MiB of unpacked files",
                value=size >> 20,
                limit=limit >> 20,
                setting="max_closure",
            )

    async def _pack(self, evaluation: Evaluation, plan: LayerPlan, progress: Progress) -> _Packed:
        """Pack the layers of a closure and the root, and store them."""
        trees: list[RootTree] = []

        async def root() -> LayerRecord:
            # Beside the layers, which do not depend on it.
            tree = await self.cpu.run(plan_root, evaluation.packages, store=self.store)
            trees.append(tree)
            return await self._packer.root(evaluation.packages, tree)

        # The largest first: begun last, it would keep one thread busy while the
        # others have nothing left to do.
        order = sorted(
            range(len(plan)), key=lambda index: plan.layers[index].nar_size, reverse=True
        )
        jobs = [
            root(),
            *(
                self._packer.store_paths(plan.layers[index].paths, plan.layers[index].nar_size)
                for index in order
            ),
        ]
        done = 0

        async def counted(job: Coroutine[Deferred[Any], Any, LayerRecord]) -> LayerRecord:
            nonlocal done
            record = await job
            done += 1
            progress.count(Phase.PACKING, done, len(jobs), "layers")
            return record

        top, *others = await gather(counted(job) for job in jobs)
        records = dict(zip(order, others, strict=True))
        compression = self.settings.compression.kind
        layers = [
            *(
                _image_layer(records[index], compression, group.names)
                for index, group in enumerate(plan)
            ),
            _image_layer(top, compression, ["symbolic links to the packages' files"]),
        ]
        return _Packed(layers=layers, root=trees[0])


def _outputs(evaluation: Evaluation) -> list[str]:
    """The store paths of an image's packages, sorted."""
    return sorted({output.path for each in evaluation.packages for output in each.outputs})


def _image_layer(record: LayerRecord, compression: str, contents: Sequence[str]) -> ImageLayer:
    return ImageLayer(
        digest=record.digest,
        size=record.size,
        diff_id=record.diff_id,
        uncompressed_size=record.uncompressed_size,
        compression=compression,
        contents=tuple(contents),
    )
