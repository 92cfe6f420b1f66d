"""
Return the image for a name and a tag: a known image from the cache, or a new build.

    name + tag --resolve--> revision ---known?--> image
                               |
                               +--evaluate--> packages ---known?--> image
                                                 |
                                                 +--build--> image

A revision that is *pinned* (a commit, a store path) always evaluates to the same
packages: its image is looked up by the request key alone, and Nix does not run.  So it is
for a directory whose changes are *observed*, in the memory of this process, for its version is
part of the key.  Any other may change at any moment: it is evaluated, and its image is looked up
by the output paths.

A build is a job of the server: it is kept in the
:class:`~nixery.builds.tracker.BuildTracker`, shared by all clients that request the image,
and continues when they disconnect.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from functools import partial

from attrs import define, field
from cachetools import LRUCache, TTLCache
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from nixery.builds.builder import Builder
from nixery.builds.candidates import CandidateSearch
from nixery.builds.image_cache import ImageCache
from nixery.builds.image_maker import ImageMaker, IndexEvaluation, MadeImage
from nixery.builds.progress import Build
from nixery.builds.request import ImageRequest
from nixery.builds.tracker import BuildTracker
from nixery.errors import NixeryError, ShuttingDown
from nixery.image.errors import PackagesRefused
from nixery.image.manifests import Image
from nixery.image.names import ImageName, Tag
from nixery.image.packages import Evaluation
from nixery.limits.build_quota import current_client
from nixery.limits.errors import BuildsExceeded
from nixery.observability.context import BuildStats, LookupCounts, current_build_stats
from nixery.pulls.incomplete_indexes import IncompleteIndexes
from nixery.pulls.tag_recorder import TagRecorder
from nixery.pulls.tag_records import SERVED, tag_record_key, tag_record_prefix
from nixery.runtime.deferreds import TimedOut, with_timeout
from nixery.runtime.single_flight import SingleFlight
from nixery.sources.interface import Sources
from nixery.storage.interface import Storage

__all__ = ["ImageService"]

SHUTDOWN_TIMEOUT_SECONDS = 5.0
"""Seconds in which finished images are recorded in storage when the daemon stops."""

HEAD_CACHE_SECONDS = 30.0
"""
Seconds for which the evaluation of a HEAD request is kept for the GET that follows it,
which uses it once: clients send both for one pull.
"""


@define(kw_only=True, eq=False)
class ImageService:
    """
    Returns the images for names and tags.

    :param sources: resolves tags.
    :param builder: makes images that are not known.
    :param image_cache: the known images.
    :param storage: has the records of served images.
    :param tracker: tracks the builds.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param candidates: finds other names for those that do not exist.
    :param recorder: records what is served, and signs it.
    :param evaluation_ttl: the seconds for which the evaluation of a source is reused that may
        change unseen; 0: every pull evaluates again.
    :param stale_while_revalidate: the seconds for which the image of the old revision is served
        while the one of a new revision is being made; 0: not at all.
    :param skips_missing_platforms: whether an index lacks the platforms that are missing; if not,
        there is no index without them.
    """

    sources: Sources
    builder: Builder
    image_cache: ImageCache
    storage: Storage
    tracker: BuildTracker
    seconds: Callable[[], float]
    candidates: CandidateSearch
    recorder: TagRecorder
    evaluation_ttl: float = 0.0
    stale_while_revalidate: float = 0.0
    skips_missing_platforms: bool = True

    # By request key, the keys of the images of observed versions.
    _observed_keys: MutableMapping[str, str] = field(init=False)
    # By the request keys of sources whose version is known, and by index keys of the others.
    _incomplete: IncompleteIndexes = field(init=False)
    _evaluations: MutableMapping[str, Evaluation | IndexEvaluation] = field(init=False)
    _head_evaluations: MutableMapping[str, Evaluation | IndexEvaluation] = field(init=False)
    _maker: ImageMaker = field(init=False)
    _stale_since: MutableMapping[str, float] = field(init=False)
    # Whether changes were observed since the start: while they may go unseen again, something is
    # being changed.
    _was_observed: bool = field(default=False, init=False)
    # By request and tag, for two tags of one revision are two builds in the tracker; and by the
    # last evaluation that has begun, for a request that comes later may be due to a change.
    _jobs: SingleFlight[tuple[str, Tag, int], Image] = field(factory=SingleFlight, init=False)
    evaluation_lookups: LookupCounts = field(factory=LookupCounts, init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._maker = ImageMaker(builder=self.builder, skips_missing=self.skips_missing_platforms)
        self._observed_keys = LRUCache(4096)
        self._incomplete = IncompleteIndexes(
            clock=self.builder.pipeline.clock, interval=self.builder.failure_cache_ttl
        )
        self._evaluations = TTLCache(1024, self.evaluation_ttl, timer=self.seconds)
        self._head_evaluations = TTLCache(1024, HEAD_CACHE_SECONDS, timer=self.seconds)
        self._stale_since = LRUCache(4096)

    async def get_image(self, name: ImageName, tag: Tag, *, is_head: bool = False) -> Image:
        """
        Return the image of a name at the revision that a tag names; make it if necessary.

        Cancelling the wait does not stop the build.

        :param is_head: true if the same client is expected to ask again (HEAD).
        :raises UnknownRevision: the tag names no revision.
        :raises PackagesRefused: packages do not exist, or may not be used.
        :raises CachedFailure: it has failed a short while ago.
        :raises ShuttingDown: the daemon stops.
        :raises NixeryError: any other failure.
        """
        revision = await self.sources.resolve(tag)
        request = await self.builder.request(name, revision)
        if revision.pinned:
            image = await self._get_pinned(request, tag)
        elif revision.is_fixed:
            image = await self._get_observed(request, tag)
        else:
            image = await self._get_unpinned(request, tag, is_head=is_head)
        return image

    async def find_candidates(self, error: PackagesRefused) -> PackagesRefused:
        """
        Return the error with names that may have been meant by those that do not exist.

        This is done for a client that reads them, and not by the job that failed.
        """
        return PackagesRefused(problems=await self.candidates.complete(error.problems))

    async def list_tags(self, name: ImageName) -> Sequence[str]:
        """
        Return the tags that an image can be pulled by, sorted: the configured ones, and
        those that it was served under.
        """
        prefix = tag_record_prefix(name)
        served = await self.storage.list_records(SERVED, prefix)
        return sorted({*await self.sources.tags(), *(key.removeprefix(prefix) for key in served)})

    def invalidate_checks(self) -> None:
        """Check blobs again, because one that an image names was requested and is missing."""
        self.image_cache.invalidate_checks()

    async def stop(self) -> None:
        """Stop the builder, and cancel jobs after :data:`SHUTDOWN_TIMEOUT_SECONDS` more."""
        await self.builder.stopService()
        # Jobs whose build ended in time only have to write their records.
        with suppress(TimedOut):
            await with_timeout(
                SHUTDOWN_TIMEOUT_SECONDS, self.builder.pipeline.clock, self._jobs.settled()
            )
        await self._jobs.stop()

    # -- pinned revisions -----------------------------------------------------------

    async def _get_pinned(self, request: ImageRequest, tag: Tag) -> Image:
        if request.key not in self._incomplete:
            known = await self._get_known(request, tag, request.key)
            if known is not None:
                return known

        async def make(build: Build) -> Image:
            evaluation = await self._maker.evaluate(request, build)
            made = await self._maker.build(request, evaluation, build)
            if made.is_complete:
                await self.image_cache.add(request.key, made.image)
            return await self._record_made(request, tag, made, request.key, request.key)

        incomplete = await self._get_incomplete(request, tag, make)
        if incomplete is not None:
            return incomplete
        stale = await self._get_stale(request, tag)
        job = Deferred.fromCoroutine(self._join_job(request, tag, make))
        if stale is None:
            return await job
        job.addErrback(self._log_stale_served, request.name)
        return stale

    async def _get_stale(self, request: ImageRequest, tag: Tag) -> Image | None:
        """Return the image that was current before, if it may still be served."""
        if self.stale_while_revalidate <= 0:
            return None
        now = self.seconds()
        # The time runs from the first pull of the new revision, even if its image cannot be
        # made: clients have to see that failure eventually.
        if now - self._stale_since.setdefault(request.key, now) >= self.stale_while_revalidate:
            return None
        record = await self.storage.get_record(SERVED, tag_record_key(request.name, tag))
        return (
            None
            if record is None
            else await self.image_cache.get(record.decode("ascii", "replace"))
        )

    def _log_stale_served(self, failure: Failure, name: ImageName) -> None:
        """Log that a build without waiters failed; its own log line has the details."""
        failure.trap(NixeryError)
        self._log.warn("{image} is served as it was before", image=name.repository)

    # -- revisions whose changes are observed ----------------------------------------

    async def _get_observed(self, request: ImageRequest, tag: Tag) -> Image:
        self._was_observed = True
        key = self._observed_keys.get(request.key)
        if key is not None:
            self.evaluation_lookups.memory += 1
            known = await self._get_known(request, tag, key)
            if known is not None:
                return known

        async def make(build: Build) -> Image:
            evaluated, evaluation = await self._evaluate_unchanged(request, tag, build)
            made = await self._maker.build(evaluated, evaluation, build)
            if evaluated.revision.is_fixed and made.is_complete:
                self._observed_keys[evaluated.key] = made.key
            return await self._record_made(evaluated, tag, made, made.key, evaluated.key)

        incomplete = await self._get_incomplete(request, tag, make)
        if incomplete is not None:
            self.evaluation_lookups.memory += 1
            return incomplete
        return await self._join_job(request, tag, make)

    async def _evaluate_unchanged(
        self, request: ImageRequest, tag: Tag, build: Build
    ) -> tuple[ImageRequest, Evaluation | IndexEvaluation]:
        """
        Evaluate a request, and once more if the package set has changed in the meantime: parts of
        it may have been read before the change, and others after it.

        :return: the request at the version that was evaluated, too.
        """
        try:
            evaluation = await self._maker.evaluate(request, build)
        except ShuttingDown:
            raise
        except NixeryError:
            current = await self._at_current_version(request, tag)
            if current.revision == request.revision:
                raise
        else:
            current = await self._at_current_version(request, tag)
            if current.revision == request.revision:
                return request, evaluation
        return current, await self._maker.evaluate(current, build)

    async def _at_current_version(self, request: ImageRequest, tag: Tag) -> ImageRequest:
        return await self.builder.request(request.name, await self.sources.resolve(tag))

    # -- revisions that may change at any moment ------------------------------------

    async def _get_unpinned(self, request: ImageRequest, tag: Tag, *, is_head: bool) -> Image:
        evaluation = self._evaluations.get(request.key)
        if evaluation is None and not is_head and not self._was_observed:
            evaluation = self._head_evaluations.pop(request.key, None)
        if evaluation is not None:
            self.evaluation_lookups.memory += 1
            known = await self._get_known(request, tag, self._maker.key(request, evaluation))
            if known is not None:
                return known

        async def make(build: Build) -> Image:
            evaluation = await self._maker.evaluate(request, build)
            if self.evaluation_ttl > 0:
                self._evaluations[request.key] = evaluation
            key = self._maker.key(request, evaluation)

            async def make_evaluated(build: Build) -> Image:
                made = await self._maker.build(request, evaluation, build)
                return await self._record_made(request, tag, made, made.key, key)

            image = await self._incomplete.answer(
                key,
                partial(self._get_known, request, tag),
                lambda: self._join_job(request, tag, make_evaluated, key),
            ) or await make_evaluated(build)
            if is_head:
                self._head_evaluations[request.key] = evaluation
            return image

        return await self._join_job(request, tag, make)

    # -- all kinds of revisions -------------------------------------------------------

    async def _get_known(self, request: ImageRequest, tag: Tag, key: str) -> Image | None:
        """Return an image by its key, as the current one of a tag; ``None`` if it is not known."""
        image = await self.image_cache.get(key)
        if image is not None:
            await self.recorder.record(request.name, tag, key, image)
        return image

    async def _get_incomplete(
        self, request: ImageRequest, tag: Tag, make: Callable[[Build], Awaitable[Image]]
    ) -> Image | None:
        """Return an index that lacks platforms, or what a job has made of it, if one is known."""
        return await self._incomplete.answer(
            request.key,
            partial(self._get_known, request, tag),
            lambda: self._join_job(request, tag, make),
        )

    async def _join_job(
        self,
        request: ImageRequest,
        tag: Tag,
        make: Callable[[Build], Awaitable[Image]],
        key: str | None = None,
    ) -> Image:
        """
        Return the image of a job, begun for this client or for an earlier one.

        :param key: identifies the job among those of the tag, if its packages were evaluated
            before; by default, the request does.
        :raises BuildsExceeded: the client has used up its build quota.
        """
        request = self.builder.split(request)
        evaluation = self.builder.last_evaluation(request) if key is None else 0
        while True:
            try:
                with self.builder.demand.asking(*request.keys):
                    return await self._jobs.run(
                        (key or request.key, tag, evaluation),
                        lambda: self._tracked(request, tag, make),
                    )
            except BuildsExceeded as error:
                # The quota of the client that began the job is used up; this client's may
                # not be.
                if error.client == current_client.get():
                    raise

    async def _tracked(
        self, request: ImageRequest, tag: Tag, make: Callable[[Build], Awaitable[Image]]
    ) -> Image:
        """Make an image within the client's build quota, and track its build."""
        if self.builder.stopping:
            raise ShuttingDown
        with self.builder.build_quota.reserve_slots(max(1, len(request.parts))):
            return await self._run_build(request, tag, make)

    async def _run_build(
        self, request: ImageRequest, tag: Tag, make: Callable[[Build], Awaitable[Image]]
    ) -> Image:
        self.evaluation_lookups.misses += 1
        stats = BuildStats(revision=request.revision.label)
        current_build_stats.set(stats)
        build = self.tracker.begin(request.name, tag, request.key)
        try:
            image = await make(build)
        except BaseException as error:
            stats.failure = type(error).__name__
            build.fail(error, self.builder.retry_delay(error))
            raise
        build.succeed(image.manifests[0].digest)
        return image

    async def _record_made(
        self, request: ImageRequest, tag: Tag, made: MadeImage, key: str, asked: str
    ) -> Image:
        """
        Record an image that was made as the current one of a tag, and return it.

        :param key: the key of its record, if it lacks no platform.
        :param asked: the key of what was asked for, in ``_incomplete``.
        """
        if made.is_complete:
            self._incomplete.discard(asked)
        else:
            key = made.key
            self._incomplete.record(asked, key)
        await self.recorder.record(request.name, tag, key, made.image)
        return made.image
