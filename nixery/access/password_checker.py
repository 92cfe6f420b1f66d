"""
Implements Twisted's credentials checker for the password file, on a thread pool of its own.

A check keeps a processor busy for a good part of a second.  It does not share the pool for
packing: there, a login would wait until layers of gigabytes are packed, and a client that
guesses passwords would keep images from being packed.
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

    :param passwords: the passwords in force, until they are replaced.
    :param workers: the pool that checks run on.
    """

    credentialInterfaces = (IUsernamePassword,)  # noqa: N815  # Twisted's name

    def __init__(self, passwords: Passwords, workers: Workers) -> None:
        self.passwords = passwords
        self._workers = workers

    def requestAvatarId(  # noqa: N802
        self, credentials: IUsernamePassword
    ) -> Deferred[bytes | tuple[()]]:
        """Fire with the user's name, or fail with ``UnauthorizedLogin``."""
        return Deferred.fromCoroutine(
            self._check(bytes(credentials.username), bytes(credentials.password))
        )

    async def _check(self, username: bytes, password: bytes) -> bytes | tuple[()]:
        user = username.decode("utf-8", "replace")
        if not await self._workers.run(self.passwords.verify, user, password):
            raise UnauthorizedLogin
        return username
