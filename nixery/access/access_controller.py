"""
Authenticates clients and decides which packages they may pull: credentials, rules and tokens.

Credentials that were checked a short while ago are answered from a cache
(:meth:`AccessController.cached_identity`); any other password is checked on a thread, once
for all requests that send it at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.logger import Logger

from nixery.access.credential_cache import CredentialCache
from nixery.access.errors import LoginFailed, LoginThrottled, TokenInvalid
from nixery.access.identity import ANONYMOUS, ANY_USER, Identity, IssuedToken
from nixery.access.password_checker import HtpasswdChecker
from nixery.access.passwords import Passwords
from nixery.access.throttle import LoginThrottle
from nixery.access.tokens import ACCESS, REFRESH, Tokens
from nixery.image.errors import InvalidName
from nixery.image.manifests import Image
from nixery.image.names import Digest, ImageName, parse_image_name
from nixery.image.patterns import PackagePatterns
from nixery.runtime.clocks import WallClock
from nixery.runtime.single_flight import SingleFlight
from nixery.runtime.workers import Workers

__all__ = ["AccessController"]

PASSWORD_CACHE_SECONDS = 300.0
"""Seconds for which a correct password is not checked again."""

ACCESS_TOKEN_SECONDS = 300
"""Lifetime of an access token in seconds; clients fetch another one by themselves."""

REFRESH_TOKEN_SECONDS = 30 * 86400
"""Lifetime in seconds of a refresh token, which replaces a password in a client's file."""

MAX_SCOPES = 16
"""Maximum number of repositories per token."""

MAX_PENDING_CHECKS = 64
MAX_PENDING_CHECKS_PER_ADDRESS = 4
"""Maximum number of passwords being checked or waiting for it, in all and per address."""


class RepositoryBlobs(Protocol):
    """Tells which blobs belong to the images of a name."""

    def record_pull(self, name: ImageName, image: Image) -> None:
        """Record that an image was served as ``name``."""

    async def contains(self, name: ImageName, digest: Digest) -> bool:
        """
        Tell whether a blob or manifest belongs to an image of ``name``.

        :raises StorageError: the storage failed.
        """


