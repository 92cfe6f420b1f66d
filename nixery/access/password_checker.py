"""
The passwords as a credentials checker of Twisted's, on threads of their own.

A check keeps a processor busy for a good part of a second.  It has a pool of its own, and
not that of packing: who logs in would wait there until layers of gigabytes are packed, and
whoever guesses passwords would keep images from being packed.
"""

from __future__ import annotations

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from nixery.access.passwords import Passwords
from nixery.runtime.workers import Workers

__all__ = ["HtpasswdChecker"]


@implementer(ICredentialsChecker)
class HtpasswdChecker:
    """
    Checks users and passwords; an avatar ID is the user's name, in UTF-8.

    :param passwords: those that count, until others are put in their place.
    :param workers: the pool.
    """

    credentialInterfaces = (IUsernamePassword,)  # noqa: N815  # Twisted's name

    def __init__(self, passwords: Passwords, workers: Workers) -> None:
        self.passwords = passwords
        self._workers = workers

    def requestAvatarId(  # noqa: N802
        self, credentials: IUsernamePassword
    ) -> Deferred[bytes | tuple[()]]:
        """Fires with the user's name, or fails with ``UnauthorizedLogin``."""
        return Deferred.fromCoroutine(
            self._check(bytes(credentials.username), bytes(credentials.password))
        )

    async def _check(self, username: bytes, password: bytes) -> bytes | tuple[()]:
        user = username.decode("utf-8", "replace")
        if not await self._workers.run(self.passwords.verify, user, password):
            raise UnauthorizedLogin
        return username
