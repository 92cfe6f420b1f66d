"""Errors of looking at images."""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError

__all__ = ["ImageNotPulled"]


@frozen(kw_only=True)
class ImageNotPulled(NixeryError):
    """
    An image that is to be compared with was never pulled from here, or was deleted.

    :param image: its name with its tag.
    """

    image: str

    @property
    def message(self) -> str:
        return f"{self.image} has not been pulled from here yet: there is nothing to compare with"
