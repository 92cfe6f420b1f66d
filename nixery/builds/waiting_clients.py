"""
Count the clients that wait for images.

A client waits while its request is held, and when it was told to retry, until it does so.  A
client that disconnects, or does not retry in time, waits no longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from nixery.image.names import ImageName, Tag
from nixery.limits.build_quota import current_client

__all__ = ["PullRequest", "WaitingClients"]

RETRY_GRACE_SECONDS = 10.0
"""Seconds that a client may be late when it retries."""

MAX_SPELLINGS = 16
"""The most spellings that are kept of the name of one image."""

PullRequest: TypeAlias = tuple[ImageName, Tag]
"""A name and a tag that clients pull; names that request the same are equal."""

_Client: TypeAlias = tuple[str, ...]


@define(eq=False)
class _Waiters:
    """
    The clients that wait for one image.

    :param held: the number of their requests that are held.
    :param absent: the timers of those that were told to retry, by client: one address may have
        several clients.
    :param spellings: the names that they have written.
    """

    held: int = 0
    absent: dict[_Client, list[IDelayedCall]] = field(factory=dict)
    spellings: dict[str, ImageName] = field(factory=dict)

    @property
    def count(self) -> int:
        return self.held + sum(map(len, self.absent.values()))


@define(kw_only=True, eq=False)
class WaitingClients:
    """
    Counts the clients that wait, by what they pull.

    :param clock: measures the time until a client that was told to retry is given up.
    :param on_change: called with the name and the tag whose count has changed.
    """

    clock: IReactorTime
    on_change: Callable[[ImageName, Tag], None]
    _waiters: dict[PullRequest, _Waiters] = field(factory=dict, init=False)

    @contextmanager
    def waiting(self, name: ImageName, tag: Tag) -> Iterator[None]:
        """Count the current client while the context lasts."""
        waiters = self._waiters.setdefault((name, tag), _Waiters())
        expected = waiters.absent.get(current_client.get())
        if expected:
            expected[0].cancel()
            _remove(waiters, current_client.get(), expected[0])
        waiters.held += 1
        if len(waiters.spellings) < MAX_SPELLINGS:
            waiters.spellings[name.repository] = name
        self.on_change(name, tag)
        try:
            yield
        finally:
            waiters.held -= 1
            self._record_change(name, tag)

    def expect_retry(self, name: ImageName, tag: Tag, seconds: float) -> None:
        """
        Count the current client until it retries.

        :param seconds: the time after which it was told to retry.
        """
        client = current_client.get()
        waiters = self._waiters.setdefault((name, tag), _Waiters())

        def give_up() -> None:
            _remove(waiters, client, timer)
            self._record_change(name, tag)

        timer = self.clock.callLater(seconds + RETRY_GRACE_SECONDS, give_up)
        waiters.absent.setdefault(client, []).append(timer)
        self._record_change(name, tag)

    def forget_absent(self, name: ImageName, tag: Tag) -> None:
        """Expect no retries any more: the image is ready, or has failed."""
        waiters = self._waiters.get((name, tag))
        if waiters is not None:
            for timers in waiters.absent.values():
                for timer in timers:
                    timer.cancel()
            waiters.absent.clear()
            self._record_change(name, tag)

    def count(self, requests: Iterable[PullRequest]) -> int:
        """Return the number of clients that wait for any of these."""
        return sum(
            waiters.count for each in requests if (waiters := self._waiters.get(each)) is not None
        )

    def spellings(self, name: ImageName, tag: Tag) -> tuple[ImageName, ...]:
        """Return the names that waiting clients have written."""
        waiters = self._waiters.get((name, tag))
        return () if waiters is None else tuple(waiters.spellings.values())

    def __len__(self) -> int:
        """Return the number of names and tags that clients wait for."""
        return len(self._waiters)

    def _record_change(self, name: ImageName, tag: Tag) -> None:
        waiters = self._waiters.get((name, tag))
        if waiters is not None and waiters.count == 0:
            del self._waiters[name, tag]
        self.on_change(name, tag)


def _remove(waiters: _Waiters, client: _Client, timer: IDelayedCall) -> None:
    """Expect one client less."""
    timers = waiters.absent[client]
    timers.remove(timer)
    if not timers:
        del waiters.absent[client]
