"""Makes the access control that the configuration asks for, and reloads its files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from attrs import define, field
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request

from nixery.access.access_controller import AccessController
from nixery.access.identity import ANONYMOUS, ANY_USER
from nixery.access.passwords import Passwords, read_passwords
from nixery.access.tokens import Tokens, load_key, load_or_create_key
from nixery.builds.image_cache import ImageCache
from nixery.config.config import Config
from nixery.http.auth import AuthenticatingRoot, PagesGuard, RegistryGuard, client_of
from nixery.http.token_endpoint import token_resource
from nixery.http.visibility import AllowAll, VisibilityRules
from nixery.image.patterns import PackagePatterns
from nixery.pulls.repository_blobs import RepositoryBlobs
from nixery.runtime.clocks import SystemWallClock, WallClock
from nixery.runtime.reloader import Reloader
from nixery.runtime.startup import Component
from nixery.runtime.workers import WorkerPool, Workers
from nixery.storage.interface import Storage

__all__ = ["AccessParts"]

PASSWORD_THREADS = 2
"""Maximum number of passwords that are checked at once: each check occupies a processor."""


@define(kw_only=True, eq=False)
class AccessParts:
    """
    The access control of one daemon.

    :param files: the pool for file systems.
    :param images: the images that were built.
    :param reread: reads the configuration again, for a reload; ``None``: it never changes.
    :param wall_clock: dates tokens.
    """

    config: Config
    files: Workers
    reactor: Any  # the global reactor, which has no type
    storage: Storage
    images: ImageCache
    reread: Callable[[], Config] | None = None
    wall_clock: WallClock = field(factory=SystemWallClock)
    guard: RegistryGuard | None = field(default=None, init=False)
    visibility: VisibilityRules = field(factory=AllowAll, init=False)
    _access_controller: AccessController | None = field(default=None, init=False)
    _pool: WorkerPool | None = field(default=None, init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        if self.config.auth == "none":
            return
        self._pool = WorkerPool(
            "passwords", min(PASSWORD_THREADS, self.config.cpu_workers), self.reactor
        )
        self._access_controller = AccessController(
            repository_blobs=RepositoryBlobs(self.storage, self.images),
            workers=self._pool,
            seconds=self.reactor.seconds,
            wall_clock=self.wall_clock,
            system=self.config.system,
        )
        self.guard = RegistryGuard(self._access_controller)
        self.visibility = PagesGuard(self._access_controller, self.config.system)

    def parts(self) -> tuple[Component, ...]:
        """
        Return the components that must start before a client is admitted, once the state directory
        is there.
        """
        if self._pool is None:
            return ()
        return (
            Component.of_service("pool for passwords", self._pool),
            Component(name="access of users", start=self._start),
        )

    def watch(self, reloader: Reloader) -> None:
        """Register the files that a reload reads again."""
        if self._access_controller is not None:
            reloader.register("users and their rules", self._reload)

    def children(self) -> Mapping[str, Resource]:
        """Return the resources with paths of their own, by their first path segments."""
        if self._access_controller is None or self.config.auth != "token":
            return {}
        return {"token": token_resource(self._access_controller)}

    def with_authentication(self, root: Resource, host: str | None) -> Resource:
        """
        Return a root that authenticates requests before they reach ``root``.

        :param host: the host that clients write before an image's name.
        """
        if self._access_controller is None or self.guard is None:
            return root
        host = host or "localhost"
        self.guard.service = host
        scheme = "http" if self.config.tls_certificate is None else "https"
        self.guard.realm = f"{self.config.public_url or f'{scheme}://{host}'}/token"
        if scheme == "http" and in_the_clear(self.config.listen, self.config.public_url):
            self._log.warn(
                "Passwords are asked for without TLS, and can be read on the network: serve TLS,"
                " or stand behind a proxy that does and is named in public_url."
            )
        return AuthenticatingRoot(root, self._access_controller)

    def tells(self, request: Request) -> bool:
        """Tell whether the client of a request may know what is wrong with the daemon."""
        return self._access_controller is None or client_of(request).user is not None

    async def _start(self) -> None:
        """
        :raises PasswordFileUnusable: no user can log in.
        :raises TokenKeyUnusable: tokens cannot be signed.
        """
        assert self._access_controller is not None
        passwords = await self._read(self.config)
        self._access_controller.replace_users(passwords, self.config.auth_rules)
        if self.config.auth == "token":
            path = self.config.token_key
            # A key file that was named is not created: a mistyped path would become a key of its
            # own.
            own = path == self.config.state_directory / "token-key.pem"
            key = await self.files.run(load_or_create_key if own else load_key, path)
            self._access_controller.enable_tokens(Tokens(key=key, wall_clock=self.wall_clock))
        self._log.info("{count} users may log in.", count=len(passwords.hashes))

    async def _reload(self) -> None:
        assert self._access_controller is not None
        config = self.config
        if self.reread is not None:
            config = await self.files.run(self.reread)
        if config.auth != self.config.auth:
            self._log.warn("auth itself is changed by a restart only.")
            config = self.config
        self._access_controller.replace_users(await self._read(config), config.auth_rules)

    async def _read(self, config: Config) -> Passwords:
        assert config.htpasswd_file is not None  # the configuration ensures it
        passwords = await self.files.run(read_passwords, config.htpasswd_file)
        for user in unknown_users(config.auth_rules, passwords.hashes):
            self._log.warn(
                "auth_rules names {user}, who is no user; is that a misspelt name, whose owner"
                " may have everything?",
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
