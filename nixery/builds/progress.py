"""
How far a build is, as the build tells it.

A :class:`Build` takes what the pipeline tells, keeps a bounded part of it, and
makes values of it for whoever wants to see (:mod:`nixery.builds.views`); all builds are
kept in :mod:`nixery.builds.tracker`.  The log gets one line for each phase.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Protocol

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from nixery.builds.errors import CachedFailure, QueueFull
from nixery.builds.notifier import ThrottledNotifier
from nixery.builds.views import BuildFailure, BuildState, BuildView, Count, LogPart, Stage
from nixery.errors import NixeryError, ShuttingDown
from nixery.image.errors import PackagesRefused
from nixery.image.names import Digest, ImageName, Tag
from nixery.nix.errors import BuildFailed, BuildTimedOut
from nixery.nix.progress import Phase
from nixery.runtime.clocks import WallTime
from nixery.sources.errors import UnknownRevision

__all__ = ["Build", "Keeper"]

LOG_LINES = 1000
"""How many lines of a build's log are kept."""

LOG_SIZE = 256 * 1024
"""How many characters of it are kept."""

STAGES = 32
"""How many stages of a build are kept: each time that derivations are lost adds some."""

_QUICK = (PackagesRefused, UnknownRevision, CachedFailure, QueueFull)
"""Failures that whoever asked was told at once, and that cost next to nothing."""

_MAKING = {Phase.DOWNLOADING, Phase.BUILDING, Phase.PACKING, Phase.STORING}
"""Phases in which an image is made, and not just looked up."""


class Keeper(Protocol):
    """The book that a build is in."""

    def seconds(self) -> float:
        """The monotonic time."""

    def changed(self) -> int:
        """The build has changed; :return: the new version of the book."""

    def ended(self, build: Build) -> None:
        """The build has ended."""


