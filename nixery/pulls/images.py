"""
From what a client asks for to the image it gets: what is known is answered here,
and the rest is built.

    name + tag --resolve--> revision ---known?--> image
                               |
                               +--evaluate--> packages ---known?--> image
                                                 |
                                                 +--build--> image

A revision that is *pinned* (a commit, a store path) always evaluates to the same
packages: its image is found by the request alone, and Nix does not run.  Any
other (a directory) may change at any moment: it is evaluated, and recognised by
the output paths.

Whatever has to be made is a job of the server's: told of in the book of builds,
shared by all who ask, and going on when they leave.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from functools import lru_cache

from attrs import define, field
from cachetools import LRUCache, TTLCache
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from nixery.builds import cache_keys
from nixery.builds.builder import Builder, ImageSettings
from nixery.builds.image_cache import ImageCache
from nixery.builds.progress import Build
from nixery.builds.tracker import BuildTracker
from nixery.errors import NixeryError, ShuttingDown, StorageError
from nixery.image.canonical_json import sha256_hex
from nixery.image.manifests import Image
from nixery.image.names import ImageName, Tag
from nixery.image.packages import Evaluation
from nixery.limits.build_quota import current_client
from nixery.limits.errors import BuildsExceeded
from nixery.observability.context import BuildStats, LookupCounts, current_tally
from nixery.runtime.deferreds import TimedOut, gather_both, with_timeout
from nixery.runtime.single_flight import SingleFlight
from nixery.sources.interface import Sources
from nixery.sources.source import Revision
from nixery.storage.interface import Storage

__all__ = ["SERVED", "ImageService", "tag_record_key", "tag_record_prefix"]

SERVED = "served"
"""
The kind of the records of what was served: for a name and a tag, the key of the
image that was current last.
"""

NAMES = "name"
"""The kind of the records of names: for the key of a name, a spelling of it."""

LAST_NOTES = 5.0
"""Seconds in which what was made is noted in storage, when the daemon stops."""

HEAD_CACHE_TTL = 30.0
"""
For how many seconds what a HEAD evaluated is kept for the GET that follows it,
which gets it once: clients ask for both, and mean one pull.
"""


@define(kw_only=True, eq=False)
class ImageService:
    """
    Answers with images.

    :param sources: resolves tags.
    :param builder: makes what is not known.
    :param cache: what is known.
    :param storage: remembers what was served.
    :param book: is told of what is made.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param evaluation_ttl: for how many seconds the evaluation of a source that is
        not pinned is believed; 0: every pull looks again.
    :param serve_stale: for how many seconds, while the image of a new revision is
        being made, the one of the old revision is served; 0: not at all.
    :param noted: is told what a name and a tag mean from now on; must not take time.
    """

    sources: Sources
    builder: Builder
    cache: ImageCache
    storage: Storage
    book: BuildTracker
    seconds: Callable[[], float]
    evaluation_ttl: float = 0.0
    serve_stale: float = 0.0
    noted: Callable[[ImageName, Tag, Image], None] | None = None

    _believed: MutableMapping[str, Evaluation] = field(init=False)
    _peeked: MutableMapping[str, Evaluation] = field(init=False)
    _current: MutableMapping[str, str] = field(init=False)
    _overdue: MutableMapping[str, float] = field(init=False)
    # By request and tag: two tags of one revision are two lines in the book.
    _jobs: SingleFlight[tuple[str, Tag], Image] = field(factory=SingleFlight, init=False)
    evaluations: LookupCounts = field(factory=LookupCounts, init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._believed = TTLCache(1024, self.evaluation_ttl, timer=self.seconds)
        self._peeked = TTLCache(1024, HEAD_CACHE_TTL, timer=self.seconds)
        self._current = LRUCache(4096)
        self._overdue = LRUCache(4096)

    async def image(self, name: ImageName, tag: Tag, *, peek: bool = False) -> Image:
        """
        The image of a name, at the revision that a tag names; made if need be.

        Cancelling the wait stops nothing.

        :param peek: whether the same client is about to ask again (HEAD).
        :raises UnknownRevision: the tag names no revision.
        :raises PackagesRefused: packages do not exist, or may not be used.
        :raises RememberedFailure: it has failed a short while ago.
        :raises ShuttingDown: the daemon stops.
        :raises NixeryError: whatever else may go wrong on the way.
        """
        revision = await self.sources.resolve(tag)
        settings = await self.builder.current_settings()
        request = self.builder.request_key(name, revision, settings)
        if not revision.pinned:
            image = await self._unpinned(name, tag, revision, request, settings, peek=peek)
        else:
            image = await self._pinned(name, tag, revision, request, settings)
        return image

    async def tags(self, name: ImageName) -> Sequence[str]:
        """
        The tags that an image can be asked for by, sorted: the configured ones, and
        those that it was served under.
        """
        prefix = _name_key(name) + "/"
        served = await self.storage.list_records(SERVED, prefix)
        return sorted({*await self.sources.tags(), *(key.removeprefix(prefix) for key in served)})

    def invalidate_checks(self) -> None:
        """A blob that an image names was asked for, and is gone."""
        self.cache.invalidate_checks()

    async def stop(self) -> None:
        """Stop the builder, then cancel what has not ended a while later."""
        await self.builder.stopService()
        # Whoever waited for a build that ended in time has only to write that down.
        with suppress(TimedOut):
            await with_timeout(LAST_NOTES, self.builder.clock, self._jobs.settled())
        await self._jobs.stop()

    # -- sources that stay as they are ----------------------------------------------

    async def _pinned(
        self, name: ImageName, tag: Tag, revision: Revision, request: str, settings: ImageSettings
    ) -> Image:
        known = await self.cache.get(request)
        if known is not None:
            await self._note(name, tag, request, known)
            return known

        async def make(build: Build) -> Image:
            evaluation = await self.builder.evaluate(name, revision, request, build)
            image = await self.builder.build(name, revision, evaluation, build, settings)
            await self.cache.add(request, image)
            await self._note(name, tag, request, image)
            return image

        stale = await self._stale(name, tag, request)
        made = Deferred.fromCoroutine(self._job(name, tag, revision, request, make))
        if stale is None:
            return await made
        made.addErrback(self._failed_behind, name)
        return stale

    async def _stale(self, name: ImageName, tag: Tag, request: str) -> Image | None:
        """The image that was current before, if it may still be served."""
        if self.serve_stale <= 0:
            return None
        now = self.seconds()
        # From the first pull of the new revision on, whether its image is still
        # being made or cannot be made: then its failure has to be seen some time.
        if now - self._overdue.setdefault(request, now) >= self.serve_stale:
            return None
        record = await self.storage.get_record(SERVED, tag_record_key(name, tag))
        return None if record is None else await self.cache.get(record.decode("ascii", "replace"))

    def _failed_behind(self, failure: Failure, name: ImageName) -> None:
        """Nobody waits for this build; its own log line has told the details."""
        failure.trap(NixeryError)
        self._log.warn("{image} is served as it was before", image=name.repository)

    # -- sources that may change at any moment --------------------------------------

    async def _unpinned(
        self,
        name: ImageName,
        tag: Tag,
        revision: Revision,
        request: str,
        settings: ImageSettings,
        *,
        peek: bool,
    ) -> Image:
        evaluation = self._believed.get(request)
        if evaluation is None and not peek:
            evaluation = self._peeked.pop(request, None)
        if evaluation is not None:
            self.evaluations.memory += 1
            key = cache_keys.image_key(evaluation, settings.identity())
            known = await self.cache.get(key)
            if known is not None:
                await self._note(name, tag, key, known)
                return known

        async def make(build: Build) -> Image:
            evaluation = await self.builder.evaluate(name, revision, request, build)
            # Who asks from now on may ask because of a change, and gets a look of
            # their own; if nothing has changed, the build is shared all the same.
            self._jobs.close((request, tag))
            if self.evaluation_ttl > 0:
                self._believed[request] = evaluation
            image = await self.builder.build(name, revision, evaluation, build, settings)
            if peek:
                self._peeked[request] = evaluation
            key = cache_keys.image_key(evaluation, settings.identity())
            await self._note(name, tag, key, image)
            return image

        return await self._job(name, tag, revision, request, make)

    # -- what both share --------------------------------------------------------------

    async def _job(
        self,
        name: ImageName,
        tag: Tag,
        revision: Revision,
        request: str,
        make: Callable[[Build], Awaitable[Image]],
    ) -> Image:
        """
        What a job makes, of this client's or of another's who has asked before.

        :raises BuildsExceeded: the client has had too much made.
        """
        while True:
            try:
                return await self._jobs.run(
                    (request, tag), lambda: self._told(name, tag, revision, make)
                )
            except BuildsExceeded as error:
                # Whoever began the job may not have more made.  We may, perhaps.
                if error.client == current_client.get():
                    raise

    async def _told(
        self,
        name: ImageName,
        tag: Tag,
        revision: Revision,
        make: Callable[[Build], Awaitable[Image]],
    ) -> Image:
        """Make an image, and tell the book how that goes."""
        if self.builder.stopping:
            raise ShuttingDown
        with self.builder.allowance.place():
            return await self._made(name, tag, revision, make)

    async def _made(
        self,
        name: ImageName,
        tag: Tag,
        revision: Revision,
        make: Callable[[Build], Awaitable[Image]],
    ) -> Image:
        self.evaluations.missing += 1
        tally = BuildStats(revision=revision.label)
        current_tally.set(tally)
        build = self.book.begin(name, tag)
        try:
            image = await make(build)
        except BaseException as error:
            tally.failure = type(error).__name__
            build.failed(error)
            raise
        build.succeeded(image.manifests[0].digest)
        return image

    async def _note(self, name: ImageName, tag: Tag, key: str, image: Image) -> None:
        """Remember that this is the current image of a name and a tag."""
        place = tag_record_key(name, tag)
        if self._current.get(place) != key:
            try:
                await gather_both(
                    self.storage.add_record(NAMES, _name_key(name), name.repository.encode()),
                    self.storage.set_record(SERVED, place, key.encode("ascii")),
                )
            except StorageError as error:
                # Such as a full disk, from which images can be served all the same.
                self._log.warn("what was served is not remembered: {error}", error=error)
                return
            self._current[place] = key
            if self.noted is not None:
                self.noted(name, tag, image)


def tag_record_key(name: ImageName, tag: Tag) -> str:
    """The key of the record of what was served last as a name and a tag."""
    return f"{tag_record_prefix(name)}{tag}"


def tag_record_prefix(name: ImageName) -> str:
    """What all keys of the records of what was served last as a name begin with."""
    return f"{_name_key(name)}/"


@lru_cache(maxsize=4096)
def _name_key(name: ImageName) -> str:
    """What tells names apart that ask for different things, whatever their spelling."""
    return sha256_hex(
        {
            "kind": "name",
            "requirements": [[item.name, item.exact, item.optional] for item in name.requirements],
            "system": name.system,
        }
    )
