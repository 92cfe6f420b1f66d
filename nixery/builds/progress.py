"""
The progress of a build.

A :class:`Build` receives the progress from the pipeline, keeps a bounded part of it, and
makes views of it (:mod:`nixery.builds.views`); :mod:`nixery.builds.tracker` keeps all builds.
The log gets one line for each phase.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from nixery.builds.errors import CachedFailure
from nixery.builds.notifier import ThrottledNotifier
from nixery.builds.views import (
    BuildFailure,
    BuildState,
    BuildView,
    Count,
    LogPart,
    Stage,
    combined_view,
)
from nixery.errors import NixeryError, ShuttingDown
from nixery.image.errors import PackagesRefused
from nixery.image.image_index import platform_label
from nixery.image.names import Digest, ImageName, Tag
from nixery.limits.errors import QueueFull, WorkAbandoned
from nixery.nix.errors import BuildFailed, BuildTimedOut
from nixery.nix.progress import Phase
from nixery.runtime.clocks import WallTime
from nixery.sources.errors import UnknownRevision

if TYPE_CHECKING:
    from nixery.builds.tracker import BuildTracker

__all__ = ["Build"]

MAX_LOG_LINES = 1000
"""The number of lines of a build's log that are kept."""

MAX_LOG_CHARACTERS = 256 * 1024
"""The number of characters of a build's log that are kept."""

MAX_STAGES = 32
"""The number of stages of a build that are kept; each re-evaluation adds some."""

_CHEAP_FAILURES = (PackagesRefused, UnknownRevision, CachedFailure, QueueFull)
"""Failures that clients get at once and that cost next to nothing: such builds are not kept."""

_BUILD_PHASES = {Phase.DOWNLOADING, Phase.BUILDING, Phase.PACKING, Phase.STORING}
"""Phases in which an image is made, and not just looked up."""


