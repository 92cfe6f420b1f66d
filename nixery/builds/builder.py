"""
The build pipeline: make a stored image from an image name and a tag.

    name + tag -> revision -> evaluated packages -> (known image? return it)
      -> realised closure graph -> layer plan -> packed layers in storage
      -> manifests in storage -> image

The first line is :mod:`nixery.pulls.images`; the methods of :class:`Builder` read like the
other lines.  A build is a job of the server: it has a key, is shared by all clients that ask
for the same image, and is never owned by a connection.
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
"""The most times that an image is made again because its layers were removed meanwhile."""

CACHED_FAILURES = (
    BuildFailed,
    BuildTimedOut,
    EvaluationTimedOut,
    ImageLimitExceeded,
    ImageTimedOut,
    ImageTooLarge,
    WrongSystem,
)
"""Failures that are expensive and would only be repeated by the next try: they are cached."""


DEADLINE_MARGIN_SECONDS = 30.0
"""
Seconds that an image is given beyond its deadline.  Nix has the same deadline and
begins a little later; its own failure names the derivation.
"""


@frozen(kw_only=True)
class BuildLimits:
    """
    Limits of the number, time and size of builds.

    :param builds: the number of images that are made at once.
    :param evaluations: the number of images whose packages are looked up at once.
    :param queue: the number of images that may wait for either.
    :param deadline: seconds that the making of one image may take, from when its
        turn has come.
    :param stop_grace: seconds that running builds are given to end when the
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
    The settings that determine an image besides its packages.

    :param layers: the settings by which a closure is cut into layers.  The root of the image takes
        one more.
    :param popularity: package-set-wide reference counts; empty if unknown.
    :param compression: the compression of the layers.
    """

    layers: LayerSettings
    popularity: Popularity
    compression: Compression

    def identity(self) -> dict[str, Json]:
        """Return all settings as plain data, for cache keys."""
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
    The stored layers of an image.

    :param layers: from the bottom to the top.
    :param root: the tree in the top layer.
    """

    layers: list[ImageLayer]
    root: RootTree


