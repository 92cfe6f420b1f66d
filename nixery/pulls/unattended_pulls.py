"""
Pull images for visitors of the pages, who wait without a connection.

A client that pulls asks again every minute, without which a build leaves the queue.  A browser that
has pressed a button does not: so its image is wanted until the build has ended, whether or not a
page is still open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from nixery.builds.views import BuildView
from nixery.errors import NixeryError
from nixery.image.manifests import Image
from nixery.image.names import ImageName, Tag
from nixery.runtime.deferreds import TimedOut, with_timeout
from nixery.runtime.single_flight import SingleFlight

__all__ = ["UnattendedPulls"]

HOLD_SECONDS = 1.0
"""Seconds after which the build of an image is looked for that is not there yet."""

MAX_HOLDS = 20
"""The most times that this is done while no build has begun: the tag is being looked up."""

MAX_PER_CLIENT = 8
"""The most images that one client waits for."""


class Images(Protocol):
    """Supplies images."""

    async def get_image(self, name: ImageName, tag: Tag) -> Image:
        """Return an image; it is built if necessary.  Cancelling does not stop a build."""


class Builds(Protocol):
    """Supplies the builds."""

    def pin(self, name: ImageName, tag: Tag) -> BuildView | None:
        """Return the build that makes an image, and keep it listed."""

    def find_failed(self, name: ImageName, tag: Tag, error: NixeryError) -> BuildView | None:
        """Return the build of an image that failed with this error, if it is kept."""


@define(kw_only=True, eq=False)
class UnattendedPulls:
    """
    Pulls that go on without a connection.

    :param images: makes the images.
    :param builds: tracks their builds; ``None``: builds are not shown, and none is returned.
    :param waiting: counts the current client among those that wait, while the context lasts.
    :param clock: for the time after which a build is looked for.
    """

    _images: Images
    _builds: Builds | None
    _waiting: Callable[[ImageName, Tag], AbstractContextManager[None]]
    _clock: IReactorTime

    _jobs: SingleFlight[tuple[str, ImageName, Tag], Image] = field(factory=SingleFlight, init=False)
    _counts: Counter[str] = field(factory=Counter, init=False)

    def allows(self, client: str, name: ImageName, tag: Tag) -> bool:
        """Tell whether a client may wait for an image; always for one that it waits for already."""
        return (client, name, tag) in self._jobs or self._counts[client] < MAX_PER_CLIENT

    async def begin(self, client: str, name: ImageName, tag: Tag) -> BuildView | None:
        """
        Pull an image, and go on until it is there.

        :param client: identifies the client.
        :return: its build, the failed one as well; ``None``: the image is there, or has no build
            that can be shown yet.
        :raises NixeryError: it cannot be made, and no build tells why.
        """

        async def work() -> Image:
            self._counts[client] += 1
            try:
                with self._waiting(name, tag):
                    return await self._images.get_image(name, tag)
            finally:
                self._counts[client] -= 1
                self._counts += Counter()  # without those that have none

        async def wait() -> None:
            await self._jobs.run((client, name, tag), work)

        for _ in range(MAX_HOLDS):
            try:
                await with_timeout(HOLD_SECONDS, self._clock, wait())
            except TimedOut:
                build = None if self._builds is None else self._builds.pin(name, tag)
                if build is not None:
                    return build
            except NixeryError as error:
                failed = None
                if self._builds is not None:
                    failed = self._builds.find_failed(name, tag, error)
                if failed is None:
                    raise
                return failed
            else:
                return None
        return None

    def stop(self) -> Deferred[None]:
        """Stop to wait for images; their builds are stopped by the builder."""
        return self._jobs.stop()
