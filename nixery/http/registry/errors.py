"""
Errors that only the registry API raises.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError

__all__ = [
    "FailedPull",
    "ManifestUnknown",
    "RangeNotSatisfiable",
    "RangesRefused",
    "StillBuilding",
    "UnsupportedClient",
]


@frozen(kw_only=True)
class ManifestUnknown(NixeryError):
    """No manifest of this digest is stored."""

    name: str
    digest: str

    @property
    def message(self) -> str:
        return (
            f"no manifest {self.digest} is stored here for {self.name}:"
            " pull the image by its tag to have it built"
        )


@frozen(kw_only=True)
class RangeNotSatisfiable(NixeryError):
    """The byte range lies outside the blob.  ``size`` is the blob's size in bytes."""

    digest: str
    size: int

    @property
    def message(self) -> str:
        return f"the range lies outside {self.digest}, which has {self.size} bytes"


@frozen(kw_only=True)
class RangesRefused(NixeryError):
    """Several byte ranges in one request are not served together."""

    reason: str

    @property
    def message(self) -> str:
        return f"these ranges are not served together: {self.reason}. Request fewer at a time"


@frozen(kw_only=True)
class UnsupportedClient(NixeryError):
    """The client cannot unpack the layers of the image that it requests."""

    reason: str

    @property
    def message(self) -> str:
        return (
            f"the layers of this image are compressed with zstd: {self.reason}."
            " Pull with a newer client, or set compression to gzip on the registry"
        )


@frozen(kw_only=True)
class StillBuilding(NixeryError):
    """
    The image is not ready yet; its build goes on.

    :param image: its name.
    :param doing: the present stage in words: ``packing``.
    :param seconds: since the build began.
    :param retry_after: seconds after which the client should retry.
    :param watch: the URL of a page that shows the build; ``None`` where pages are
        switched off.
    """

    image: str
    doing: str
    seconds: float
    retry_after: float
    watch: str | None = None

    @property
    def message(self) -> str:
        where = "" if self.watch is None else f"; watch it at {self.watch}"
        return (
            f"{self.image} is still being built ({self.doing}, {self.seconds:.0f} s so far):"
            f" pull again in a moment{where}"
        )


@frozen(kw_only=True)
class FailedPull(Exception):
    """
    Carries an error and the URL of the page with the log of the build to the error handler.

    :param error: the reason.
    :param build_url: the URL of the page.
    """

    error: NixeryError
    build_url: str