class AccessController:
    """
    Authenticates clients and authorizes pulls; denies everything until :meth:`replace_users`.

    :param repository_blobs: tells which blobs belong to which image name.
    :param workers: the pool in which passwords are checked.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    :param wall_clock: tells when tokens are issued.
    :param system: the Nix system of images whose name chooses none.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        repository_blobs: RepositoryBlobs,
        workers: Workers,
        seconds: Callable[[], float],
        wall_clock: WallClock,
        system: str,
    ) -> None:
        self._checker = HtpasswdChecker(Passwords(hashes={}), workers)
        self._rules: Mapping[str, PackagePatterns] = {}
        self._tokens: Tokens | None = None
        self._repository_blobs = repository_blobs
        self._seconds = seconds
        self._wall_clock = wall_clock
        self._system = system
        self._throttle = LoginThrottle(seconds)
        self._credential_cache = CredentialCache(seconds)
        # A check that began before the users were replaced must not count afterwards.
        self._generation = 0
        self._password_checks: SingleFlight[tuple[int, bytes], None] = SingleFlight()
        self._pending_checks: dict[str, int] = {}

    @property
    def issues_tokens(self) -> bool:
        """True if clients of the registry API have to fetch tokens."""
        return self._tokens is not None

    def replace_users(self, passwords: Passwords, rules: Mapping[str, PackagePatterns]) -> None:
        """
        Replace users and rules, and clear the cache of credentials.

        :param passwords: the users.
        :param rules: the packages that users may pull, by user name; :data:`ANONYMOUS` stands
            for clients that have not logged in, and :data:`ANY_USER` for every user without
            an entry; if :data:`ANY_USER` is absent, those users may pull everything.
        """
        self._checker.passwords = passwords
        self._rules = rules
        self._generation += 1
        self._credential_cache.clear()

    def enable_tokens(self, tokens: Tokens) -> None:
        """Enable tokens: from now on they are issued to clients and accepted."""
        self._tokens = tokens

    # -- authentication -------------------------------------------------------------------

    def cached_identity(self, credentials: bytes) -> Identity | None:
        """Return the cached identity of credentials; ``None`` if they have to be checked."""
        return self._credential_cache.get(self._credential_cache.fingerprint(credentials))

    async def log_in(
        self, user: str, password: str, address: str, credentials: bytes | None = None
    ) -> Identity:
        """
        Check a password.

        :param address: the client's address.
        :param credentials: the key under which the result is cached, see
            :meth:`cached_identity`.
        :raises LoginFailed: it is not the user's password, or there is no such user.
        :raises LoginThrottled: too many were wrong, or too many are being checked.
        """
        # User names contain no NUL, so different pairs never join to the same text.
        fingerprint = self._credential_cache.fingerprint(
            f"{user}\0{password}".encode("utf-8", "replace")
        )
        cached = self._credential_cache.get(fingerprint)
        if cached is not None:
            return cached
        wait = self._throttle.seconds_until_allowed(address, user)
        if wait > 0:
            raise LoginThrottled(retry_after=wait)
        generation = self._generation
        await self._password_checks.run(
            (generation, fingerprint), lambda: self._check_password(user, password, address)
        )
        identity = Identity(user=user)
        if generation == self._generation:
            expires = self._seconds() + PASSWORD_CACHE_SECONDS
            self._credential_cache.add(fingerprint, identity, expires)
            if credentials is not None:
                self._credential_cache.add(
                    self._credential_cache.fingerprint(credentials), identity, expires
                )
        return identity

    def verify_access_token(self, token: str, credentials: bytes) -> Identity:
        """
        Verify an access token and return the identity that it proves.

        :param credentials: the key under which the result is cached.
        :raises TokenInvalid: the token is not valid.
        """
        if self._tokens is None:
            raise TokenInvalid(reason="this registry takes passwords, and no tokens")
        claims = self._tokens.verify(token, ACCESS)
        self._check_fingerprint(claims.user, claims.fingerprint)
        identity = Identity(user=claims.user, scopes=claims.repositories)
        # Tokens expire at a time of day, and the clock may be set during a pull.
        remaining = min(claims.expires - self._wall_clock.now(), PASSWORD_CACHE_SECONDS)
        expires = self._seconds() + remaining
        self._credential_cache.add(
            self._credential_cache.fingerprint(credentials), identity, expires
        )
        return identity

    def verify_refresh_token(self, token: str) -> Identity:
        """
        Verify a refresh token and return its user.

        :raises TokenInvalid: it is not a valid refresh token.
        """
        if self._tokens is None:
            raise TokenInvalid(reason="this registry takes passwords, and no tokens")
        claims = self._tokens.verify(token, REFRESH)
        if claims.user is None:
            raise TokenInvalid(reason="it is nobody's")
        self._check_fingerprint(claims.user, claims.fingerprint)
        return Identity(user=claims.user)

    def issue_tokens(
        self, user: str | None, scopes: Sequence[str], *, with_refresh_token: bool = False
    ) -> IssuedToken:
        """
        Issue a token for those of the repositories that a user may pull from.

        :param user: ``None`` for a client that has not logged in.
        :param scopes: as the Docker token protocol writes them.
        :param with_refresh_token: whether to issue a refresh token too.
        :raises TokenInvalid: tokens are not enabled.
        """
        if self._tokens is None:
            raise TokenInvalid(reason="this registry takes passwords, and no tokens")
        fingerprint = None if user is None else self._checker.passwords.fingerprint(user)
        repositories = [name for name in _repositories(scopes) if self._may_pull_from(user, name)]
        return IssuedToken(
            token=self._tokens.issue(ACCESS, user, fingerprint, repositories, ACCESS_TOKEN_SECONDS),
            lifetime=ACCESS_TOKEN_SECONDS,
            issued_at=int(self._wall_clock.now()),
            refresh_token=self._tokens.issue(REFRESH, user, fingerprint, (), REFRESH_TOKEN_SECONDS)
            if with_refresh_token and user is not None
            else None,
        )

    # -- authorization --------------------------------------------------------------------

    @property
    def allows_anonymous(self) -> bool:
        """True if clients that have not logged in may pull any package."""
        return ANONYMOUS in self._rules

    def denied_packages(self, user: str | None, name: ImageName) -> tuple[str, ...]:
        """Return the packages of an image that a user may not pull; empty if all are allowed."""
        patterns = self._patterns(user)
        return () if patterns is None else patterns.denied_packages(name)

    def record_pull(self, identity: Identity, name: ImageName, image: Image) -> None:
        """Record that an image was served to a client, which may now read its blobs."""
        if not self._may_read_all(identity):
            self._repository_blobs.record_pull(name, image)

    async def may_read_digest(self, identity: Identity, name: ImageName, digest: Digest) -> bool:
        """
        Tell whether a blob or a manifest belongs to an image that a client may pull.

        :param identity: what the client's credentials have proved.
        :param name: the name of an image that the client may pull.
        :raises StorageError: the storage failed.
        """
        return self._may_read_all(identity) or await self._repository_blobs.contains(name, digest)

    def _may_read_all(self, identity: Identity) -> bool:
        """Tell whether neither rules nor scopes limit the digests that a client may read."""
        return identity.scopes is None and self._patterns(identity.user) is None

    def _patterns(self, user: str | None) -> PackagePatterns | None:
        """Return the patterns of the packages that a user may pull; ``None``: all packages."""
        if user is None:
            return self._rules.get(ANONYMOUS, _NO_PACKAGES)
        # An event stream may stay open after its user was removed.
        if user not in self._checker.passwords:
            return _NO_PACKAGES
        return self._rules.get(user, self._rules.get(ANY_USER))

    def _may_pull_from(self, user: str | None, repository: str) -> bool:
        try:
            name = parse_image_name(repository, self._system)
        except InvalidName:
            return False
        return not self.denied_packages(user, name)

    def _check_fingerprint(self, user: str | None, fingerprint: str | None) -> None:
        """:raises TokenInvalid: the user was removed, or has another password."""
        if user is None:
            if not self.allows_anonymous:
                raise TokenInvalid(reason="nobody may pull without logging in any more")
        elif fingerprint is None or fingerprint != self._checker.passwords.fingerprint(user):
            raise TokenInvalid(reason="its user has another password now, or is gone")

    async def _check_password(self, user: str, password: str, address: str) -> None:
        # Other users of an address do not keep out one who has logged in from there.
        source = f"{user} {address}" if self._throttle.has_logged_in(address, user) else address
        pending = self._pending_checks.get(source, 0)
        if (
            pending >= MAX_PENDING_CHECKS_PER_ADDRESS
            or sum(self._pending_checks.values()) >= MAX_PENDING_CHECKS
        ):
            raise LoginThrottled(retry_after=2.0)
        self._pending_checks[source] = pending + 1
        credentials = UsernamePassword(
            user.encode("utf-8", "replace"), password.encode("utf-8", "replace")
        )
        try:
            await self._checker.requestAvatarId(credentials)
        except UnauthorizedLogin:
            wait = self._throttle.record_failure(address, user)
            self._log.warn(
                "{user!r} from {address} failed to log in{wait}",
                user=user[:64],
                address=address,
                wait=f", and may try again in {wait:.0f} s" if wait else "",
            )
            raise LoginFailed from None
        finally:
            remaining = self._pending_checks.pop(source) - 1
            if remaining:
                self._pending_checks[source] = remaining
        self._throttle.record_success(address, user)
        self._log.info("{user} from {address} logged in", user=user, address=address)


_NO_PACKAGES = PackagePatterns(patterns=())


def _repositories(scopes: Sequence[str]) -> Sequence[str]:
    """Return the names in ``repository:NAME:pull,push``; a name may itself contain colons."""
    names: dict[str, None] = {}
    for scope in " ".join(scopes).split()[:MAX_SCOPES]:
        kind, _, rest = scope.partition(":")
        name, colon, actions = rest.rpartition(":")
        if kind.partition("(")[0] == "repository" and colon and "pull" in actions.split(","):
            names[name] = None
    return tuple(names)
