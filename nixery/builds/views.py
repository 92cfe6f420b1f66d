"""
What is told of builds: the values that pages, event streams and answers are made of.

A build is told of by what a client could have asked for itself: the image's name
as a client wrote it, the tag, how far it is, and what a failure says to whoever
pulls the image.  Nothing of the machine is in here: no command line, no path but
those of the Nix store, no client's address.

Times are seconds since 1970: the wall clock's when the build began, and that and what has
passed since for all that came later.  Differences of two times of one build are durations
therefore, even if the clock was set meanwhile.
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
    "Stage",
]


class BuildState(Enum):
    """What has become of a build so far."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self not in {BuildState.QUEUED, BuildState.RUNNING}


@frozen(kw_only=True)
class Stage:
    """A phase that a build went through; ``ended`` is ``None`` while it lasts."""

    phase: Phase
    begun: WallTime
    ended: WallTime | None = None


@frozen(kw_only=True)
class Count:
    """How much of a phase is done: ``done`` of ``expected`` units."""

    phase: Phase
    unit: str
    done: int
    expected: int


@frozen(kw_only=True)
class BuildFailure:
    """
    How a build failed.

    :param message: for a person.
    :param derivation: the one that failed, if it was one.
    :param log: the last lines of that one's log.
    """

    message: str
    derivation: str | None = None
    log: tuple[str, ...] = ()


@frozen(kw_only=True)
class BuildView:
    """
    A build, as it was when this was made.

    :param id: cannot be guessed.
    :param image: the name, as the client wrote it that asked first.
    :param position: its place in the queue, 1 for the next, while it is queued.
    :param begun: when it was asked for.
    :param elapsed: seconds since then, or until it ended.
    :param stages: in the order in which they began.
    :param counts: in the order in which they were first told.
    :param derivation: the store path of the derivation whose build began last, while
        something is being built.
    :param follows: the id of another build that makes the same image, under
        another name or tag; this one ends when that one does.
    :param digest: of the image's OCI manifest, when it has been made.
    :param log_lines: how many lines the log has had so far.
    :param version: grows with each change that is seen here but for ``log_lines``,
        over all builds.
    """

    id: str
    image: str
    tag: str
    system: str
    state: BuildState
    position: int | None
    begun: WallTime
    ended: WallTime | None
    elapsed: float
    stages: tuple[Stage, ...]
    counts: tuple[Count, ...]
    derivation: str | None
    follows: str | None
    digest: str | None
    problem: BuildFailure | None
    log_lines: int
    version: int

    def doing(self) -> str:
        """In a few words, what is being done: ``building, 3 of 14 builds``."""
        if self.state is BuildState.QUEUED:
            return "waiting for its turn" + (f", number {self.position}" if self.position else "")
        if self.state.ended or not self.stages:
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

    :param first: the number of its first line, from 0; larger than what was asked
        for where lines are not kept any more.
    :param lines: the lines, without their ends.
    """

    first: int
    lines: tuple[str, ...]

    @property
    def after(self) -> int:
        """The number of the line that follows."""
        return self.first + len(self.lines)


@frozen(kw_only=True)
class Changes:
    """
    What happened to builds since a version.

    :param version: now.
    :param builds: those that have changed and are still told of.
    :param removed: the ids of those that are told of no more; ``None`` where that
        is not known: ``builds`` are all that there are then.
    """

    version: int
    builds: tuple[BuildView, ...]
    removed: tuple[str, ...] | None
