"""Makes the access control that the configuration asks for, and reloads its files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from attrs import field, frozen
from twisted.logger import Logger

from nixery.access.access_controller import AccessController
from nixery.access.identity import ANONYMOUS, ANY_USER
from nixery.access.passwords import Passwords, read_passwords
from nixery.access.tokens import Tokens, load_key, load_or_create_key
from nixery.config.config import Config
from nixery.config.declarations.access import AccessConfig
from nixery.http.auth import PagesGuard
from nixery.http.visibility import AllowAll, VisibilityRules
from nixery.image.patterns import PackagePatterns
from nixery.pulls.referrers import Referrers
from nixery.pulls.repository_blobs import RepositoryBlobs
from nixery.runtime.clocks import WallClock
from nixery.runtime.startup import Component
from nixery.runtime.workers import WorkerPool, Workers
from nixery.wiring.storage import StorageSubsystem

__all__ = ["AccessSubsystem", "make_access"]

PASSWORD_THREADS = 2
"""Maximum number of passwords that are checked at once: each check occupies a processor."""


@frozen(kw_only=True)
class AccessSubsystem:
    """
    The access control.

    :param controller: authenticates clients, and decides what they may pull; ``None``: every
        client may pull everything.
    :param visibility: decides which builds and images a client may see.
    :param reloads: the callbacks for a reload, by the name of what they reload.
    :param components: must start before a client is admitted, once the state directory is there.
    """

    controller: AccessController | None = None
    visibility: VisibilityRules = field(factory=AllowAll)
    reloads: Mapping[str, Callable[[], Awaitable[object]]] = MappingProxyType({})
    components: tuple[Component, ...] = ()


def make_access(
    config: Config,
    files: Workers,
    reactor: Any,  # the global reactor, which has no type
    wall_clock: WallClock,
    *,
    stored: StorageSubsystem,
    referrers: Referrers,
    reread: Callable[[], Config] | None,
) -> AccessSubsystem:
    """
    Make the configured access control.

    :param files: the pool for file systems.
    :param wall_clock: dates tokens.
    :param stored: the images that were built.
    :param referrers: finds what refers to them.
    :param reread: reads the configuration again, for a reload; ``None``: it never changes.
    """
    if config.access.auth == "none":
        return AccessSubsystem()
    pool = WorkerPool("passwords", min(PASSWORD_THREADS, config.builds.cpu_workers), reactor)
    controller = AccessController(
        repository_blobs=RepositoryBlobs(stored.storage, stored.images, referrers.digests),
        workers=pool,
        seconds=reactor.seconds,
        wall_clock=wall_clock,
        system=config.sources.system,
    )
    loader = UserLoader(
        controller=controller, config=config, files=files, wall_clock=wall_clock, reread=reread
    )
    return AccessSubsystem(
        controller=controller,
        visibility=PagesGuard(controller, config.sources.system),
        reloads={"users and their rules": loader.reload},
        components=(
            Component.of_service("pool for passwords", pool),
            Component(name="access of users", start=loader.start),
        ),
    )


@frozen(kw_only=True)
class UserLoader:
    """
    Loads users, their rules and the key of tokens into an access controller.

    :param files: the pool for file systems.
    :param wall_clock: dates tokens.
    :param reread: reads the configuration again, for a reload; ``None``: it never changes.
    """

    controller: AccessController
    config: Config
    files: Workers
    wall_clock: WallClock
    reread: Callable[[], Config] | None

    _log = Logger()

    async def start(self) -> None:
        """
        Load everything.

        :raises PasswordFileUnusable: no user can log in.
        :raises TokenKeyUnusable: tokens cannot be signed.
        """
        access, http = self.config.access, self.config.http
        passwords = await self._read(access)
        self.controller.replace_users(passwords, access.auth_rules)
        if access.auth == "token":
            path = access.token_key
            # A key file that was named is not created: a mistyped path would become a key of its
            # own.
            own = path == self.config.storage.state_directory / "token-key.pem"
            key = await self.files.run(load_or_create_key if own else load_key, path)
            self.controller.enable_tokens(Tokens(key=key, wall_clock=self.wall_clock))
        self._log.info("{count} users can log in.", count=len(passwords.hashes))
        if self.config.tls.tls_certificate is None and in_the_clear(http.listen, http.public_url):
            self._log.warn(
                "Logins are not encrypted, so passwords can be read on the network: serve TLS,"
                " or use a proxy that does, and name it in public_url."
            )

    async def reload(self) -> None:
        """
        Load users and their rules again.

        :raises ConfigError: the users and rules of before stay in force.
        :raises PasswordFileUnusable: the same.
        """
        access = self.config.access
        if self.reread is not None:
            access = (await self.files.run(self.reread)).access
        if access.auth != self.config.access.auth:
            self._log.warn("To change auth, restart the daemon.")
            access = self.config.access
        self.controller.replace_users(await self._read(access), access.auth_rules)

    async def _read(self, access: AccessConfig) -> Passwords:
        assert access.htpasswd_file is not None  # the configuration ensures it
        passwords = await self.files.run(read_passwords, access.htpasswd_file)
        for user in unknown_users(access.auth_rules, passwords.hashes):
            self._log.warn(
                "auth_rules names {user}, who is not a user: if the name is misspelt, its owner can"
                " pull everything.",
                user=user,
            )
        return passwords


def unknown_users(rules: Mapping[str, PackagePatterns], users: Collection[str]) -> tuple[str, ...]:
    """Return the users who have rules and cannot log in."""
    return tuple(sorted(set(rules) - set(users) - {ANONYMOUS, ANY_USER}))


def in_the_clear(listen: Collection[str], public_url: str | None) -> bool:
    """Tell whether others on the network can read the traffic, as far as that is known."""
    if public_url is not None:
        return public_url.startswith("http://") and not _is_loopback(
            public_url.removeprefix("http://")
        )
    return any(
        text.split(":")[0] in ("tcp", "tcp4", "tcp6")
        and not any(
            _is_loopback(part.removeprefix("interface="))
            for part in text.replace("\\:", "|").split(":")
            if part.startswith("interface=")
        )
        for text in listen
    )


def _is_loopback(host: str) -> bool:
    return host.startswith(("127.", "localhost", "[::1]", "||1", "::1"))