@define(kw_only=True, eq=False)
class Build:
    """
    The build of one image; an implementation of :class:`nixery.nix.progress.Progress`.

    It is listed when its first phase begins.  A build that made nothing, because the
    image was known, or that failed at once, is forgotten when it ends, unless it was
    announced to a client (:meth:`pin`).

    The build of an index has a part for each platform (:meth:`part`), which receives the progress
    of that platform, and is shown with the others as one build.
    """

    id: str
    name: ImageName
    tag: Tag
    started_at: WallTime
    notifier: ThrottledNotifier
    _tracker: BuildTracker
    _started_monotonic: float = field(init=False)
    _state: BuildState = BuildState.RUNNING
    _ended_at: WallTime | None = None
    _position: int | None = None
    _stages: deque[Stage] = field(factory=lambda: deque(maxlen=MAX_STAGES))
    _counts: dict[tuple[Phase, str], Count] = field(factory=dict)
    _derivation: str | None = None
    _follows: Build | None = None
    _digest: Digest | None = None
    _failure: BuildFailure | None = None
    _log_lines: deque[str] = field(factory=deque)
    _log_size: int = 0
    _dropped_lines: int = 0
    _version: int = 0
    _is_listed: bool = False
    _pinned: bool = False
    _logged_phases: set[Phase] = field(factory=set)
    _whole: Build | None = None
    _parts: dict[str, Build] = field(factory=dict)

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._started_monotonic = self._tracker.seconds()

    # -- progress from the pipeline --------------------------------------------------

    def phase(self, phase: Phase, /) -> None:
        """Implement :meth:`nixery.nix.progress.Progress.phase`; log each phase once."""
        if phase not in self._logged_phases:
            self._logged_phases.add(phase)
            self._log.info("{image}: {phase}", image=self.name.repository, phase=phase.value)
        self._end_stage()
        self._stages.append(Stage(phase=phase, started_at=self._now()))
        if phase is not Phase.BUILDING:
            self._derivation = None
        self._is_listed = True
        self._record_change()

    def count(self, phase: Phase, done: int, expected: int, unit: str, /) -> None:
        """Implement :meth:`nixery.nix.progress.Progress.count`."""
        # Not logged: there are thousands of calls.
        self._counts[phase, unit] = Count(phase=phase, unit=unit, done=done, expected=expected)
        self._record_change()

    def derivation(self, derivation: str, /) -> None:
        """Implement :meth:`nixery.nix.progress.Progress.derivation`."""
        self._derivation = derivation
        self._record_change()

    def log(self, line: str, /) -> None:
        """Implement :meth:`nixery.nix.progress.Progress.log`."""
        if self._whole is not None:
            self._whole.log(f"{platform_label(self.name.system)}> {line}")
            return
        self._log_lines.append(line)
        self._log_size += len(line) + 1
        while len(self._log_lines) > MAX_LOG_LINES or self._log_size > MAX_LOG_CHARACTERS:
            self._log_size -= len(self._log_lines.popleft()) + 1
            self._dropped_lines += 1
        self.notifier.notify()

    # -- state changes ------------------------------------------------------------------

    def set_queued(self, position: int) -> None:
        """Note that it is queued at ``position``, 1 for the next build to begin."""
        self._state = BuildState.QUEUED
        self._position = position
        self._is_listed = True
        self._record_change()

    def set_running(self) -> None:
        """Note that it has left the queue, if it was queued."""
        if self._state is not BuildState.QUEUED:
            return
        self._state = BuildState.RUNNING
        self._position = None
        self._record_change()

    def follow(self, other: Build) -> None:
        """Note that it waits for another build, which makes the same image."""
        self._follows = other
        self._record_change()

    def part(self, name: ImageName) -> Build:
        """Return the part of an index's build that makes the image of one platform."""
        part = self._parts.get(name.system)
        if part is None:
            part = self._parts[name.system] = Build(
                id=self.id,
                name=name,
                tag=self.tag,
                started_at=self._now(),
                notifier=self.notifier,
                tracker=self._tracker,
                whole=self,
            )
        return part

    def finish_part(self) -> None:
        """Note that this part of an index's build has ended."""
        self._end_stage()
        self._state, self._position, self._derivation = BuildState.SUCCEEDED, None, None
        self._record_change()

    def succeed(self, digest: Digest) -> None:
        """Note that the image exists."""
        self._digest = digest
        self._end(BuildState.SUCCEEDED, keep=self.has_made_something)

    def fail(self, error: BaseException) -> None:
        """Note that it failed or was cancelled."""
        if isinstance(error, CancelledError | ShuttingDown | WorkAbandoned):
            self._end(BuildState.CANCELLED, keep=self.has_made_something)
            return
        self._failure = _make_failure(error)
        self._end(BuildState.FAILED, keep=not isinstance(error, _CHEAP_FAILURES))

    def _end(self, state: BuildState, *, keep: bool) -> None:
        self._end_stage()
        for part in self._parts.values():
            part.finish_part()
        self._state = state
        self._position = self._derivation = None
        self._ended_at = self._now()
        self._is_listed = keep or self._pinned
        self._record_change()
        self.notifier.notify()  # Watchers are notified even if it is forgotten now.
        self._tracker.record_end(self)

    # -- views -------------------------------------------------------------------------

    @property
    def is_listed(self) -> bool:
        """True if the build is shown in lists."""
        return self._is_listed

    @property
    def has_made_something(self) -> bool:
        """True if it has begun to make an image, and not just looked it up."""
        return not _BUILD_PHASES.isdisjoint(self._logged_phases) or any(
            part.has_made_something for part in self._parts.values()
        )

    @property
    def version(self) -> int:
        """The tracker's version at its last change."""
        return self._version

    @property
    def log_size(self) -> int:
        """The number of characters of its log that are kept."""
        return self._log_size

    def view(self) -> BuildView:
        """Return its current state as a value."""
        view = self.own_view()
        return combined_view(view, self._part_views()) if self._parts else view

    def _part_views(self) -> dict[str, BuildView]:
        """Return the views of its parts, by platform."""
        return {platform_label(system): part.own_view() for system, part in self._parts.items()}

    def own_view(self) -> BuildView:
        """
        Return its state without that of its parts.

        That of a part is the state of the build that makes its image, which may be another one.
        """
        if self._whole is not None and self._follows is not None:
            return self._follows.view()
        until = self._now() if self._ended_at is None else self._ended_at
        return BuildView(
            id=self.id,
            image=self.name.repository,
            tag=self.tag,
            system=", ".join(self.name.platforms) or self.name.system,
            state=self._state,
            position=self._position,
            started_at=self.started_at,
            ended_at=self._ended_at,
            elapsed=until - self.started_at,
            stages=tuple(self._stages),
            counts=tuple(self._counts.values()),
            derivation=self._derivation,
            follows=None if self._follows is None else self._follows.id,
            digest=self._digest,
            failure=self._failure,
            log_lines=self._dropped_lines + len(self._log_lines),
            version=self._version,
        )

    def log_part(self, after: int, limit: int) -> LogPart:
        """Return lines of the log from number ``after`` on, or from the first that is kept."""
        first = max(after - self._dropped_lines, 0)
        lines = tuple(islice(self._log_lines, first, first + limit))
        return LogPart(first=self._dropped_lines + first, lines=lines)

    def pin(self) -> Build:
        """
        Keep the build to watch in the tracker after its end.

        :return: that build: this one, or the one that it follows.
        """
        if self._whole is not None:
            return self._whole.pin()
        self._pinned = self._is_listed = True
        self._record_change()
        # Two builds that differ only in the name or the tag: one of them makes the image.
        return self if self._follows is None else self._follows.pin()

    def discard_log(self) -> None:
        """Discard the lines of the log, and keep only their number."""
        self._dropped_lines += len(self._log_lines)
        self._log_lines.clear()
        self._log_size = 0

    def _now(self) -> WallTime:
        # The wall clock is read once per build, so that durations stay right if the clock
        # is set meanwhile.
        return WallTime(self.started_at + self._tracker.seconds() - self._started_monotonic)

    def _end_stage(self) -> None:
        if self._stages and self._stages[-1].ended_at is None:
            self._stages[-1] = evolve(self._stages[-1], ended_at=self._now())

    def record_part_change(self, *, listed: bool) -> None:
        """
        Note that a part of it has changed.

        :param listed: whether its part is shown in lists.
        """
        self._is_listed = self._is_listed or listed
        self._record_change()

    def _record_change(self) -> None:
        if self._whole is not None:
            self._whole.record_part_change(listed=self._is_listed)
        elif self._is_listed:
            self._version = self._tracker.record_change()
            self.notifier.notify()


def _make_failure(error: BaseException) -> BuildFailure:
    original = error.original if isinstance(error, CachedFailure) else error
    if isinstance(original, BuildFailed | BuildTimedOut):
        return BuildFailure(
            message=original.message, derivation=original.derivation or None, log=original.log
        )
    if isinstance(original, NixeryError):
        return BuildFailure(message=original.message)
    # Details of unexpected errors are only logged; the client got a reference to the log.
    return BuildFailure(message="the registry failed; its log has the reason")
