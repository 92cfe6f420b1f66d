"""
Credentials that were found good a short while ago.

A pull sends the same ones with nearly a hundred requests, and a check of a password takes a
quarter of a second, on purpose.  What is kept is no password: it is a hash under a key that
nobody has but this process, and that is gone with it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from hashlib import blake2b

from cachetools import LRUCache

from nixery.access.identity import Identity

__all__ = ["CredentialCache"]

KEPT = 4096
"""How many are kept."""


class CredentialCache:
    """
    Credentials, and what they have proved.

    :param seconds: the monotonic time, as the reactor's ``seconds``.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._key = secrets.token_bytes(32)
        self._kept: LRUCache[bytes, tuple[Identity, float]] = LRUCache(KEPT)

    def get(self, mark: bytes) -> Identity | None:
        """What credentials have proved; ``None`` if that is to be checked."""
        kept = self._kept.get(mark)
        if kept is None:
            return None
        identity, until = kept
        if self._seconds() < until:
            return identity
        del self._kept[mark]
        return None

    def mark(self, credentials: bytes) -> bytes:
        """What credentials are known by here."""
        return blake2b(credentials, key=self._key, digest_size=32).digest()

    def keep(self, mark: bytes, identity: Identity, until: float) -> None:
        """Remember credentials until a monotonic time."""
        self._kept[mark] = identity, until

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
