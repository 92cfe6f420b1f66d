"""Group the builds that wait for one of them, which is shown in the place of all."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import TYPE_CHECKING

from attrs import define, field

from nixery.builds.views import ImageLabel
from nixery.builds.waiting_clients import PullRequest

if TYPE_CHECKING:
    from nixery.builds.progress import Build

__all__ = ["BuildGroup"]

MAX_LABELS = 64
"""The number of names and tags that are kept of those that clients pull one image by."""


@define(eq=False)
class BuildGroup:
    """
    Builds of one image under several names and tags.

    :param shown: the build that makes the image.
    :ivar attempts: the number of times that the image was tried and failed in the same way.
    """

    shown: Build
    attempts: int = field(default=1, init=False)
    _members: list[Build] = field(factory=list, init=False)
    _earlier_labels: tuple[ImageLabel, ...] = field(default=(), init=False)
    _earlier_requests: frozenset[PullRequest] = field(default=frozenset(), init=False)

    def __attrs_post_init__(self) -> None:
        self._members.append(self.shown)

    @property
    def labels(self) -> tuple[ImageLabel, ...]:
        """The names and tags that clients have pulled the image by; that of ``shown`` is first."""
        labels = chain.from_iterable(build.spellings for build in self._members)
        return tuple(islice(dict.fromkeys((*labels, *self._earlier_labels)), MAX_LABELS))

    @property
    def requests(self) -> frozenset[PullRequest]:
        """The names and tags of all of its builds, in no particular spelling."""
        return self._earlier_requests.union((build.name, build.tag) for build in self._members)

    def includes(self, request: PullRequest) -> bool:
        """Tell whether one of its builds is for a name and a tag."""
        return request in self._earlier_requests or any(
            (build.name, build.tag) == request for build in self._members
        )

    def join(self, other: BuildGroup) -> None:
        """Move all of its builds to another group."""
        for build in self._members:
            build.group = other
        other.add(self._members)

    def add(self, builds: Iterable[Build]) -> None:
        """Note that builds have moved to this group."""
        self._members.extend(builds)

    def leave(self, build: Build) -> None:
        """Move a build that is not shown to a group of its own."""
        self._members.remove(build)
        build.group = BuildGroup(build)

    def add_attempts(self, earlier: BuildGroup) -> None:
        """Count the attempts of a group that has failed before."""
        self.attempts += earlier.attempts
        self._earlier_labels = earlier.labels
        self._earlier_requests = frozenset(islice(earlier.requests, MAX_LABELS))