@define(kw_only=True, eq=False)
class Build:
    """
    One image on its way; an implementation of :class:`nixery.nix.progress.Progress`.

    It is listed when its first phase begins.  One that made nothing, because the
    image was known, and one that failed at once, is forgotten when it ends, unless
    somebody was told to watch it.
    """

    id: str
    name: ImageName
    tag: Tag
    begun: WallTime
    bell: ThrottledNotifier
    _book: Keeper
    _since: float = field(init=False)
    _state: BuildState = BuildState.RUNNING
    _ended: WallTime | None = None
    _position: int | None = None
    _stages: deque[Stage] = field(factory=lambda: deque(maxlen=STAGES))
    _counts: dict[tuple[Phase, str], Count] = field(factory=dict)
    _derivation: str | None = None
    _follows: Build | None = None
    _digest: Digest | None = None
    _problem: BuildFailure | None = None
    _lines: deque[str] = field(factory=deque)
    _size: int = 0
    _dropped_lines: int = 0
    _version: int = 0
    _listed: bool = False
    _announced: bool = False
    _seen: set[Phase] = field(factory=set)

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._since = self._book.seconds()

    # -- what the build tells --------------------------------------------------------

    def phase(self, phase: Phase, /) -> None:
        """As :meth:`nixery.nix.progress.Progress.phase` says; one is logged once."""
        if phase not in self._seen:
            self._seen.add(phase)
            self._log.info("{image}: {phase}", image=self.name.repository, phase=phase.value)
        self._end_stage()
        self._stages.append(Stage(phase=phase, begun=self._now()))
        if phase is not Phase.BUILDING:
            self._derivation = None
        self._listed = True
        self._changed()

    def count(self, phase: Phase, done: int, expected: int, unit: str, /) -> None:
        """As :meth:`nixery.nix.progress.Progress.count` says."""
        # Not logged, like all that comes by the thousand.
        self._counts[phase, unit] = Count(phase=phase, unit=unit, done=done, expected=expected)
        self._changed()

    def derivation(self, derivation: str, /) -> None:
        """As :meth:`nixery.nix.progress.Progress.derivation` says."""
        self._derivation = derivation
        self._changed()

    def log(self, line: str, /) -> None:
        """As :meth:`nixery.nix.progress.Progress.log` says."""
        self._lines.append(line)
        self._size += len(line) + 1
        while len(self._lines) > LOG_LINES or self._size > LOG_SIZE:
            self._size -= len(self._lines.popleft()) + 1
            self._dropped_lines += 1
        self.bell.ring()

    # -- what becomes of it -------------------------------------------------------------

    def queued(self, position: int) -> None:
        """It waits for its turn: ``position`` builds, itself included, until it begins."""
        self._state = BuildState.QUEUED
        self._position = position
        self._listed = True
        self._changed()

    def started(self) -> None:
        """It waits no more, if it did."""
        if self._state is not BuildState.QUEUED:
            return
        self._state = BuildState.RUNNING
        self._position = None
        self._changed()

    def follow(self, other: Build) -> None:
        """It waits for another build, which makes the same image."""
        self._follows = other
        self._changed()

    def succeeded(self, digest: Digest) -> None:
        """The image is there."""
        self._digest = digest
        self._end(BuildState.SUCCEEDED, worth=not _MAKING.isdisjoint(self._seen))

    def failed(self, error: BaseException) -> None:
        """It ended in a failure, or was cancelled."""
        if isinstance(error, CancelledError | ShuttingDown):
            self._end(BuildState.CANCELLED, worth=not _MAKING.isdisjoint(self._seen))
            return
        self._problem = _problem(error)
        self._end(BuildState.FAILED, worth=not isinstance(error, _QUICK))

    def _end(self, state: BuildState, *, worth: bool) -> None:
        self._end_stage()
        self._state = state
        self._position = self._derivation = None
        self._ended = self._now()
        self._listed = worth or self._announced
        self._changed()
        self.bell.ring()  # Whoever watches is told, even if it is forgotten now.
        self._book.ended(self)

    # -- what is told of it ------------------------------------------------------------

    @property
    def listed(self) -> bool:
        """Whether it is told of."""
        return self._listed

    @property
    def version(self) -> int:
        """That of its last change."""
        return self._version

    @property
    def log_size(self) -> int:
        """How many characters of its log are kept."""
        return self._size

    def view(self) -> BuildView:
        """What there is to tell now."""
        until = self._now() if self._ended is None else self._ended
        return BuildView(
            id=self.id,
            image=self.name.repository,
            tag=self.tag,
            system=self.name.system,
            state=self._state,
            position=self._position,
            begun=self.begun,
            ended=self._ended,
            elapsed=until - self.begun,
            stages=tuple(self._stages),
            counts=tuple(self._counts.values()),
            derivation=self._derivation,
            follows=None if self._follows is None else self._follows.id,
            digest=self._digest,
            problem=self._problem,
            log_lines=self._dropped_lines + len(self._lines),
            version=self._version,
        )

    def log_part(self, after: int, limit: int) -> LogPart:
        """Lines of the log from number ``after`` on, or from the first that is kept."""
        first = max(after - self._dropped_lines, 0)
        lines = tuple(islice(self._lines, first, first + limit))
        return LogPart(first=self._dropped_lines + first, lines=lines)

    def announce(self) -> Build:
        """:return: the build to watch, which stays in the book when it has ended."""
        self._announced = self._listed = True
        self._changed()
        # Two builds that are told apart by name or tag only: one makes the image.
        return self if self._follows is None else self._follows.announce()

    def forget_log(self) -> None:
        """Keep no more of the log than its last lines' number."""
        self._dropped_lines += len(self._lines)
        self._lines.clear()
        self._size = 0

    def _now(self) -> WallTime:
        # The wall clock is read once a build: what it shows of its own course stays right
        # when the clock is set meanwhile.
        return WallTime(self.begun + self._book.seconds() - self._since)

    def _end_stage(self) -> None:
        if self._stages and self._stages[-1].ended is None:
            self._stages[-1] = evolve(self._stages[-1], ended=self._now())

    def _changed(self) -> None:
        if self._listed:
            self._version = self._book.changed()
            self.bell.ring()


def _problem(error: BaseException) -> BuildFailure:
    original = error.original if isinstance(error, CachedFailure) else error
    if isinstance(original, BuildFailed | BuildTimedOut):
        return BuildFailure(
            message=original.message, derivation=original.derivation or None, log=original.log
        )
    if isinstance(original, NixeryError):
        return BuildFailure(message=original.message)
    # What nobody foresaw is for the log, and whoever asked got a reference to it.
    return BuildFailure(message="the registry failed; its log has the reason")
