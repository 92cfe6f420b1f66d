"""
Tell which clients ask for an image, or did so a moment ago.

A request waits for its image for a while; then its client is told to come back
(:mod:`nixery.http.registry.pull_wait`).  A client that has just been told so still asks for the
image; one that has not come back within :data:`ASKED_SECONDS` does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from attrs import define, field

from nixery.limits.build_quota import current_queue_client

__all__ = ["ASKED_SECONDS", "Demand"]

ASKED_SECONDS = 60.0
"""Seconds after its last request for which a client is taken to ask for an image."""


@define(eq=False)
class _Asker:
    """One client that asks for one image: how many of its requests wait, and when one last did."""

    requests: int = 0
    last: float = 0.0


@define(kw_only=True, eq=False)
class Demand:
    """
    The clients that ask for images, by the keys of their requests.

    :param seconds: the monotonic time, as the reactor's ``seconds``.
    """

    seconds: Callable[[], float]
    _askers: dict[str, dict[str, _Asker]] = field(factory=dict, init=False)
    # When clients have left, in order.
    _ends: deque[tuple[float, str, str]] = field(factory=deque, init=False)

    @contextmanager
    def asking(self, *keys: str) -> Iterator[None]:
        """
        Count a request of the current client while the context lasts, and a minute longer.

        :param keys: the keys of all that it asks for.
        """
        client = current_queue_client()
        self._forget_old()
        askers = {
            key: self._askers.setdefault(key, {}).setdefault(client, _Asker()) for key in keys
        }
        for asker in askers.values():
            asker.requests += 1
        try:
            yield
        finally:
            for key, asker in askers.items():
                asker.requests -= 1
                asker.last = self.seconds()
                self._ends.append((asker.last, key, client))

    def note(self, key: str) -> str:
        """Note that the current client asks, for a minute from now; :return: that client."""
        with self.asking(key):
            return current_queue_client()

    def clients(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Return the clients that ask for any of the keys, those who began to first."""
        now = self.seconds()
        return tuple(
            dict.fromkeys(
                client
                for key in keys
                for client, asker in self._askers.get(key, {}).items()
                if asker.requests or now - asker.last < ASKED_SECONDS
            )
        )

    def __len__(self) -> int:
        """Return the number of images that clients ask for."""
        self._forget_old()
        return len(self._askers)

    def _forget_old(self) -> None:
        old = self.seconds() - ASKED_SECONDS
        while self._ends and self._ends[0][0] <= old:
            _, key, client = self._ends.popleft()
            askers = self._askers.get(key, {})
            asker = askers.get(client)
            if asker is not None and not asker.requests and asker.last <= old:
                del askers[client]
                if not askers:
                    del self._askers[key]
