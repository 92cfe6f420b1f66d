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
from nixery.limits.token_buckets import TokenBuckets

__all__ = ["BuildQuota", "current_client", "current_queue_client"]

current_client: ContextVar[tuple[str, ...]] = ContextVar("current_client", default=())
"""
The keys of the client that the current work is for, its address and its user; empty: the
daemon works for itself.
"""

CONCURRENCY_RETRY_SECONDS = 10.0
"""Seconds to retry after, for a client that has too many builds at once."""


def current_queue_client() -> str:
    """
    Return the key that the current client waits in queues under: its user, else its address.

    It is empty while the daemon works for itself.
    """
    return current_client.get()[-1] if current_client.get() else ""


@define(kw_only=True, eq=False)
class BuildQuota:
    """
    Counts the builds of each client.

    :param max_concurrent: how many a client may have at once; 0: any number.
    :param max_per_hour: how many it may begin in an hour; 0: any number.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param on_refusal: called for each refused build, with a word for the reason.
    """

    max_concurrent: int = 0
    max_per_hour: int = 0
    seconds: Callable[[], float] = lambda: 0.0
    on_refusal: Callable[[str], None] = lambda _reason: None

    _running: dict[str, int] = field(factory=dict, init=False)
    _hourly_buckets: TokenBuckets | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._hourly_buckets = (
            TokenBuckets(
                rate=self.max_per_hour / 3600.0, burst=self.max_per_hour, seconds=self.seconds
            )
            if self.max_per_hour
            else None
        )

    @contextmanager
    def reserve_slots(self, count: int = 1) -> Iterator[None]:
        """
        Count builds for the current client while the context lasts.

        :param count: the builds; as many as a client may have at once stand for any more.
        :raises BuildsExceeded: it has as many as it may have.
        """
        client = current_client.get()
        count = min(count, self.max_concurrent or count)
        if self.max_concurrent and any(
            self._running.get(key, 0) + count > self.max_concurrent for key in client
        ):
            self.on_refusal("builds")
            raise BuildsExceeded(
                client=client,
                limit=self.max_concurrent,
                period="at once",
                setting="builds_per_client",
                retry_after=CONCURRENCY_RETRY_SECONDS,
            )
        for key in client:
            self._running[key] = self._running.get(key, 0) + count
        try:
            yield
        finally:
            for key in client:
                self._running[key] -= count
                if not self._running[key]:
                    del self._running[key]

    def count_new_image(self) -> None:
        """
        Count an image that is made for the current client.

        :raises BuildsExceeded: it has made too many lately.
        """
        client = current_client.get()
        if self._hourly_buckets is None:
            return
        wait = max((self._hourly_buckets.seconds_until_token(key) for key in client), default=0.0)
        if wait > 0:
            self.on_refusal("hourly_builds")
            raise BuildsExceeded(
                client=client,
                limit=self.max_per_hour,
                period="in an hour",
                setting="builds_per_client_per_hour",
                retry_after=wait,
            )
        for key in client:
            self._hourly_buckets.take(key)
