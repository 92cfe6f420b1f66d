"""Record the stages of a build, how far they are, and the derivations that are being built."""

from __future__ import annotations

from collections import deque

from attrs import define, evolve, field

from nixery.builds.views import Count, RunningDerivation, Stage
from nixery.nix.progress import Phase
from nixery.runtime.clocks import WallTime

__all__ = ["MAX_STAGES", "Activity"]

MAX_STAGES = 32
"""The number of stages of a build that are kept; each re-evaluation adds some."""


@define(eq=False)
class Activity:
    """The stages of a build so far, and what is done in the last one."""

    _stages: deque[Stage] = field(factory=lambda: deque(maxlen=MAX_STAGES), init=False)
    _counts: dict[tuple[Phase, str], Count] = field(factory=dict, init=False)
    _running: dict[str, RunningDerivation] = field(factory=dict, init=False)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The last stages, in the order in which they began."""
        return tuple(self._stages)

    @property
    def counts(self) -> tuple[Count, ...]:
        """The newest count for each unit of a phase, in the order in which they came first."""
        return tuple(self._counts.values())

    @property
    def running(self) -> tuple[RunningDerivation, ...]:
        """The derivations that are being built, in the order in which they began."""
        return tuple(self._running.values())

    def begin_stage(self, phase: Phase, now: WallTime) -> None:
        """Note that a stage begins, and that the last one has ended."""
        if phase is Phase.BUILDING:
            self._end_stage(now)
        else:
            self.end(now)
        self._stages.append(Stage(phase=phase, started_at=now))

    def count(self, count: Count) -> None:
        """Replace the count for a unit of a phase."""
        self._counts[count.phase, count.unit] = count

    def begin_derivation(self, derivation: str, now: WallTime) -> None:
        """Note that a derivation is being built."""
        self._running.pop(derivation, None)
        self._running[derivation] = RunningDerivation(derivation=derivation, started_at=now)

    def set_derivation_phase(self, derivation: str, phase: str) -> None:
        """Note the phase of a derivation's builder, if it is being built."""
        running = self._running.get(derivation)
        if running is not None:
            self._running[derivation] = evolve(running, phase=phase)

    def end_derivation(self, derivation: str) -> None:
        """Note that a derivation is not being built any more."""
        self._running.pop(derivation, None)

    def end(self, now: WallTime) -> None:
        """Note that the last stage has ended, and that nothing is being built."""
        self._end_stage(now)
        self._running.clear()

    def _end_stage(self, now: WallTime) -> None:
        if self._stages and self._stages[-1].ended_at is None:
            self._stages[-1] = evolve(self._stages[-1], ended_at=now)
