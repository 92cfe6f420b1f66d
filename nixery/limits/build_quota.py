"""
How many builds a client may have: at once, and in an hour.

A build is a job of the server's that many may wait for; it counts for the client that
began it.  Whatever costs an evaluation counts while it lasts, and a place in the hour is
taken only where an image has to be made: who asks again and again for what is there is
turned away by nobody.
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
All that stands for the client that is being worked for, its address and its user; empty:
the daemon works for itself.
"""

BUSY = 10.0
"""Seconds after which a client is told to come again that has too many builds at once."""


@define(kw_only=True, eq=False)
class BuildQuota:
    """
    Counts builds.

    :param at_once: how many a client may have; 0: any number.
    :param hourly: how many it may begin in an hour; 0: any number.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param refused: told of each build that is refused, by a word for the reason.
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
        A build of the current client's, while it lasts.

        :raises BuildsExceeded: it has as many as it may have.
        """
        client = current_client.get()
        if self.at_once and any(self._running.get(key, 0) >= self.at_once for key in client):
            self.refused("builds")
            raise BuildsExceeded(
                client=client,
                limit=self.at_once,
                period="at once",
                setting="client_builds",
                retry_after=BUSY,
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
        The current client makes an image.

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
                setting="client_builds_hourly",
                retry_after=wait,
            )
        for key in client:
            self._hours.take(key)
