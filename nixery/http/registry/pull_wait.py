"""
How long a request may wait for its image, and when it is to come back.

Clients differ in what they make of an answer that takes minutes.  Docker's own
puller waits for as long as the connection lives, and gives up at once when it is
told to come back.  All others give up by themselves: containerd (Kubernetes, and
Docker where it keeps its images in containerd) when the headers take 30 s.  They
come back when they are told to: podman and skopeo after ``Retry-After``, four
times; containerd five times without a pause, so that it is the time for which
each of its requests is held that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from nixery.builds.views import BuildView
from nixery.errors import NixeryError
from nixery.http.registry.errors import StillBuilding
from nixery.image.names import ImageName, Tag
from nixery.runtime.deferreds import TimedOut, with_timeout

__all__ = ["PullWaiter", "wait_limit", "retry_after"]

T = TypeVar("T")

SHORTEST_RETRY = 5.0
"""
Seconds.  The next request is held again, so that coming back soon costs little;
but clients count how often they come back.
"""

LONGEST_RETRY = 60.0
"""Seconds; podman and skopeo wait no longer whatever they are told."""


def wait_limit(user_agent: bytes | None, deadline: float) -> float | None:
    """
    How long a request for an image is held while the image is being built.

    :param user_agent: the header, if there is one.
    :param deadline: for clients that come back, and for those nobody knows.
    :return: seconds; ``None``: until the image is ready.
    """
    agent = (user_agent or b"").lower()
    if not agent.startswith(b"docker/"):
        return deadline
    if b"containerd-client" in agent or b"storage-driver" in agent:
        return deadline
    return None


def retry_after(elapsed: float) -> float:
    """
    How long a client is to stay away from a build.

    Half of the time that the build has taken, within limits: what a client waits in
    vain after the end is then a part of what it has waited anyway, and those that
    come back a fixed number of times last for long builds too: with five requests
    that are held for 25 s each, podman waits for nearly five minutes, where a
    steady 5 s would have it give up after less than two and a half.

    :param elapsed: seconds since the build began.
    :return: seconds.
    """
    return min(max(elapsed / 2, SHORTEST_RETRY), LONGEST_RETRY)


def _no_build(_name: ImageName, _tag: Tag, _error: NixeryError) -> BuildView | None:
    return None


@frozen(kw_only=True)
class PullWaiter:
    """
    Holds requests for images.

    :param clock: measures how long.
    :param deadline: seconds for clients that come back, and for those nobody knows.
    :param announce: finds the build that a request waits for, which is then kept
        for whoever watches it; ``None`` if there is none.
    :param failed: finds the build of a request that failed so, if it is still told of.
    :param link: the URL of the page of a build, by its id; ``None`` where there is
        no such page.
    """

    clock: IReactorTime
    deadline: float = 25.0
    announce: Callable[[ImageName, Tag], BuildView | None] = lambda _name, _tag: None
    failed: Callable[[ImageName, Tag, NixeryError], BuildView | None] = _no_build
    link: Callable[[str], str | None] = lambda _id: None

    async def hold(
        self,
        user_agent: bytes | None,
        name: ImageName,
        tag: Tag,
        work: Coroutine[Deferred[Any], Any, T],
    ) -> T:
        """
        Wait for an image for as long as the client that asks for it does.

        :param user_agent: of the client.
        :param work: waits for the image; cancelling it must not stop the build.
        :raises StillBuilding: it is not ready yet.
        """
        seconds = wait_limit(user_agent, self.deadline)
        if seconds is None:
            return await work
        try:
            return await with_timeout(seconds, self.clock, work)
        except TimedOut:
            raise self._still_building(name, tag, seconds) from None

    def page_of(self, name: ImageName, tag: Tag, error: NixeryError) -> str | None:
        """The URL of the page that shows how an image failed, if there is one."""
        build = self.failed(name, tag, error)
        return None if build is None else self.link(build.id)

    def _still_building(self, name: ImageName, tag: Tag, seconds: float) -> StillBuilding:
        build = self.announce(name, tag)
        if build is None:
            return StillBuilding(
                image=name.repository,
                doing="starting",
                seconds=seconds,
                retry_after=SHORTEST_RETRY,
            )
        return StillBuilding(
            image=name.repository,
            doing=build.doing(),
            seconds=build.elapsed,
            retry_after=retry_after(build.elapsed),
            watch=self.link(build.id),
        )
