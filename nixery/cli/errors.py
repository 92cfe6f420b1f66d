"""
Errors of the commands.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError

__all__ = ["AdminRefused"]


@frozen(kw_only=True)
class AdminRefused(NixeryError):
    """``nixery-admin`` cannot do what was asked."""

    reason: str

    @property
    def message(self) -> str:
        return f"nothing was done: {self.reason}"
