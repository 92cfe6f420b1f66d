"""
Errors of requests and images that exceed a limit.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError
from nixery.image.errors import ImageLimitExceeded

__all__ = [
    "BuildsExceeded",
    "ImageTooLarge",
    "PackagesDenied",
    "QueueFull",
    "RequestsExceeded",
    "TooManyConnections",
    "WorkAbandoned",
]


@frozen(kw_only=True)
class ImageTooLarge(ImageLimitExceeded):
    """An image exceeds a limit of this registry, which ``setting`` configures."""

    setting: str


@frozen(kw_only=True)
class PackagesDenied(NixeryError):
    """The operator does not allow these packages, which have the names that were requested."""

    packages: tuple[str, ...]

    @property
    def message(self) -> str:
        return (
            f"this registry does not serve {', '.join(self.packages)}"
            " (allow_packages, deny_packages)"
        )


@frozen(kw_only=True)
class QueueFull(NixeryError):
    """
    Too much waits for its turn already.

    :param what: the things that wait, in the plural, and what they wait for.
    :param waiting: their number.
    :param retry_after: seconds after which the client should try again.
    """

    what: str = "images wait to be built"
    waiting: int
    retry_after: float

    @property
    def message(self) -> str:
        return (
            f"{self.waiting} {self.what} already: pull again in {max(1, round(self.retry_after))} s"
        )


@frozen(kw_only=True)
class RequestsExceeded(NixeryError):
    """
    A client exceeds its request rate.

    :param rate: how many requests it may send per second, in the long run.
    :param burst: how many at once.
    :param retry_after: seconds after which one more is answered.
    """

    rate: int
    burst: int
    retry_after: float

    @property
    def message(self) -> str:
        return (
            f"too many requests: one client can send {self.burst} at once, and"
            f" {self.rate} a second on average; try again in"
            f" {max(1, round(self.retry_after))} s"
        )


@frozen(kw_only=True)
class BuildsExceeded(NixeryError):
    """
    A client exceeds its limit of builds.

    :param client: the keys that it is counted under.
    :param limit: how many builds it may have.
    :param period: the time that the limit is about.
    :param setting: the setting that sets the limit.
    :param retry_after: seconds after which it should retry.
    """

    client: tuple[str, ...]
    limit: int
    period: str
    setting: str
    retry_after: float

    @property
    def message(self) -> str:
        return (
            f"too many builds: this registry builds at most {self.limit} images {self.period} for"
            f" one client ({self.setting}); pull again in"
            f" {max(1, round(self.retry_after))} s"
        )


@frozen(kw_only=True)
class TooManyConnections(NixeryError):
    """The daemon is at its limit of connections."""

    limit: int

    @property
    def message(self) -> str:
        return f"the registry has {self.limit} connections, its maximum: try again"


@frozen(kw_only=True)
class WorkAbandoned(NixeryError):
    """Work left its queue before its turn, because no client asked for it any more."""

    @property
    def message(self) -> str:
        return "it left the queue, because no client requested it for a minute: pull it again"
