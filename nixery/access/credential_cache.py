"""
Caches credentials that were verified a short while ago.

A pull sends the same credentials with nearly a hundred requests, and a check of a password
takes a quarter of a second, on purpose.  Passwords themselves are not kept, only a keyed hash;
the key exists in this process alone and is lost when it ends.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from hashlib import blake2b

from cachetools import LRUCache

from nixery.access.identity import Identity

__all__ = ["CredentialCache"]

MAX_CACHED_CREDENTIALS = 4096
"""Maximum number of cached credentials."""


class CredentialCache:
    """
    A cache from credentials to the identities that they have proved.

    :param seconds: the monotonic time, as the reactor's ``seconds``.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._key = secrets.token_bytes(32)
        self._entries: LRUCache[bytes, tuple[Identity, float]] = LRUCache(MAX_CACHED_CREDENTIALS)

    def get(self, fingerprint: bytes) -> Identity | None:
        """Return the identity of credentials; ``None`` if they have to be checked."""
        entry = self._entries.get(fingerprint)
        if entry is None:
            return None
        identity, expires = entry
        if self._seconds() < expires:
            return identity
        del self._entries[fingerprint]
        return None

    def fingerprint(self, credentials: bytes) -> bytes:
        """Return the cache key of credentials: their keyed hash."""
        return blake2b(credentials, key=self._key, digest_size=32).digest()

    def add(self, fingerprint: bytes, identity: Identity, expires: float) -> None:
        """Cache credentials until a monotonic time."""
        self._entries[fingerprint] = identity, expires

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
