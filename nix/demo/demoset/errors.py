"""
Errors of making the demo package set.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError

__all__ = ["DemoFailed"]


@frozen(kw_only=True)
class DemoFailed(NixeryError):
    """
    The demo package set cannot be made ready.

    :param reason: says what is missing or wrong.
    :param advice: how to fix it, in the imperative.
    """

    reason: str
    advice: str

    @property
    def message(self) -> str:
        return f"{self.reason}: {self.advice}"
