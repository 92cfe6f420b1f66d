"""
Declares the interface by which a build tells its progress.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

__all__ = ["Phase", "Progress"]


class Phase(Enum):
    """The stages of a build, in order; ``FETCHING`` and others may be left out."""

    RESOLVING = "resolving"
    FETCHING = "fetching"
    EVALUATING = "evaluating"
    DOWNLOADING = "downloading"
    BUILDING = "building"
    PACKING = "packing"
    STORING = "storing"


class Progress(Protocol):
    """
    Where a build tells how far it is.  Called on the reactor thread; never
    raises; what nobody listens to costs next to nothing.
    """

    def phase(self, phase: Phase, /) -> None:
        """A stage begins."""

    def count(self, phase: Phase, done: int, expected: int, unit: str, /) -> None:
        """``done`` of ``expected`` units (``bytes``, ``builds``, ``paths``, ``layers``)."""

    def derivation(self, derivation: str, /) -> None:
        """The store path of a derivation whose build begins."""

    def log(self, line: str, /) -> None:
        """A line of a build's log, without terminal escapes and line end."""
