"""
Declares the interface by which a build reports its progress.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

__all__ = ["Phase", "Progress"]


class Phase(Enum):
    """The stages of a build, in order; ``FETCHING`` and others may be skipped."""

    RESOLVING = "resolving"
    FETCHING = "fetching"
    EVALUATING = "evaluating"
    DOWNLOADING = "downloading"
    BUILDING = "building"
    PACKING = "packing"
    STORING = "storing"


class Progress(Protocol):
    """
    Receives the progress of a build.

    It is called on the reactor thread, and never raises; reports without a listener cost
    next to nothing.
    """

    def phase(self, phase: Phase, /) -> None:
        """Report that a stage begins."""

    def count(self, phase: Phase, done: int, expected: int, unit: str, /) -> None:
        """Report ``done`` of ``expected`` units (``bytes``, ``builds``, ``paths``, ``layers``)."""

    def derivation(self, derivation: str, /) -> None:
        """Report the store path of a derivation whose build begins."""

    def derivation_phase(self, derivation: str, phase: str, /) -> None:
        """Report the phase of a derivation's builder, as nixpkgs names it: ``checkPhase``."""

    def derivation_ended(self, derivation: str, succeeded: bool, /) -> None:
        """Report that the build of a derivation has ended; that may be reported twice."""

    def log(self, line: str, derivation: str, /) -> None:
        """
        Report a line of a build's log, without terminal escapes and line end.

        :param derivation: the store path of the derivation that printed it; empty: none did.
        """
