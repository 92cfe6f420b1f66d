"""
Limit the time that a request waits for its image, and tell the client to retry.

Clients differ in how they treat a response that takes minutes.  Docker's own puller waits
for as long as the connection lives, and gives up at once when it is told to retry.  All
others time out by themselves: containerd (Kubernetes, and Docker where it keeps its
images in containerd) when the headers take 30 s.  They retry when they are told to:
podman and skopeo after ``Retry-After``, four times; containerd five times without a
pause, so that for containerd only the time for which each request is held counts.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from nixery.builds.demand import ASKED_SECONDS
from nixery.builds.views import BuildState, BuildView
from nixery.errors import NixeryError
from nixery.http.registry.errors import StillBuilding
from nixery.image.names import ImageName, Tag
from nixery.runtime.deferreds import TimedOut, with_timeout

__all__ = ["PullWaiter", "wait_limit", "retry_after"]

T = TypeVar("T")

MIN_RETRY_AFTER_SECONDS = 5.0
"""
Seconds.  The next request is held again, so that an early retry costs little; but
clients make a limited number of retries.
"""

MAX_RETRY_AFTER_SECONDS = 60.0
"""Seconds; podman and skopeo wait no longer, even if Retry-After is larger."""

MAX_QUEUED_RETRY_AFTER_SECONDS = ASKED_SECONDS / 2
"""The same while the image waits for its turn: its client has to ask again in time."""


def wait_limit(user_agent: bytes | None, deadline: float) -> float | None:
    """
    Return the time for which a request is held while its image is being built.

    :param user_agent: the header, if there is one.
    :param deadline: seconds for clients that retry, and for unknown clients.
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
    Return the delay after which a client is to retry.

    The delay is half of the time that the build has taken, within limits.  The time that a
    client waits after the end of the build is then in proportion to the time it has waited
    anyway, and clients with a fixed number of retries hold out for long builds too: with
    five requests that are held for 25 s each, podman waits for nearly five minutes, whereas
    with a constant 5 s it would give up after less than two and a half.

    :param elapsed: seconds since the build began.
    :return: seconds.
    """
    return min(max(elapsed / 2, MIN_RETRY_AFTER_SECONDS), MAX_RETRY_AFTER_SECONDS)


def _uncounted(_name: ImageName, _tag: Tag) -> AbstractContextManager[None]:
    return nullcontext()


def _unexpected(_name: ImageName, _tag: Tag, _seconds: float) -> None: ...


def _no_build(_name: ImageName, _tag: Tag, _error: NixeryError) -> BuildView | None:
    return None


@frozen(kw_only=True)
class PullWaiter:
    """
    Holds requests until their images are built, up to a deadline.

    :param clock: measures the deadline.
    :param deadline: seconds for clients that retry, and for unknown clients.
    :param announce: finds the build that a request waits for, and keeps it listed for
        the clients that watch it; ``None`` if there is none.
    :param failed: finds the build that failed with this error, if it is still listed.
    :param waiting: counts the current client among those that wait, while the context lasts.
    :param expect_retry: counts it until it retries, after so many seconds.
    :param link: the URL of the page of a build, by its id; ``None`` where there is
        no such page.
    """

    clock: IReactorTime
    deadline: float = 25.0
    announce: Callable[[ImageName, Tag], BuildView | None] = lambda _name, _tag: None
    failed: Callable[[ImageName, Tag, NixeryError], BuildView | None] = _no_build
    waiting: Callable[[ImageName, Tag], AbstractContextManager[None]] = _uncounted
    expect_retry: Callable[[ImageName, Tag, float], None] = _unexpected
    link: Callable[[str], str | None] = lambda _id: None

    async def wait_for_image(
        self,
        user_agent: bytes | None,
        name: ImageName,
        tag: Tag,
        work: Coroutine[Deferred[Any], Any, T],
    ) -> T:
        """
        Wait for an image, but no longer than the client that requests it would.

        :param user_agent: of the client.
        :param work: waits for the image; cancelling it must not stop the build.
        :raises StillBuilding: the image is not ready yet.
        """
        seconds = wait_limit(user_agent, self.deadline)
        with self.waiting(name, tag):
            if seconds is None:
                return await work
            try:
                return await with_timeout(seconds, self.clock, work)
            except TimedOut:
                error = self._still_building(name, tag, seconds)
                self.expect_retry(name, tag, error.retry_after)
                raise error from None

    def build_url(self, name: ImageName, tag: Tag, error: NixeryError) -> str | None:
        """Return the URL of the page of a failed build, if there is one."""
        build = self.failed(name, tag, error)
        return None if build is None else self.link(build.id)

    def _still_building(self, name: ImageName, tag: Tag, seconds: float) -> StillBuilding:
        build = self.announce(name, tag)
        if build is None:
            return StillBuilding(
                image=name.repository,
                doing="starting",
                seconds=seconds,
                retry_after=MIN_RETRY_AFTER_SECONDS,
            )
        queued = build.state is BuildState.QUEUED
        longest = MAX_QUEUED_RETRY_AFTER_SECONDS if queued else MAX_RETRY_AFTER_SECONDS
        return StillBuilding(
            image=name.repository,
            doing=build.describe_activity(),
            seconds=build.elapsed,
            retry_after=min(retry_after(build.elapsed), longest),
            watch=self.link(build.id),
        )
