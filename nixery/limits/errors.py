"""
Errors of requests and images that exceed a limit.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError

__all__ = [
    "BuildsExceeded",
    "ImageTooLarge",
    "PackagesDenied",
    "RequestsExceeded",
    "TooManyConnections",
]


@frozen(kw_only=True)
class ImageTooLarge(NixeryError):
    """
    An image that takes more than one image may take here.

    :param what: what there is too much of, in the plural.
    :param value: how much of it.
    :param limit: the most that is taken.
    :param setting: what says so.
    """

    what: str
    value: int
    limit: int
    setting: str

    @property
    def message(self) -> str:
        return (
            f"the image has {self.value} {self.what}, and this registry makes images of at most"
            f" {self.limit} ({self.setting}): ask for fewer packages"
        )


@frozen(kw_only=True)
class PackagesDenied(NixeryError):
    """Packages that the operator does not want to be served; by the names asked for."""

    packages: tuple[str, ...]

    @property
    def message(self) -> str:
        return (
            f"this registry does not serve {', '.join(self.packages)}: its operator has said so"
            " (allow_packages, deny_packages)"
        )


@frozen(kw_only=True)
class RequestsExceeded(NixeryError):
    """
    A client sends more requests than one client may.

    :param rate: how many it may send in a second, in the long run.
    :param burst: how many at once.
    :param retry_after: seconds after which one more is answered.
    """

    rate: int
    burst: int
    retry_after: float

    @property
    def message(self) -> str:
        return (
            f"too many requests: this registry answers {self.burst} of one client at once, and"
            f" {self.rate} a second in the long run; try again in"
            f" {max(1, round(self.retry_after))} s"
        )


@frozen(kw_only=True)
class BuildsExceeded(NixeryError):
    """
    A client has more built than one client may.

    :param client: what stands for it.
    :param limit: how many builds it may have.
    :param period: in which time.
    :param setting: what says so.
    :param retry_after: seconds after which asking again is worth while.
    """

    client: tuple[str, ...]
    limit: int
    period: str
    setting: str
    retry_after: float

    @property
    def message(self) -> str:
        return (
            f"too many builds: this registry makes at most {self.limit} images {self.period} for"
            f" one client ({self.setting}); pull it again in"
            f" {max(1, round(self.retry_after))} s"
        )


@frozen(kw_only=True)
class TooManyConnections(NixeryError):
    """There are as many connections as the daemon can have."""

    limit: int

    @property
    def message(self) -> str:
        return (
            f"the registry has {self.limit} connections, which is all that it takes"
            " (max_connections): try again"
        )
