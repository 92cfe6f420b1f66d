"""
Errors of grouping and packing layers.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError

__all__ = ["MissingPath"]


@frozen(kw_only=True)
class MissingPath(NixeryError):
    """A store path vanished, or was unreadable, while it was being packed."""

    path: str
    reason: str

    @property
    def message(self) -> str:
        return f"{self.path} could not be packed: {self.reason}"
