"""
Limits the bytes that wait in memory until clients take them, of all connections together.

Each response is bounded, but there may be thousands of connections.  Beyond the limit, the
slowest connection is ended: of the client that holds the most bytes, the one that has taken
nothing for the longest time.  So a client with many stalled connections loses those, and not
another one that pauses while it unpacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attrs import define, field

from nixery.limits.addresses import UNIX_SOCKET, client_key_of

__all__ = ["MAX_UNSENT_BYTES", "UnsentBytes"]

MAX_UNSENT_BYTES = 256 * 2**20
"""The default of the limit, in bytes."""


class Sender(Protocol):
    """A connection whose client does not take what was written."""

    def end_slow(self) -> None:
        """Close the connection at once; what was not sent is dropped."""


@define(kw_only=True, eq=False)
class UnsentBytes:
    """
    Counts the bytes of connections that are waiting for their clients.

    :param max_bytes: the limit for all of them together; 0: there is none.
    :param on_end: called for each connection that was ended.
    """

    max_bytes: int = MAX_UNSENT_BYTES
    on_end: Callable[[], None] = lambda: None
    total: int = field(default=0, init=False)
    """The bytes of all connections together."""

    # By when they began to wait: the one that has waited longest is first.
    _waiting: dict[Sender, tuple[str, int]] = field(factory=dict, init=False)

    def add(self, sender: Sender, peer: str | None, size: int) -> None:
        """
        Count bytes that were written to a connection which takes none.

        :param peer: the address of its client; ``None``: it has none.
        """
        _, held = self._waiting.get(sender, ("", 0))
        self._waiting[sender] = client_key_of(peer or UNIX_SOCKET), held + size
        self.total += size
        while self.max_bytes and self.total > self.max_bytes:
            slowest = self._slowest()
            self.remove(slowest)
            self.on_end()
            slowest.end_slow()

    def remove(self, sender: Sender) -> None:
        """Stop counting a connection: its client has taken everything, or it has ended."""
        _, held = self._waiting.pop(sender, ("", 0))
        self.total -= held

    def _slowest(self) -> Sender:
        held_by_client: dict[str, int] = {}
        for client, held in self._waiting.values():
            held_by_client[client] = held_by_client.get(client, 0) + held
        largest = max(held_by_client.values())
        return next(
            sender
            for sender, (client, _) in self._waiting.items()
            if held_by_client[client] == largest
        )
