"""
Decide which images are made, and when.

    request -> evaluation, once for all clients, in its turn
      -> (known image? return it) -> build, once for all clients, in its turn

The stages themselves are :mod:`nixery.builds.pipeline`.  A build is a job of the server: it has
a key, is shared by all clients that ask for the same image, and is never owned by a connection.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any

from attrs import define, evolve, field
from cachetools import LRUCache
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from nixery.builds import cache_keys
from nixery.builds.demand import Demand
from nixery.builds.errors import CachedFailure, ImageTimedOut
from nixery.builds.image_cache import FailureCache
from nixery.builds.pipeline import ImagePipeline
from nixery.builds.progress import Build
from nixery.builds.request import ImageRequest
from nixery.builds.settings import ImageSettings
from nixery.errors import NixeryError, ShuttingDown
from nixery.image.canonical_json import sha256_hex
from nixery.image.errors import ImageLimitExceeded
from nixery.image.manifests import Image
from nixery.image.name_cache import NameCache, memory_size
from nixery.image.names import ImageName
from nixery.image.packages import Evaluation
from nixery.layers.errors import ReservedName
from nixery.layers.plan import Popularity
from nixery.limits.build_quota import BuildQuota
from nixery.limits.errors import WorkAbandoned
from nixery.limits.fair_queue import FairQueue
from nixery.limits.package_rules import PackageRules
from nixery.nix.errors import BuildFailed, BuildTimedOut, EvaluationTimedOut, WrongSystem
from nixery.nix.progress import Phase
from nixery.runtime.deferreds import TimedOut, with_timeout
from nixery.runtime.single_flight import SingleFlight
from nixery.sources.source import Revision

__all__ = ["Builder"]

CACHED_FAILURES = (
    BuildFailed,
    BuildTimedOut,
    EvaluationTimedOut,
    ImageLimitExceeded,
    ImageTimedOut,
    ReservedName,
    WrongSystem,
)
"""Failures that are expensive and would only be repeated by the next try: they are cached."""


@define(kw_only=True, eq=False)
class Builder(Service):
    """
    Makes images, each of them once.

    :param pipeline: makes an image; its limits, its clock and its cache of images are the
        builder's too.
    :param settings: the settings of the images.
    :param popularity: returns the popularity data to use instead of those of
        ``settings``; they may change while the daemon runs.
    :param failure_cache_ttl: the time that a failure is cached, in seconds.
    :param package_rules: decide which packages are served.
    :param build_quota: limits the images that are made for a client.
    """

    pipeline: ImagePipeline
    settings: ImageSettings
    failure_cache_ttl: float
    popularity: Callable[[], Awaitable[Popularity]] | None = None
    package_rules: PackageRules = field(factory=PackageRules)
    build_quota: BuildQuota = field(factory=BuildQuota)

    _request_keys: NameCache[tuple[ImageName, Revision, str], str] = field(
        factory=NameCache, init=False
    )
    _failures: FailureCache = field(init=False)
    _evaluation_jobs: SingleFlight[str, Evaluation] = field(factory=SingleFlight, init=False)
    # By the keys of requests whose packages may change unseen, the last evaluation that has begun.
    _evaluations_begun: MutableMapping[str, int] = field(init=False)
    _numbers: Iterator[int] = field(factory=lambda: itertools.count(1), init=False)
    _build_jobs: SingleFlight[str, Image] = field(factory=SingleFlight, init=False)
    # By image key, the keys of the requests that its build was begun for, or that have joined.
    _build_requests: dict[str, list[str]] = field(factory=dict, init=False)
    # By image key, the build that makes the image; those of other names or tags follow it.
    _active_builds: dict[str, Build] = field(factory=dict, init=False)
    _evaluation_queue: FairQueue[str] = field(init=False)
    _build_queue: FairQueue[str] = field(init=False)
    _stopping: bool = field(default=False, init=False)

    demand: Demand = field(init=False)
    """The clients that ask for an image now; what nobody asks for leaves the queues."""

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        limits, clock = self.pipeline.limits, self.pipeline.clock
        self._evaluations_begun = LRUCache(4096)
        self._failures = FailureCache(seconds=clock.seconds, ttl=self.failure_cache_ttl)
        self.demand = Demand(seconds=clock.seconds)
        self._evaluation_queue = FairQueue(
            max_running=limits.max_evaluations, max_waiting=limits.max_queued, clock=clock
        )
        self._build_queue = FairQueue(
            max_running=limits.max_builds, max_waiting=limits.max_queued, clock=clock
        )

    @property
    def queues(self) -> Mapping[str, FairQueue[str]]:
        """The queues in which images wait for their turn, by stage."""
        return {"evaluation": self._evaluation_queue, "build": self._build_queue}

    @property
    def stopping(self) -> bool:
        """True once the builder accepts no more builds."""
        return self._stopping

    async def request(self, name: ImageName, revision: Revision) -> ImageRequest:
        """
        Return the request for a name at a revision, with the settings in force now.

        The first requests wait for the popularity data.
        """
        settings = await self._current_settings()
        return self._make_request(name, revision, settings)

    def _make_request(
        self, name: ImageName, revision: Revision, settings: ImageSettings
    ) -> ImageRequest:
        # Hashing everything takes longer than all the rest of a cached response; only these
        # three change while the daemon runs.
        inputs = name, revision, settings.popularity.digest
        key = self._request_keys.get(inputs)
        if key is None:
            key = cache_keys.request_key(
                name,
                revision,
                {**settings.identity(), "evaluation": self.pipeline.nix.evaluation_identity()},
            )
            self._request_keys.add(inputs, key, memory_size(name))
        return ImageRequest(name=name, revision=revision, settings=settings, key=key)

    def split(self, request: ImageRequest) -> ImageRequest:
        """Return a request for an index with its parts, which a known index does without."""
        if not request.name.platforms or request.parts:
            return request
        return evolve(
            request,
            parts=tuple(
                self._make_request(
                    request.name.for_system(each), request.revision, request.settings
                )
                for each in request.name.platforms
            ),
        )

    async def _current_settings(self) -> ImageSettings:
        if self.popularity is None:
            return self.settings
        popularity = await self.popularity()
        if popularity is not self.settings.popularity:
            self.settings = evolve(self.settings, popularity=popularity)
        return self.settings

    async def evaluate(self, request: ImageRequest, progress: Build) -> Evaluation:
        """
        Evaluate the packages of an image, once for all concurrent requests.

        If they may change unseen, that is once for all requests that come before it begins: it may
        have read something that has changed when a later one comes.

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
        self.package_rules.check(request.name)
        self._failures.check(request.key)

        async def work() -> Evaluation:
            # Logged as information, not as an error: most failures are users' misspellings.
            with self._record_failures(request.name, "evaluated", request.key, self._log.info):
                # Fetched before the turn in the queue is taken, since it may take minutes.
                package_set = await self.pipeline.fetch(request.revision, progress)

                def evaluate() -> Coroutine[Deferred[Any], Any, Evaluation]:
                    if not request.revision.is_fixed:
                        self._evaluation_jobs.close(request.key)
                        self._evaluations_begun[request.key] = next(self._numbers)
                    return self.pipeline.evaluate(package_set, request, progress)

                evaluation = await self._evaluation_queue.run(
                    self.demand.note(request.key),
                    evaluate,
                    progress.set_queued,
                    name=request.name,
                    clients=lambda: self.demand.clients([request.key]),
                )
                self.package_rules.check_evaluation(evaluation)
                return evaluation

        progress.phase(Phase.EVALUATING)
        return await self._evaluation_jobs.run(request.key, work)

    def last_evaluation(self, request: ImageRequest) -> int:
        """
        Return the number of the last evaluation of a request that has begun; 0 if there is none, or
        if all have the same result.
        """
        return max(self._evaluations_begun.get(key, 0) for key in request.keys)

    async def build(self, request: ImageRequest, evaluation: Evaluation, progress: Build) -> Image:
        """
        Return the image of evaluated packages: from the cache, or made once for all
        concurrent requests.

        :param progress: receives the progress, or the build that makes the image already.
        :raises BuildFailed: a derivation failed.
        :raises BuildsExceeded: the client has had too many images built.
        :raises ImageTooLarge: it is larger than images may be.
        :raises ReservedName: a file has a name that layers cannot have.
        :raises QueueFull: too many images wait to be built already.
        :raises CachedFailure: it has failed a short while ago.
        :raises ShuttingDown: the daemon stops.
        :raises NixeryError: any other failure of a stage.
        """
        if self._stopping:
            raise ShuttingDown
        key = request.image_key(evaluation)
        cached = await self.pipeline.image_cache.get(key)
        if cached is not None:
            return cached
        active = self._active_builds.get(key)
        if active is not None:
            progress.follow(active)
        requests = self._build_requests.setdefault(key, [])
        requests.append(request.key)
        try:
            return await self._build_jobs.run(
                key, lambda: self._build(key, request, evaluation, progress)
            )
        finally:
            requests.remove(request.key)
            if not requests:
                self._build_requests.pop(key, None)

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
        evaluations_stopped = self._evaluation_jobs.stop()
        await self._wait_for_builds()
        # The outermost jobs first: a build that is cancelled cleans up after itself, and
        # the results of the jobs that it waited for are not needed any more.
        await evaluations_stopped
        await self._build_jobs.stop()
        await self.pipeline.stop()

    async def _wait_for_builds(self) -> None:
        """Wait up to ``shutdown_timeout`` seconds for running builds to end."""
        timeout = self.pipeline.limits.shutdown_timeout
        if len(self._build_jobs) == 0 or timeout <= 0:
            return
        self._log.info(
            "waiting up to {seconds:g} s for {count} builds",
            seconds=timeout,
            count=len(self._build_jobs),
        )
        with suppress(TimedOut):
            await with_timeout(timeout, self.pipeline.clock, self._build_jobs.settled())

    async def _build(
        self, key: str, request: ImageRequest, evaluation: Evaluation, progress: Build
    ) -> Image:
        """Make an image when its turn comes, log the outcome, and cache failures."""
        # The key of a failure has the derivations as well as the image's own key: the same
        # outputs may be built by another derivation now, which may succeed.
        failure_key = sha256_hex(
            {"image": key, "derivations": [package.derivation for package in evaluation.packages]}
        )
        self._failures.check(failure_key)
        self.build_quota.count_new_image()
        for missing in evaluation.missing_optional:
            self._log.info(
                "{image}: the package set has no {missing}, which is left out",
                image=request.name.repository,
                missing=missing,
            )
        progress.lead()
        self._active_builds[key] = progress
        try:
            with self._record_failures(request.name, "built", failure_key, self._log.error):
                return await self._build_queue.run(
                    self.demand.note(request.key),
                    lambda: self.pipeline.make(request, evaluation, progress),
                    progress.set_queued,
                    name=request.name,
                    clients=lambda: self.demand.clients(self._build_requests.get(key, ())),
                )
        finally:
            del self._active_builds[key]

    def retry_delay(self, error: BaseException) -> float:
        """Return the seconds for which a request that failed with this error is not tried again."""
        if isinstance(error, CachedFailure):
            return error.retry_after
        return self.failure_cache_ttl if isinstance(error, CACHED_FAILURES) else 0.0

    @contextmanager
    def _record_failures(
        self, name: ImageName, action: str, key: str, log: Callable[..., None]
    ) -> Iterator[None]:
        """
        Log a failure, and cache it if it is one of :data:`CACHED_FAILURES`.

        :param action: the participle of the action, for the log: ``built``.
        :param key: the key that a failure is cached under.
        :param log: logs a line at the level that the failure deserves.
        """
        try:
            yield
        except CancelledError as error:
            raise ShuttingDown from error
        except ShuttingDown:
            raise
        except WorkAbandoned as error:
            self._log.info("{image}: {error}", image=name.repository, error=error)
            raise
        except NixeryError as error:
            log("{image} was not {done}: {error}", image=name.repository, done=action, error=error)
            if isinstance(error, CACHED_FAILURES):
                self._failures.add(key, error)
            raise
        except Exception:
            # Logged here, because there may be no waiter left that would receive it.
            self._log.failure("{image} was not {done}", image=name.repository, done=action)
            raise
