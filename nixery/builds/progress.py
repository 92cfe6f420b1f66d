"""
The progress of a build.

A :class:`Build` receives the progress from the pipeline, keeps a bounded part of it, and
makes views of it (:mod:`nixery.builds.views`); :mod:`nixery.builds.tracker` keeps all builds.
The log gets one line for each phase.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from nixery.builds.activity import Activity
from nixery.builds.build_failure import BuildFailure, describe_failure
from nixery.builds.build_group import BuildGroup
from nixery.builds.build_output import BuildOutput
from nixery.builds.errors import CachedFailure
from nixery.builds.notifier import ThrottledNotifier
from nixery.builds.views import (
    BuildState,
    BuildView,
    Count,
    DerivationState,
    ImageLabel,
    combined_view,
)
from nixery.builds.waiting_clients import MAX_SPELLINGS
from nixery.errors import ShuttingDown
from nixery.image.errors import PackagesRefused
from nixery.image.image_index import platform_label
from nixery.image.names import Digest, ImageName, Tag
from nixery.limits.errors import BuildsExceeded, PackagesDenied, QueueFull, WorkAbandoned
from nixery.nix.progress import Phase
from nixery.runtime.clocks import WallTime
from nixery.sources.errors import UnknownRevision

if TYPE_CHECKING:
    from nixery.builds.tracker import BuildTracker

__all__ = ["Build"]

_CHEAP_FAILURES = (
    PackagesRefused,
    PackagesDenied,
    UnknownRevision,
    CachedFailure,
    QueueFull,
    BuildsExceeded,
)
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

    A build that would only wait for another one, of the same image under another name or tag, is
    not shown beside it (:meth:`follow`): that one has its name, and its page.

    The build of an index has a part for each platform (:meth:`part`), which receives the progress
    of that platform, and is shown with the others as one build.
    """

    id: str
    name: ImageName
    tag: Tag
    started_at: WallTime
    notifier: ThrottledNotifier
    output: BuildOutput
    key: str = ""
    _tracker: BuildTracker
    _started_monotonic: float = field(init=False)
    _state: BuildState = BuildState.RUNNING
    _ended_at: WallTime | None = None
    _position: int | None = None
    _activity: Activity = field(factory=Activity)
    _follows: Build | None = None
    _spellings: dict[ImageLabel, None] = field(factory=dict)
    _digest: Digest | None = None
    _failure: BuildFailure | None = None
    _version: int = 0
    _is_listed: bool = False
    _pinned: bool = False
    _hidden_until_made: bool = False
    _logged_phases: set[Phase] = field(factory=set)
    _whole: Build | None = None
    _parts: dict[str, Build] = field(factory=dict)

    group: BuildGroup = field(init=False)
    """The builds that this one is shown together with."""

    failed_before: bool = field(default=False, init=False)
    """True if it was not tried, because it had failed a short while ago."""

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._started_monotonic = self._tracker.seconds()
        self.group = BuildGroup(self)
        self.add_spelling(self.name)

    # -- progress from the pipeline --------------------------------------------------

    def phase(self, phase: Phase, /) -> None:
        """Implement :meth:`nixery.nix.progress.Progress.phase`; log each phase once."""
        if self.group.shown.has_ended:
            self.lead()
        if phase not in self._logged_phases:
            self._logged_phases.add(phase)
            self._log.info("{image}: {phase}", image=self.name.repository, phase=phase.value)
        self._activity.begin_stage(phase, self._now())
        self._is_listed |= not self._hidden_until_made or phase in _BUILD_PHASES
        self.record_change()

    def count(self, phase: Phase, done: int, expected: int, unit: str, /) -> None:
        """Implement :meth:`nixery.nix.progress.Progress.count`."""
        # Not logged: there are thousands of calls.
        self._activity.count(Count(phase=phase, unit=unit, done=done, expected=expected))
        self.record_change()

    def derivation(self, derivation: str, /) -> None:
        """Implement :meth:`nixery.nix.progress.Progress.derivation`."""
        self._activity.begin_derivation(derivation, self._now())
        self.output.begin(derivation)
        self.record_change()

    def derivation_phase(self, derivation: str, phase: str, /) -> None:
        """Implement :meth:`nixery.nix.progress.Progress.derivation_phase`."""
        self._activity.set_derivation_phase(derivation, phase)
        self.record_change()

    def derivation_ended(self, derivation: str, succeeded: bool, /) -> None:
        """Implement :meth:`nixery.nix.progress.Progress.derivation_ended`."""
        self._activity.end_derivation(derivation)
        self.output.end(derivation, DerivationState.BUILT if succeeded else DerivationState.FAILED)
        self.record_change()

    def log(self, line: str, derivation: str = "", /) -> None:
        """Implement :meth:`nixery.nix.progress.Progress.log`."""
        if self._whole is not None:
            self._whole.log(f"{platform_label(self.name.system)}> {line}", derivation)
            return
        self.output.add(line, derivation)
        self.notifier.notify()

    # -- state changes ------------------------------------------------------------------

    def set_queued(self, position: int) -> None:
        """Note that it is queued at ``position``, 1 for the next build to begin."""
        self._state = BuildState.QUEUED
        self._position = position
        self._is_listed |= not self._hidden_until_made
        self.record_change()

    def set_running(self) -> None:
        """Note that it has left the queue, if it was queued."""
        if self._state is not BuildState.QUEUED:
            return
        self._state = BuildState.RUNNING
        self._position = None
        self.record_change()

    def follow(self, other: Build) -> None:
        """
        Note that it waits for another build, which makes the same image.

        That one is shown in its place, unless one of the two is a part of an index's build.
        """
        if self.is_part or other.is_part:
            self._follows = other
            self.record_change()
        elif self.group is not other.group:
            self.group.shown.give_way(other.group.shown)
            self.group.join(other.group)
            other.group.shown.record_change()

    def lead(self) -> None:
        """Note that it makes the image itself, even if it waited for another build until now."""
        former = self.group.shown
        if former is not self:
            self.group.leave(self)
            self._tracker.restore(self.id)
            former.record_change()
            self.record_change()

    def give_way(self, other: Build) -> None:
        """Note that another build is shown in its place."""
        if self.is_listed:
            self._tracker.remove(self)
            self._version = 0
        self._tracker.replace(self.id, other.id)
        if self.notifier.has_listeners:
            other.notifier.subscribe(self.notifier.notify)
            self.notifier.notify()
        if self._pinned:
            other.pin()

    def hide_until_made(self) -> None:
        """List it when it makes an image: until then it is probably answered from a cache."""
        self._hidden_until_made = True

    def add_spelling(self, name: ImageName) -> None:
        """Note that a client has written the name of the image in this way."""
        if len(self._spellings) < MAX_SPELLINGS:
            self._spellings[ImageLabel(name.repository, self.tag)] = None

    def repeat(self, earlier: Build) -> None:
        """Note that it failed as an earlier build of the same image, which it replaces."""
        self.group.add_attempts(earlier.group)
        self.record_change()

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
                output=self.output,
                tracker=self._tracker,
                whole=self,
            )
        return part

    def finish_part(self) -> None:
        """Note that this part of an index's build has ended."""
        self._activity.end(self._now())
        self._state, self._position = BuildState.SUCCEEDED, None
        self.record_change()

    def succeed(self, digest: Digest) -> None:
        """Note that the image exists."""
        self._digest = digest
        self._end(BuildState.SUCCEEDED, keep=self.has_made_something)

    def fail(self, error: BaseException, retry_after: float = 0.0) -> None:
        """
        Note that it failed or was cancelled.

        :param retry_after: seconds before which it is not tried again.
        """
        if isinstance(error, CancelledError | ShuttingDown | WorkAbandoned):
            self._end(BuildState.CANCELLED, keep=self.has_made_something)
            return
        if self.group.shown.failure is None:
            self.lead()
        retry_at = WallTime(self._now() + retry_after) if retry_after > 0 else None
        self._failure = describe_failure(error, retry_at)
        self.failed_before = isinstance(error, CachedFailure)
        self._end(BuildState.FAILED, keep=not isinstance(error, _CHEAP_FAILURES))

    def _end(self, state: BuildState, *, keep: bool) -> None:
        self._activity.end(self._now())
        for part in self._parts.values():
            part.finish_part()
        self.output.finish(None if self._failure is None else self._failure.derivation)
        self._state = state
        self._position = None
        self._ended_at = self._now()
        self._is_listed = keep or self._pinned
        self.record_change()
        self.notifier.notify()  # Watchers are notified even if it is forgotten now.
        self._tracker.record_end(self)

    # -- views -------------------------------------------------------------------------

    @property
    def is_listed(self) -> bool:
        """True if the build is shown in lists."""
        return self._is_listed and self.group.shown is self

    @property
    def is_part(self) -> bool:
        """True if it is the part of an index's build that makes the image of one platform."""
        return self._whole is not None

    @property
    def has_ended(self) -> bool:
        """True if its state is final."""
        return self._state.is_final

    @property
    def failure(self) -> BuildFailure | None:
        """The failure that has ended it."""
        return self._failure

    @property
    def was_cancelled(self) -> bool:
        """True if it was stopped before it had a result."""
        return self._state is BuildState.CANCELLED

    @property
    def spellings(self) -> Iterable[ImageLabel]:
        """The name and the tag, as clients have written them."""
        return tuple(self._spellings)

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
            stages=self._activity.stages,
            counts=self._activity.counts,
            running=self._activity.running,
            follows=None if self._follows is None else self._follows.id,
            digest=self._digest,
            failure=self._failure,
            log_lines=self.output.line_count,
            version=self._version,
            key=self.key,
            also=self.group.labels[1:],
            clients=0 if self.has_ended else self._tracker.clients.count(self.group.requests),
            attempts=self.group.attempts,
            derivations=self.output.main_derivations(),
        )

    def pin(self) -> Build:
        """
        Keep the build to watch in the tracker after its end.

        :return: that build: this one, or the one that it follows.
        """
        if self._whole is not None:
            return self._whole.pin()
        if self.group.shown is not self:
            return self.group.shown.pin()
        self._pinned = self._is_listed = True
        self.record_change()
        # A platform of an index may be the image that it waits for.
        return self if self._follows is None else self._follows.pin()

    def _now(self) -> WallTime:
        # The wall clock is read once per build, so that durations stay right if the clock
        # is set meanwhile.
        return WallTime(self.started_at + self._tracker.seconds() - self._started_monotonic)

    def record_part_change(self, *, listed: bool) -> None:
        """
        Note that a part of it has changed.

        :param listed: whether its part is shown in lists.
        """
        self._is_listed = self._is_listed or listed
        self.record_change()

    def record_change(self) -> None:
        """Note that something has changed that views show."""
        if self._whole is not None:
            self._whole.record_part_change(listed=self._is_listed)
        elif self.is_listed:
            self._version = self._tracker.record_change()
            self.notifier.notify()
