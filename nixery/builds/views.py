"""
Views of builds: the values that pages, event streams and responses are made from.

A view holds only data that a client could have requested itself: the image's name as a
client wrote it, the tag, the progress, and the message of a failure, as a client that pulls
the image gets it.  It holds no data about the machine: no command line, no path but those of
the Nix store, no client's address.

Times are seconds since 1970.  The beginning of a build is read from the wall clock; all
later times are that time plus the monotonic time that has passed since.  So the difference
of two times of one build is a duration even if the clock was set meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

from attrs import evolve, frozen

from nixery.builds.build_failure import BuildFailure
from nixery.image.closure import package_label
from nixery.nix.progress import Phase
from nixery.runtime.clocks import WallTime

__all__ = [
    "BuildState",
    "BuildView",
    "Changes",
    "Count",
    "ImageLabel",
    "DerivationState",
    "DerivationView",
    "LogPart",
    "RemovedBuild",
    "RunningDerivation",
    "Stage",
    "combined_view",
]


class BuildState(Enum):
    """The state of a build."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """True if the state is final."""
        return self not in {BuildState.QUEUED, BuildState.RUNNING}


@frozen(kw_only=True)
class Stage:
    """
    A phase that a build went through; ``ended_at`` is ``None`` while it lasts.

    :param platform: the platform, ``arm64``, of an index that is made; empty for other images.
    """

    phase: Phase
    started_at: WallTime
    ended_at: WallTime | None = None
    platform: str = ""


@frozen(kw_only=True)
class Count:
    """
    The progress of a phase: ``done`` of ``expected`` units.

    :param platform: as of a :class:`Stage`.
    """

    phase: Phase
    unit: str
    done: int
    expected: int
    platform: str = ""


class DerivationState(Enum):
    """The state of a derivation: of one that is stopped, it is not known how far it came."""

    BUILDING = "building"
    BUILT = "built"
    FAILED = "failed"
    STOPPED = "stopped"


@frozen(kw_only=True)
class DerivationView:
    """
    A derivation that a build has Nix build, and its log.

    :param number: counted from 1 over the build.
    :param path: its store path.
    :param begun: seconds from the begin of the build.
    :param ended: the same; ``None`` while it is built.
    :param lines: the number of lines that it has printed.
    :param first: the number of the first of them in the log of the build.
    :param last: the number of the last.
    """

    number: int
    path: str
    state: DerivationState
    begun: float
    ended: float | None
    lines: int
    first: int
    last: int

    @property
    def name(self) -> str:
        """The name of what it builds: ``git-2.47.0``."""
        return self.path.rpartition("/")[2].partition("-")[2].removesuffix(".drv") or self.path


@frozen(kw_only=True)
class RunningDerivation:
    """
    A derivation that is being built.

    :param derivation: its store path.
    :param phase: the phase of its builder, ``checkPhase``; empty if it tells none.
    :param platform: as of a :class:`Stage`.
    """

    derivation: str
    started_at: WallTime
    phase: str = ""
    platform: str = ""

    @property
    def package(self) -> str:
        """The name and the version of the package: ``git 2.47.0``."""
        return package_label(self.derivation)


@frozen
class ImageLabel:
    """
    A name and a tag that clients have pulled an image by.

    :param image: the name as a client wrote it: ``shell/git``.
    """

    image: str
    tag: str

    def __str__(self) -> str:
        return f"{self.image}:{self.tag}"


@frozen(kw_only=True)
class BuildView:
    """
    A snapshot of a build.

    :param id: cannot be guessed.
    :param image: the name as the first client that requested it wrote it.
    :param system: the Nix system, or those of an index, separated by commas.
    :param position: its place in the queue, 1 for the next, while it is queued.
    :param started_at: the time when it was requested.
    :param elapsed: seconds from then until now, or until it ended.
    :param stages: in the order in which they began.
    :param counts: in the order in which they were first reported.
    :param running: the derivations that are being built now, in the order in which they began.
    :param follows: the id of the build of an index that makes the same image for one of its
        platforms; this one ends when that image is ready.
    :param digest: of the image's OCI manifest, when it has been made.
    :param log_lines: the number of lines that the log has had so far.
    :param derivations: those that have failed, and those that are being built, up to a number.
    :param version: grows, over all builds, with each change of a field other than
        ``log_lines``.
    :param key: identifies the packages and the revision, whatever name and tag they have.
    :param also: the other names and tags that clients have pulled the same image by.
    :param clients: the number of clients that wait for it.
    :param attempts: the number of times that it was tried and failed in the same way, if it failed.
    """

    id: str
    image: str
    tag: str
    system: str
    state: BuildState
    position: int | None
    started_at: WallTime
    ended_at: WallTime | None
    elapsed: float
    stages: tuple[Stage, ...]
    counts: tuple[Count, ...]
    running: tuple[RunningDerivation, ...]
    follows: str | None
    digest: str | None
    failure: BuildFailure | None
    log_lines: int
    version: int
    derivations: tuple[DerivationView, ...] = ()
    key: str = ""
    also: tuple[ImageLabel, ...] = ()
    clients: int = 0
    attempts: int = 1

    @property
    def derivation(self) -> str | None:
        """The store path of the derivation whose build began last; ``None`` if none is built."""
        return self.running[-1].derivation if self.running else None

    @property
    def labels(self) -> tuple[ImageLabel, ...]:
        """The names and tags that clients have pulled its image by."""
        return ImageLabel(self.image, self.tag), *self.also

    def seen_by(self, may_see: Callable[[str], bool]) -> BuildView | None:
        """
        Return the view for somebody who may not see all images, under a name that they may see.

        :param may_see: tells whether they may see an image, by its name.
        :return: ``None`` if they may see it under no name.
        """
        seen = [label for label in self.labels if may_see(label.image)]
        if len(seen) == len(self.labels):
            return self
        if not seen:
            return None
        return evolve(self, image=seen[0].image, tag=seen[0].tag, also=tuple(seen[1:]))

    def describe_activity(self) -> str:
        """
        Describe the current activity in a few words: ``building, 3 of 14 builds``; or, if there is
        only one derivation to build, ``building git 2.47.0``.
        """
        if self.state is BuildState.QUEUED:
            return "waiting for its turn" + (f", number {self.position}" if self.position else "")
        if self.state.is_final or not self.stages:
            return str(self.state.value)
        # The last stage of each platform.
        last = {stage.platform: stage for stage in self.stages}
        return "; ".join(
            f"{platform}: {self._describe(stage)}" if platform else self._describe(stage)
            for platform, stage in last.items()
        )

    def _describe(self, stage: Stage) -> str:
        if stage.platform and stage.ended_at is not None:
            return "done"
        counts = [
            count
            for count in self.counts
            if (count.phase, count.platform) == (stage.phase, stage.platform) and count.expected
        ]
        if stage.phase is Phase.BUILDING and all(count.expected == 1 for count in counts):
            packages = [each.package for each in self.running if each.platform == stage.platform]
            return " ".join([stage.phase.value, *packages[-1:]])
        return ", ".join(
            [stage.phase.value, *(f"{each.done} of {each.expected} {each.unit}" for each in counts)]
        )


@frozen(kw_only=True)
class LogPart:
    """
    A part of a build's log.

    :param first: the number of its first line, from 0; larger than the requested number
        if lines are not kept any more.
    :param lines: the lines, without their ends.
    :param seconds: for each line, the time since the build began.
    :param derivations: for each line, the number of its derivation; 0: it has none.
    """

    first: int
    lines: tuple[str, ...]
    seconds: tuple[float, ...] = ()
    derivations: tuple[int, ...] = ()

    @property
    def after(self) -> int:
        """The number of the line that follows."""
        return self.first + len(self.lines)


@frozen(kw_only=True)
class RemovedBuild:
    """
    A build that is not listed any more.

    :param images: the names of its image, by which it is decided who may know of it.
    """

    id: str
    images: tuple[str, ...]


@frozen(kw_only=True)
class Changes:
    """
    The changes of builds since a version.

    :param version: the current version.
    :param builds: the builds that have changed and are still listed.
    :param removed: the builds that are not listed any more; ``None`` if these are
        not known: ``builds`` are all listed builds then.
    """

    version: int
    builds: tuple[BuildView, ...]
    removed: tuple[RemovedBuild, ...] | None


def combined_view(whole: BuildView, parts: Mapping[str, BuildView]) -> BuildView:
    """
    Return the view of an index's build.

    :param whole: its own state.
    :param parts: the views of what makes the images of its platforms, by platform.
    """
    stages = [
        evolve(stage, platform=platform)
        for platform, part in parts.items()
        for stage in part.stages
        # A build that made one of the images may have begun long before this one.
        if stage.ended_at is None or stage.ended_at >= whole.started_at
    ]
    running = [part for part in parts.values() if not part.state.is_final]
    queued = [part for part in running if part.state is BuildState.QUEUED]
    waits = not whole.state.is_final and len(queued) == len(running) > 0
    return evolve(
        whole,
        state=BuildState.QUEUED if waits else whole.state,
        position=min((part.position for part in queued if part.position), default=None)
        if waits
        else whole.position,
        stages=(*whole.stages, *sorted(stages, key=lambda stage: stage.started_at)),
        counts=(
            *whole.counts,
            *(
                evolve(count, platform=platform)
                for platform, part in parts.items()
                for count in part.counts
            ),
        ),
        running=(
            *whole.running,
            *(
                evolve(each, platform=platform)
                for platform, part in parts.items()
                for each in part.running
            ),
        ),
    )
