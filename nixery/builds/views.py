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

from enum import Enum

from attrs import frozen

from nixery.nix.progress import Phase
from nixery.runtime.clocks import WallTime

__all__ = [
    "BuildState",
    "BuildView",
    "Changes",
    "Count",
    "LogPart",
    "BuildFailure",
    "RemovedBuild",
    "Stage",
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
    """A phase that a build went through; ``ended_at`` is ``None`` while it lasts."""

    phase: Phase
    started_at: WallTime
    ended_at: WallTime | None = None


@frozen(kw_only=True)
class Count:
    """The progress of a phase: ``done`` of ``expected`` units."""

    phase: Phase
    unit: str
    done: int
    expected: int


@frozen(kw_only=True)
class BuildFailure:
    """
    The failure of a build.

    :param message: for a person.
    :param derivation: the derivation that failed, if one did.
    :param log: the last lines of that derivation's log.
    """

    message: str
    derivation: str | None = None
    log: tuple[str, ...] = ()


@frozen(kw_only=True)
class BuildView:
    """
    A snapshot of a build.

    :param id: cannot be guessed.
    :param image: the name as the first client that requested it wrote it.
    :param position: its place in the queue, 1 for the next, while it is queued.
    :param started_at: the time when it was requested.
    :param elapsed: seconds from then until now, or until it ended.
    :param stages: in the order in which they began.
    :param counts: in the order in which they were first reported.
    :param derivation: the store path of the derivation whose build began last, while
        something is being built.
    :param follows: the id of another build that makes the same image, under
        another name or tag; this one ends when that one does.
    :param digest: of the image's OCI manifest, when it has been made.
    :param log_lines: the number of lines that the log has had so far.
    :param version: grows, over all builds, with each change of a field other than
        ``log_lines``.
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
    derivation: str | None
    follows: str | None
    digest: str | None
    failure: BuildFailure | None
    log_lines: int
    version: int

    def describe_activity(self) -> str:
        """Describe the current activity in a few words: ``building, 3 of 14 builds``."""
        if self.state is BuildState.QUEUED:
            return "waiting for its turn" + (f", number {self.position}" if self.position else "")
        if self.state.is_final or not self.stages:
            return str(self.state.value)
        phase = self.stages[-1].phase
        counts = [count for count in self.counts if count.phase is phase and count.expected]
        return ", ".join(
            [phase.value, *(f"{each.done} of {each.expected} {each.unit}" for each in counts)]
        )


@frozen(kw_only=True)
class LogPart:
    """
    A part of a build's log.

    :param first: the number of its first line, from 0; larger than the requested number
        if lines are not kept any more.
    :param lines: the lines, without their ends.
    """

    first: int
    lines: tuple[str, ...]

    @property
    def after(self) -> int:
        """The number of the line that follows."""
        return self.first + len(self.lines)


@frozen(kw_only=True)
class RemovedBuild:
    """
    A build that is not listed any more.

    :param image: the name of its image, by which it is decided who may know of it.
    """

    id: str
    image: str


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