@define(kw_only=True, eq=False)
class Builder(Service):
    """
    Makes images, each of them once.

    :param sources: fetches package sets.
    :param nix: evaluates and builds packages.
    :param storage: stores layers and manifests.
    :param images: the cache of images that have been made.
    :param files: the thread pool for short file system operations.
    :param cpu: the thread pool in which layers are grouped and packed.
    :param packers: the number of layers that are made at once: some on the threads of
        ``cpu``, others being written to the disk.
    :param settings: the settings of the images.
    :param popularity: returns the popularity data to use instead of those of
        ``settings``; they may change while the daemon runs.
    :param clock: measures the time of builds.
    :param limits: the limits of builds.
    :param failure_ttl: the time that a failure is cached, in seconds.
    :param store: the directory of this machine that holds the store paths.
    :param room: awaited before an image is begun, and before each of its layers; raises
        :class:`nixery.storage.errors.DiskSpaceLow` if there is too little free space.
    :param made: called with the record of each image that was made; must not block.
    :param rules: decide which packages are served.
    :param allowance: limits the images that are made for a client.
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
    # By image key, the build that makes the image; builds of other names for it follow it.
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
        """The queues in which images wait for their turn, by stage."""
        return {"evaluation": self._evaluation_queue, "build": self._build_queue}

    @property
    def stopping(self) -> bool:
        """True once the builder accepts no more builds."""
        return self._stopping

    async def current_settings(self) -> ImageSettings:
        """Return the settings for images requested now; the first requests wait for the data."""
        if self.popularity is None:
            return self.settings
        popularity = await self.popularity()
        if popularity is not self.settings.popularity:
            self.settings = evolve(self.settings, popularity=popularity)
        return self.settings

    def request_key(self, name: ImageName, revision: Revision, settings: ImageSettings) -> str:
        """
        Return the request key of a name at a revision.

        It covers all that the image depends on, as far as that is known without evaluating
        anything.
        """
        # Hashing everything takes longer than all the rest of a cached response; only these
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
        Evaluate the packages of an image, once for all concurrent requests.

        :param request: the request key of the name at the revision.
        :param progress: receives the progress.
        :raises QueueFull: too many wait for their evaluation already.
        :raises PackagesDenied: packages are not served.
        :raises PackagesRefused: packages do not exist, or may not be used.
        :raises CachedFailure: it has failed a short while ago.
        :raises ShuttingDown: the daemon stops.
        :raises NixeryError: Nix failed.
        """
        if self._stopping:
            raise ShuttingDown
        self.rules.check(name)
        self._failures.check(request)

        async def work() -> Evaluation:
            # Logged as information, not as an error: most failures are users' misspellings.
            with self._noting(name, "evaluated", request, self._log.info):
                # Fetched before the turn in the queue is taken, since it may take minutes.
                package_set = await self._fetch(revision, progress)

                async def evaluate() -> Evaluation:
                    progress.started()
                    evaluating = Deferred.fromCoroutine(
                        self.nix.evaluate(package_set, name.system, name.requirements)
                    )
                    # Called after the evaluation was started: starting a process takes a while.
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
        Return the image of evaluated packages: from the cache, or made once for all
        concurrent requests.

        :param progress: receives the progress, or the build that makes the image already.
        :param settings: the settings that :meth:`current_settings` returned.
        :raises BuildFailed: a derivation failed.
        :raises BuildsExceeded: the client has had too many images built.
        :raises ImageTooLarge: it is larger than images may be.
        :raises QueueFull: too many images wait to be built already.
        :raises CachedFailure: it has failed a short while ago.
        :raises ShuttingDown: the daemon stops.
        :raises NixeryError: any other failure of a stage.
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
        Accept no more builds, wait up to the grace time for running ones, and cancel the rest.

        :return: fires when all builds have ended.
        """
        self._stopping = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        # Queued builds must not begin, and running evaluations would not be built.
        self._evaluation_queue.stop()
        self._build_queue.stop()
        evaluating = self._evaluating.stop()
        await self._settle()
        # The outermost jobs first: a build that is cancelled cleans up after itself, and
        # the results of the jobs that it waited for are not needed any more.
        await evaluating
        await self._building.stop()
        await self._packer.stop()

    async def _settle(self) -> None:
        """Wait up to ``stop_grace`` seconds for running builds to end."""
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
        """Make an image when its turn comes, log the outcome, and cache failures."""
        # The key of a failure has the derivations as well as the image's own key: the same
        # outputs may be built by another derivation now, which may succeed.
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
        Log a failure, and cache it if it is one of :data:`REMEMBERED`.

        :param done: the participle of the action, for the log: ``built``.
        :param key: the key that a failure is cached under.
        :param tell: logs a line at the level that the failure deserves.
        """
        try:
            yield
        except CancelledError as error:
            raise ShuttingDown from error
        except ShuttingDown:
            raise
        except NixeryError as error:
            tell("{image} was not {done}: {error}", image=name.repository, done=done, error=error)
            if isinstance(error, CACHED_FAILURES):
                self._failures.add(key, error)
            raise
        except Exception:
            # Logged here, because there may be no waiter left that would receive it.
            self._log.failure("{image} was not {done}", image=name.repository, done=done)
            raise

    async def _publish(self, key: str, make: Callable[[], Awaitable[Image]]) -> Image:
        """
        Make an image and publish it; make it again if a collection removed its layers.

        :raises BlobsMissing: layers were removed each time.
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
        """
        Make an image within the deadline.

        :raises ImageTimedOut: all stages together took too long.
        """
        progress.started()
        begun = self.clock.seconds()
        limit = self.limits.deadline
        try:
            image = await with_timeout(
                limit + DEADLINE_MARGIN_SECONDS,
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
        Discard the layers whose store paths may have been removed while they were packed.

        :raises NixUnusable: always.
        """
        # A directory that is being removed looks like a smaller one.
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
            # Runs concurrently with the layers, which do not depend on it.
            tree = await self.cpu.run(plan_root, evaluation.packages, store=self.store)
            trees.append(tree)
            return await self._packer.root(evaluation.packages, tree)

        # The largest layer first: begun last, it would keep one thread busy while the
        # others are idle.
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
    """Return the store paths of an image's packages, sorted."""
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
