"""
Limits the builds of a client: at once, and per hour.

A build is a job of the server that many clients may wait for; it counts for the client that
began it.  Everything that takes an evaluation counts towards the first limit while it lasts;
the hourly limit counts only images that have to be made: requests for images that exist
already are never refused, however often they are repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from attrs import define, field

from nixery.limits.errors import BuildsExceeded
from nixery.limits.token_buckets import Buckets

__all__ = ["BuildQuota", "current_client"]

current_client: ContextVar[tuple[str, ...]] = ContextVar("current_client", default=())
"""
The keys of the client that the current work is for, its address and its user; empty: the
daemon works for itself.
"""

BUSY_RETRY_SECONDS = 10.0
"""Seconds to retry after, for a client that has too many builds at once."""


@define(kw_only=True, eq=False)
class BuildQuota:
    """
    Counts the builds of each client.

    :param at_once: how many a client may have at once; 0: any number.
    :param hourly: how many it may begin in an hour; 0: any number.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param refused: called for each refused build, with a word for the reason.
    """

    at_once: int = 0
    hourly: int = 0
    seconds: Callable[[], float] = lambda: 0.0
    refused: Callable[[str], None] = lambda _reason: None

    _running: dict[str, int] = field(factory=dict, init=False)
    _hours: Buckets | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._hours = (
            Buckets(rate=self.hourly / 3600.0, burst=self.hourly, seconds=self.seconds)
            if self.hourly
            else None
        )

    @contextmanager
    def place(self) -> Iterator[None]:
        """
        Count a build for the current client while the context lasts.

        :raises BuildsExceeded: it has as many as it may have.
        """
        client = current_client.get()
        if self.at_once and any(self._running.get(key, 0) >= self.at_once for key in client):
            self.refused("builds")
            raise BuildsExceeded(
                client=client,
                limit=self.at_once,
                period="at once",
                setting="builds_per_client",
                retry_after=BUSY_RETRY_SECONDS,
            )
        for key in client:
            self._running[key] = self._running.get(key, 0) + 1
        try:
            yield
        finally:
            for key in client:
                self._running[key] -= 1
                if not self._running[key]:
                    del self._running[key]

    def begin(self) -> None:
        """
        Count an image that is made for the current client.

        :raises BuildsExceeded: it has made too many lately.
        """
        client = current_client.get()
        if self._hours is None:
            return
        wait = max((self._hours.wait(key) for key in client), default=0.0)
        if wait > 0:
            self.refused("hourly_builds")
            raise BuildsExceeded(
                client=client,
                limit=self.hourly,
                period="in an hour",
                setting="builds_per_client_per_hour",
                retry_after=wait,
            )
        for key in client:
            self._hours.take(key)
