"""
Authenticate the client of each request before a handler answers it, and authorize it there.

    request --Authenticator--> request.resolved_client --> handler
                                                           |
             /v2: RegistryGuard authorizes each image, and sends the login challenge
             pages: only for users; PagesGuard checks each build and image

Credentials that were checked recently come from a cache: that takes microseconds, and no
thread.  ``/healthz``, ``/readyz``, the public key and the documentation are open without a login;
``/readyz`` gives details only to users.
"""

from __future__ import annotations

from attrs import evolve
from twisted.logger import Logger
from twisted.web.server import Request

from nixery.access.access_controller import AccessController
from nixery.access.errors import AccessDenied, LoginFailed, LoginRequired, TokenInvalid
from nixery.access.identity import Client, Identity
from nixery.http.client_address import client_address
from nixery.http.credentials import BASIC, Basic, bearer_challenge, parse_authorization
from nixery.http.server import LoggedRequest, first_segment
from nixery.image.errors import InvalidName
from nixery.image.manifests import Image
from nixery.image.names import Digest, ImageName, parse_image_name

__all__ = ["Authenticator", "PagesGuard", "RegistryGuard", "client_of"]

SELF_AUTHORIZING_PATHS = frozenset({b"healthz", b"keys", b"readyz", b"token", b"v2"})
"""First path segments open without a login; their handlers authorize clients themselves."""

PUBLIC_PATHS = frozenset({b"docs", b"favicon.ico", b"robots.txt", b"static"})
"""First path segments of what has no secrets: the documentation, and the files of all pages."""

UNAUTHENTICATED_PATHS = frozenset({b"healthz", b"keys"})
"""First path segments for which credentials are not checked at all."""


def client_of(request: Request) -> Client:
    """Return the client of a request; without an identity if it was not authenticated."""
    client = request.resolved_client if isinstance(request, LoggedRequest) else None
    return client or Client(address=client_address(request))


class RegistryGuard:
    """
    Authorizes requests to the registry API.

    :param controller: authenticates clients, and decides what they may pull.
    :param realm: the URL of the token endpoint.
    :param service: the service that tokens are issued for: the host where clients reach the
        registry.
    """

    def __init__(self, controller: AccessController, *, realm: str, service: str) -> None:
        self._controller = controller
        self._realm = realm
        self._service = service

    def authorize(self, request: Request, name: ImageName | None) -> None:
        """
        Authorize a request.

        :param name: the image; ``None`` if the request is for none.
        :raises LoginRequired: the client has not logged in, or its token is for something else.
        :raises AccessDenied: the user may not pull the image.
        """
        client = client_of(request)
        identity = client.identity
        if identity is None:
            error = "invalid_token" if client.auth_error else None
            raise self._challenge(name, error, client.auth_error)
        if name is None:
            return
        refused = self._controller.denied_packages(identity.user, name)
        if refused and identity.user is None:
            raise self._challenge(name, "insufficient_scope", "")
        if refused:
            raise AccessDenied(user=identity.user or "", packages=refused)
        if identity.scopes is not None and name.repository not in identity.scopes:
            raise self._challenge(
                name, "insufficient_scope", f"the token is not for {name.repository}"
            )

    def may_see(self, request: Request, name: ImageName) -> bool:
        """Tell whether the client of a request may know of the packages of an image."""
        identity = client_of(request).identity
        return identity is not None and not self._controller.denied_packages(identity.user, name)

    def record_pull(self, request: Request, name: ImageName, image: Image) -> None:
        """Record that the client of a request was served the manifest of an image."""
        identity = client_of(request).identity
        if identity is not None:
            self._controller.record_pull(identity, name, image)

    async def may_read_digest(self, request: Request, name: ImageName, digest: Digest) -> bool:
        """
        Tell whether a digest belongs to an image that the client may pull.

        :raises StorageError: the storage failed, so that it cannot be determined.
        """
        identity = client_of(request).identity
        return identity is not None and await self._controller.may_read_digest(
            identity, name, digest
        )

    def _challenge(
        self, name: ImageName | None, error: str | None, auth_error: str
    ) -> LoginRequired:
        if not self._controller.issues_tokens:
            return LoginRequired(challenge=BASIC, reason=auth_error)
        repository = None if name is None else name.repository
        challenge = bearer_challenge(self._realm, self._service, repository, error)
        return LoginRequired(challenge=challenge, reason=auth_error)


class PagesGuard:
    """
    Restricts pages to users; implements :class:`nixery.http.visibility.VisibilityRules`.

    :param system: the Nix system of images whose name chooses none.
    """

    def __init__(self, controller: AccessController, system: str) -> None:
        self._controller = controller
        self._system = system

    def may_see(self, request: Request, image: str) -> bool:
        """Decide as :meth:`nixery.http.visibility.VisibilityRules.may_see` describes."""
        identity = client_of(request).identity
        if identity is None:
            return False
        try:
            name = parse_image_name(image, self._system)
        except InvalidName:
            return False
        return not self._controller.denied_packages(identity.user, name) and (
            identity.scopes is None or image in identity.scopes
        )


class Authenticator:
    """
    Authenticates the client of each request before it is answered.

    :param controller: authenticates clients.
    """

    _log = Logger()

    def __init__(self, controller: AccessController) -> None:
        self._controller = controller
        self._warned_of_forwarding = False

    async def authenticate(self, request: Request) -> None:
        """
        Set the client of a request.

        Wrong credentials give a client without an identity, whose ``auth_error`` is the reason.

        :raises LoginRequired: only users may see the page.
        :raises LoginThrottled: the credentials are not checked now.
        """
        assert isinstance(request, LoggedRequest)
        if not self._warned_of_forwarding and request.has_untrusted_forwarding:
            self._warn_of_forwarding(client_address(request))
        segment = first_segment(request)
        credentials = request.getHeader(b"Authorization")
        client = Client(address=client_address(request))
        if credentials is not None and segment not in UNAUTHENTICATED_PATHS:
            try:
                identity = await self._identify(credentials, client.address)
                client = evolve(client, identity=identity)
            except (LoginFailed, TokenInvalid) as error:
                client = evolve(client, auth_error=error.message)
        request.resolved_client = client
        if segment not in SELF_AUTHORIZING_PATHS | PUBLIC_PATHS and client.user is None:
            reason = client.auth_error or "log in to see this page"
            raise LoginRequired(challenge=BASIC, reason=reason)

    def _warn_of_forwarding(self, address: str) -> None:
        # Said once: any client can send the header.
        self._warned_of_forwarding = True
        self._log.warn(
            "{address} sends X-Forwarded-For and is not trusted: if it is a proxy of yours, name"
            " it in trusted_proxies, or failed logins of one client lock out all behind it.",
            address=address,
        )

    async def _identify(self, credentials: bytes, address: str) -> Identity:
        identity = self._controller.cached_identity(credentials)
        if identity is not None:
            return identity
        parsed = parse_authorization(credentials)
        if isinstance(parsed, Basic):
            return await self._controller.log_in(parsed.user, parsed.password, address, credentials)
        return self._controller.verify_access_token(parsed.token, credentials)
