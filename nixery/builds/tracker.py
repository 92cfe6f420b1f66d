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
from collections.abc import Callable, Iterator
from typing import TypeAlias

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from nixery.builds.errors import CachedFailure
from nixery.builds.notifier import ThrottledNotifier
from nixery.builds.progress import Build
from nixery.builds.views import BuildView, Changes, LogPart, RemovedBuild
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

_Request: TypeAlias = tuple[ImageName, Tag]


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
    """

    clock: IReactorTime
    wall_clock: WallClock
    max_ended: int = 256
    on_ended: Callable[[BuildView], None] = lambda _build: None
    new_id: Callable[[], str] = lambda: secrets.token_hex(8)

    _running: dict[str, Build] = field(factory=dict, init=False)
    _ended: OrderedDict[str, Build] = field(factory=OrderedDict, init=False)
    _by_request: dict[_Request, Build] = field(factory=dict, init=False)
    _removed: deque[tuple[int, RemovedBuild]] = field(
        factory=lambda: deque(maxlen=MAX_REMOVED_IDS), init=False
    )
    _removals_known_since: int = field(default=0, init=False)
    _ended_log_size: int = field(default=0, init=False)
    _version: int = field(default=1, init=False)
    _notifier: ThrottledNotifier = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._notifier = ThrottledNotifier(clock=self.clock, interval=OVERVIEW_NOTIFICATION_SECONDS)

    def begin(self, name: ImageName, tag: Tag) -> Build:
        """Begin a build; the caller has to call its ``succeeded`` or ``failed``."""
        build = Build(
            id=self.new_id(),
            name=name,
            tag=tag,
            started_at=self.wall_clock.now(),
            notifier=ThrottledNotifier(clock=self.clock, interval=BUILD_NOTIFICATION_SECONDS),
            tracker=self,
        )
        self._running[build.id] = self._by_request[name, tag] = build
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
            if (build.name, build.tag) == (name, tag):
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
        Return lines of a build's log, oldest first.

        :param after: the number of the first line to return.
        :param limit: the most lines.
        """
        build = self._get(build_id)
        return LogPart(first=after, lines=()) if build is None else build.log_part(after, limit)

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

    def record_end(self, build: Build) -> None:
        """Note that a build has ended; keep it if it is listed."""
        if self._running.pop(build.id, None) is None:
            return
        self.on_ended(build.view())
        if self._by_request.get((build.name, build.tag)) is build:
            del self._by_request[build.name, build.tag]
        if not build.is_listed:
            # Watchers may know it, since it may have been listed before.
            self._remove(build)
            return
        self._ended[build.id] = build
        self._ended_log_size += build.log_size
        while len(self._ended) > self.max_ended:
            _, oldest = self._ended.popitem(last=False)
            self._ended_log_size -= oldest.log_size
            self._remove(oldest)
        old = iter(tuple(self._ended.values()))
        while self._ended_log_size > MAX_ENDED_LOG_CHARACTERS:
            oldest = next(old)
            self._ended_log_size -= oldest.log_size
            oldest.discard_log()

    def _remove(self, build: Build) -> None:
        if build.version == 0:
            return  # It was never listed.
        if len(self._removed) == MAX_REMOVED_IDS:
            self._removals_known_since = self._removed[0][0]
        removed = RemovedBuild(id=build.id, image=build.name.repository)
        self._removed.append((self.record_change(), removed))

    def _get(self, build_id: str) -> Build | None:
        build = self._running.get(build_id) or self._ended.get(build_id)
        return build if build is not None and build.is_listed else None

    def _listed_builds(self) -> Iterator[Build]:
        for builds in (self._running, self._ended):
            yield from (build for build in reversed(builds.values()) if build.is_listed)
