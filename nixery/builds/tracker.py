"""
Keep track of builds that run, and of those that have ended lately.

Watchers are not sent events, of which a verbose build has a million.  They are notified
that *something* has changed, a few times a second at most (:mod:`nixery.builds.notifier`), and
then ask for the changes since they last asked.  So a watcher that is slow, or returns after
a while, costs no memory: it gets the newest state, and the lines of the log that are still
kept.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from attrs import define, field
from cachetools import LRUCache
from twisted.internet.interfaces import IReactorTime

from nixery.builds.build_output import BuildOutput
from nixery.builds.errors import CachedFailure
from nixery.builds.notifier import ThrottledNotifier
from nixery.builds.output_file import OutputFiles
from nixery.builds.progress import Build
from nixery.builds.views import BuildView, Changes, DerivationView, LogPart, RemovedBuild
from nixery.builds.waiting_clients import PullRequest, WaitingClients
from nixery.errors import NixeryError
from nixery.image.names import ImageName, Tag
from nixery.runtime.clocks import WallClock

__all__ = ["BuildTracker"]

MAX_ENDED_LOG_CHARACTERS = 8 * 1024 * 1024
"""The number of characters that are kept of the logs of all ended builds together."""

MAX_REMOVED_IDS = 1024
"""The number of removed builds that are remembered, for ``Changes.removed``."""

BUILD_NOTIFICATION_SECONDS = 0.1
"""The least seconds between two notifications that a build has changed."""

OVERVIEW_NOTIFICATION_SECONDS = 0.5
"""The least seconds between two notifications that any build has changed."""

MAX_REPLACED_IDS = 4096
"""The number of builds that are remembered because another build is shown in their place."""


@define(kw_only=True, eq=False)
class BuildTracker:
    """
    Keeps the builds that run, and those that have ended lately.

    :param clock: schedules notifications, and measures builds.
    :param wall_clock: gives the time when a build began.
    :param max_ended: the number of ended builds that are kept.
    :param on_ended: called with each build that has ended, also if it is not listed, in the
        context of its coroutine.
    :param new_id: makes ids that cannot be guessed.
    :param files: keep the lines of logs that are too many for the memory; ``None``: these are
        dropped.
    """

    clock: IReactorTime
    wall_clock: WallClock
    max_ended: int = 256
    on_ended: Callable[[BuildView], None] = lambda _build: None
    new_id: Callable[[], str] = lambda: secrets.token_hex(8)
    files: OutputFiles | None = None

    _running: dict[str, Build] = field(factory=dict, init=False)
    _ended: OrderedDict[str, Build] = field(factory=OrderedDict, init=False)
    _by_request: dict[PullRequest, Build] = field(factory=dict, init=False)
    _by_key: dict[str, Build] = field(factory=dict, init=False)
    # By the id of a build that is not shown, that of the build that is shown in its place.
    _replaced: LRUCache[str, str] = field(factory=lambda: LRUCache(MAX_REPLACED_IDS), init=False)
    _removed: deque[tuple[int, RemovedBuild]] = field(
        factory=lambda: deque(maxlen=MAX_REMOVED_IDS), init=False
    )
    _removals_known_since: int = field(default=0, init=False)
    _ended_log_size: int = field(default=0, init=False)
    _version: int = field(default=1, init=False)
    _notifier: ThrottledNotifier = field(init=False)

    clients: WaitingClients = field(init=False)
    """The clients that wait for images."""

    def __attrs_post_init__(self) -> None:
        self.clients = WaitingClients(clock=self.clock, on_change=self._record_waiting)
        self._notifier = ThrottledNotifier(clock=self.clock, interval=OVERVIEW_NOTIFICATION_SECONDS)

    def begin(self, name: ImageName, tag: Tag, key: str = "") -> Build:
        """
        Begin a build; the caller has to call its ``succeeded`` or ``failed``.

        :param key: identifies the packages and the revision; a build of the same that runs under
            another tag is shown in its place.
        """
        begun = self.clock.seconds()
        build = Build(
            id=self.new_id(),
            name=name,
            tag=tag,
            key=key,
            started_at=self.wall_clock.now(),
            notifier=ThrottledNotifier(clock=self.clock, interval=BUILD_NOTIFICATION_SECONDS),
            output=BuildOutput(
                seconds=lambda: self.clock.seconds() - begun,
                file=None if self.files is None else self.files.make(),
            ),
            tracker=self,
        )
        self._running[build.id] = self._by_request[name, tag] = build
        for spelling in self.clients.spellings(name, tag):
            build.add_spelling(spelling)
        if key:
            other = self._by_key.setdefault(key, build)
            if other is not build:
                build.follow(other)
        self._continue_last(build)
        return build

    def pin(self, name: ImageName, tag: Tag) -> BuildView | None:
        """
        Return the build that makes an image, and keep it listed for a client that watches it.

        :return: ``None`` if there is no such build.
        """
        build = self._by_request.get((name, tag))
        return None if build is None else build.pin().view()

    def find_failed(self, name: ImageName, tag: Tag, error: NixeryError) -> BuildView | None:
        """
        Return the build of an image that failed with this error, or with the original of a
        :exc:`CachedFailure`; ``None`` if there is none, or it is not kept any more.
        """
        original = error.original if isinstance(error, CachedFailure) else error
        for build in reversed(self._ended.values()):
            if build.group.includes((name, tag)):
                view = build.view()
                if view.failure is not None and view.failure.message == original.message:
                    return view
        return None

    # -- views -----------------------------------------------------------------------

    def overview(self) -> tuple[BuildView, ...]:
        """Return the builds that run, then those that have ended, the youngest first."""
        return tuple(build.view() for build in self._listed_builds())

    def active_names(self) -> tuple[str, ...]:
        """Return the names of images being built, as clients wrote them, oldest first."""
        return tuple(build.name.repository for build in self._running.values())

    def find(self, build_id: str) -> BuildView | None:
        """Return a build by its id; ``None`` if it is not, or no longer, kept and listed."""
        build = self._get(build_id)
        return None if build is None else build.view()

    def log(self, build_id: str, after: int, limit: int) -> LogPart:
        """
        Return lines of a build's log that are in memory, oldest first.

        :param after: the number of the first line to return.
        :param limit: the most lines.
        """
        build = self._get(build_id)
        return LogPart(first=after, lines=()) if build is None else build.output.tail(after, limit)

    async def read_log(self, build_id: str, after: int, limit: int) -> LogPart:
        """Return lines of a build's log, also of those that are in a file; as :meth:`log`."""
        build = self._get(build_id)
        if build is None:
            return LogPart(first=after, lines=())
        return await build.output.read(after, limit)

    def derivations(
        self, build_id: str, numbers: Iterable[int] | None = None
    ) -> Sequence[DerivationView]:
        """Return the derivations of a build, as :meth:`BuildOutput.derivations` does."""
        build = self._get(build_id)
        return () if build is None else build.output.derivations(numbers)

    def changes(self, since: int) -> Changes:
        """Return the changes after a version; after 0, all builds."""
        if since < self._removals_known_since or not 0 < since <= self._version:
            return Changes(version=self._version, builds=self.overview(), removed=None)
        return Changes(
            version=self._version,
            builds=tuple(build.view() for build in self._listed_builds() if build.version > since),
            removed=tuple(removed for version, removed in self._removed if version > since),
        )

    def watch(
        self, callback: Callable[[], None], build_id: str | None = None
    ) -> Callable[[], None]:
        """
        Call ``callback`` soon after each change; changes in quick succession cause one call.

        :param build_id: the build whose changes and log lines count; by default,
            the changes of all builds count, without their logs.
        :return: ends the calls, and may be called again.
        """
        build = None if build_id is None else self._get(build_id)
        if build_id is not None and build is None:
            return lambda: None
        return (self._notifier if build is None else build.notifier).subscribe(callback)

    # -- called by the builds ------------------------------------------------------------

    def seconds(self) -> float:
        """Return the monotonic time."""
        return self.clock.seconds()

    def record_change(self) -> int:
        """Note that a build has changed; :return: the new version."""
        self._version += 1
        self._notifier.notify()
        return self._version

    def replace(self, build_id: str, other_id: str) -> None:
        """Show another build in the place of one."""
        self._replaced[build_id] = other_id

    def restore(self, build_id: str) -> None:
        """Show a build again, in whose place another one was shown."""
        self._replaced.pop(build_id, None)

    def remove(self, build: Build) -> None:
        """Note that a build is not listed any more."""
        if build.version == 0:
            return  # It was never listed.
        if len(self._removed) == MAX_REMOVED_IDS:
            self._removals_known_since = self._removed[0][0]
        images = tuple(dict.fromkeys(label.image for label in build.group.labels))
        removed = RemovedBuild(id=build.id, images=images)
        self._removed.append((self.record_change(), removed))

    def record_end(self, build: Build) -> None:
        """Note that a build has ended; keep it if it is listed."""
        if self._running.pop(build.id, None) is None:
            return
        self.on_ended(build.view())
        if self._by_request.get((build.name, build.tag)) is build:
            del self._by_request[build.name, build.tag]
            self.clients.forget_absent(build.name, build.tag)
        if self._by_key.get(build.key) is build:
            del self._by_key[build.key]
        if not build.is_listed:
            # Watchers may know it, since it may have been listed before.
            self.remove(build)
            build.output.discard()
            return
        if not self._fold_failure(build):
            build.output.discard()
            return
        self._ended[build.id] = build
        self._ended_log_size += build.output.memory_size
        while len(self._ended) > self.max_ended:
            _, oldest = self._ended.popitem(last=False)
            self._ended_log_size -= oldest.output.memory_size
            self.remove(oldest)
            oldest.output.discard()
        old = iter(tuple(self._ended.values()))
        while self._ended_log_size > MAX_ENDED_LOG_CHARACTERS:
            oldest = next(old)
            self._ended_log_size -= oldest.output.memory_size
            oldest.output.discard_memory()

    def _fold_failure(self, build: Build) -> bool:
        """
        Show one build for all attempts that failed in the same way: the last one.

        :return: false if this one was no attempt, and is not shown.
        """
        earlier = self._find_same_failure(build)
        if earlier is None:
            return True
        replaced, shown = (build, earlier) if build.failed_before else (earlier, build)
        self.replace(replaced.id, shown.id)
        self.remove(replaced)
        if shown is build:
            del self._ended[earlier.id]
            self._ended_log_size -= earlier.output.memory_size
            earlier.output.discard()
            build.repeat(earlier)
        return shown is build

    def _find_same_failure(self, build: Build) -> Build | None:
        failure = build.failure
        if failure is None:
            return None
        for earlier in self._ended_builds_of(build):
            if earlier.failure is not None and earlier.failure.cause == failure.cause:
                return earlier
        return None

    def _continue_last(self, build: Build) -> None:
        """
        Show a build that begins as the last one of its image, if that was cancelled; or only when
        it makes something, if the last one has failed and is not to be tried again yet.
        """
        last = next(self._ended_builds_of(build), None)
        if last is None:
            return
        if last.was_cancelled:
            del self._ended[last.id]
            self._ended_log_size -= last.output.memory_size
            last.output.discard()
            self.remove(last)
            self.replace(last.id, build.pin().id)
        elif last.failure is not None and (last.failure.retry_at or 0) > self.wall_clock.now():
            build.hide_until_made()

    def _ended_builds_of(self, build: Build) -> Iterator[Build]:
        """Return the builds of the same image that have ended, the youngest first."""
        requests = build.group.requests
        for ended in reversed(self._ended.values()):
            if ended.key == build.key != "" or any(map(ended.group.includes, requests)):
                yield ended

    def _record_waiting(self, name: ImageName, tag: Tag) -> None:
        build = self._by_request.get((name, tag))
        if build is not None:
            build.add_spelling(name)
            build.group.shown.record_change()

    def _get(self, build_id: str) -> Build | None:
        while build_id in self._replaced:
            build_id = self._replaced[build_id]
        build = self._running.get(build_id) or self._ended.get(build_id)
        return build if build is not None and build.is_listed else None

    def _listed_builds(self) -> Iterator[Build]:
        for builds in (self._running, self._ended):
            yield from (build for build in reversed(builds.values()) if build.is_listed)
