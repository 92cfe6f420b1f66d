"""
Errors of builds.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError

__all__ = ["ImageTimedOut", "CachedFailure"]


@frozen(kw_only=True)
class CachedFailure(NixeryError):
    """
    A build failed a short while ago and is not tried again yet.

    :param original: its failure.
    :param retry_after: seconds until it will be tried again.
    """

    original: NixeryError
    retry_after: float

    @property
    def message(self) -> str:
        return (
            f"{self.original.message}\n(this is the last failure; the next try"
            f" is possible in {max(1, round(self.retry_after))} s)"
        )


@frozen(kw_only=True)
class ImageTimedOut(NixeryError):
    """
    The making of an image was stopped because all of it together took too long.

    :param image: its name.
    :param phase: the phase in which it was stopped: ``packing``.
    :param seconds: the limit that was passed.
    :param setting: the setting that would raise the limit.
    """

    image: str
    phase: str
    seconds: float
    setting: str

    @property
    def message(self) -> str:
        return (
            f"{self.image} was not ready after {self.seconds:g} s and was stopped while"
            f" {self.phase}; {self.setting} sets the limit"
        )
