"""
Authenticate the client of each request before a resource answers it.

    request --AuthenticatingRoot--> request.resolved_client --> resource
                                                           |
             /v2: RegistryGuard authorizes each image, and sends the login challenge
             pages: only for users; PagesGuard checks each build and image

Credentials that were checked recently come from a cache: that takes microseconds, and no
thread.  ``/healthz`` and ``/readyz`` are open without a login; the latter gives details
only to users.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, Request

from nixery.access.errors import AccessDenied, LoginFailed, LoginRequired, TokenInvalid
from nixery.access.identity import Client, Identity
from nixery.errors import NixeryError
from nixery.http.client_address import client_address
from nixery.http.credentials import BASIC, Basic, bearer_challenge, parse_authorization
from nixery.http.error_responses import error_response, internal_error_response
from nixery.http.registry.paths import Route
from nixery.http.responses import (
    PLAIN_TEXT,
    answer_with,
    client_disconnected,
    request_id,
    send_error,
    set_headers,
)
from nixery.http.server import LoggedRequest
from nixery.image.errors import InvalidName
from nixery.image.manifests import Image
from nixery.image.names import Digest, ImageName, parse_image_name

__all__ = ["Authority", "AuthenticatingRoot", "PagesGuard", "RegistryGuard", "client_of"]

SELF_AUTHORIZING_PATHS = frozenset({b"healthz", b"readyz", b"token", b"v2"})
"""First path segments open without a login; their resources authorize clients themselves."""

UNAUTHENTICATED_PATHS = frozenset({b"healthz"})
"""First path segments for which credentials are not checked at all."""


class Authority(Protocol):
    """Authenticates clients, and decides which packages and digests they may pull."""

    @property
    def issues_tokens(self) -> bool:
        """True if clients of the registry API have to fetch tokens."""

    def cached_identity(self, credentials: bytes) -> Identity | None:
        """Return the identity that these credentials proved recently; ``None`` if not cached."""

    async def log_in(
        self, user: str, password: str, address: str, credentials: bytes | None = None
    ) -> Identity:
        """
        Check a password.

        :param credentials: the raw header; a further key under which the result is cached.
        :raises LoginFailed: the password is wrong.
        :raises LoginThrottled: the password is not checked now.
        """

    def verify_access_token(self, token: str, credentials: bytes) -> Identity:
        """Return the identity that a token proves; :raises TokenInvalid: it proves none."""

    def denied_packages(self, user: str | None, name: ImageName) -> tuple[str, ...]:
        """Return the packages of an image that a user may not pull."""

    def record_pull(self, user: str | None, name: ImageName, image: Image) -> None:
        """Record that a user was served the manifest of an image."""

    async def may_read_digest(self, user: str | None, name: ImageName, digest: Digest) -> bool:
        """Tell whether a digest belongs to an image that a user may pull."""


def client_of(request: Request) -> Client:
    """Return the client of a request; without an identity if it was not authenticated."""
    client = request.resolved_client if isinstance(request, LoggedRequest) else None
    return client or Client(address=client_address(request))


class RegistryGuard:
    """
    Authorizes requests to the registry API.

    :param authority: authenticates clients, and decides what they may pull.
    :param realm: the URL of the token endpoint.
    :param service: the service that tokens are issued for: the host where clients reach the
        registry.
    """

    def __init__(self, authority: Authority, *, realm: str, service: str) -> None:
        self._authority = authority
        self._realm = realm
        self._service = service

    def authorize(self, request: Request, route: Route) -> None:
        """
        Authorize a request.

        :raises LoginRequired: the client has not logged in, or its token is for something else.
        :raises AccessDenied: the user may not pull the image.
        """
        client = client_of(request)
        name: ImageName | None = getattr(route, "name", None)
        identity = client.identity
        if identity is None:
            error = "invalid_token" if client.auth_error else None
            raise self._challenge(name, error, client.auth_error)
        if name is None:
            return
        refused = self._authority.denied_packages(identity.user, name)
        if refused and identity.user is None:
            raise self._challenge(name, "insufficient_scope", "")
        if refused:
            raise AccessDenied(user=identity.user or "", packages=refused)
        if identity.scopes is not None and name.repository not in identity.scopes:
            raise self._challenge(
                name, "insufficient_scope", f"the token is not for {name.repository}"
            )

    def record_pull(self, request: Request, name: ImageName, image: Image) -> None:
        """Record that the client of a request was served the manifest of an image."""
        self._authority.record_pull(client_of(request).user, name, image)

    async def may_read_digest(self, request: Request, name: ImageName, digest: Digest) -> bool:
        """
        Tell whether a digest belongs to an image that the client may pull.

        :raises StorageError: the storage failed, so that it cannot be determined.
        """
        return await self._authority.may_read_digest(client_of(request).user, name, digest)

    def _challenge(
        self, name: ImageName | None, error: str | None, auth_error: str
    ) -> LoginRequired:
        if not self._authority.issues_tokens:
            return LoginRequired(challenge=BASIC, reason=auth_error)
        repository = None if name is None else name.repository
        challenge = bearer_challenge(self._realm, self._service, repository, error)
        return LoginRequired(challenge=challenge, reason=auth_error)


class PagesGuard:
    """
    Restricts pages to users; implements :class:`nixery.http.visibility.VisibilityRules`.

    :param system: the Nix system of images whose name chooses none.
    """

    def __init__(self, authority: Authority, system: str) -> None:
        self._authority = authority
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
        return not self._authority.denied_packages(identity.user, name) and (
            identity.scopes is None or image in identity.scopes
        )


class AuthenticatingRoot(Resource):
    """
    The root resource, which authenticates each request before it goes to the resource tree.

    :param root: the root of that tree.
    :param authority: authenticates clients.
    """

    def __init__(self, root: Resource, authority: Authority) -> None:
        super().__init__()
        self._root = root
        self._authority = authority

    def getChildWithDefault(  # noqa: N802
        self, path: bytes, request: Request
    ) -> IResource:
        """Return the resource for a request, or the one that refuses it."""
        credentials = request.getHeader(b"Authorization")
        address = client_address(request)
        identity = None
        if credentials is not None and path not in UNAUTHENTICATED_PATHS:
            identity = self._authority.cached_identity(credentials)
            if identity is None:
                return _DeferredAuth(self, path, credentials, address)
        return self.resource_for(path, request, Client(address=address, identity=identity))

    async def check(self, credentials: bytes, address: str) -> Client:
        """
        Check credentials that are not cached, and return their client.

        Wrong credentials give a client without an identity, whose ``auth_error`` is the reason.

        :raises LoginThrottled: they are not checked now.
        """
        try:
            parsed = parse_authorization(credentials)
            if isinstance(parsed, Basic):
                identity = await self._authority.log_in(
                    parsed.user, parsed.password, address, credentials
                )
            else:
                identity = self._authority.verify_access_token(parsed.token, credentials)
        except (LoginFailed, TokenInvalid) as error:
            return Client(address=address, auth_error=error.message)
        return Client(address=address, identity=identity)

    def resource_for(self, path: bytes, request: Request, client: Client) -> IResource:
        """Return the resource that answers a client which has been authenticated."""
        if isinstance(request, LoggedRequest):
            request.resolved_client = client
        if path in SELF_AUTHORIZING_PATHS or client.user is not None:
            child: IResource = self._root.getChildWithDefault(path, request)
            return child
        reason = client.auth_error or "this page is for those who have logged in"
        return _Refusal(LoginRequired(challenge=BASIC, reason=reason), path)


class _DeferredAuth(Resource):
    """Checks credentials, and then renders the resource that the check leads to."""

    _log = Logger()

    def __init__(
        self, root: AuthenticatingRoot, path: bytes, credentials: bytes, address: str
    ) -> None:
        super().__init__()
        self.isLeaf = True
        self._root = root
        self._path = path
        self._credentials = credentials
        self._address = address

    def render(self, request: Request) -> int:
        checking = Deferred.fromCoroutine(self._check(request))
        # A disconnected client ends the wait only; the check goes on, for other requests.
        request.notifyFinish().addErrback(lambda _: checking.cancel())
        checking.addErrback(self._failed, request)
        return NOT_DONE_YET

    async def _check(self, request: Request) -> None:
        resource: IResource
        try:
            client = await self._root.check(self._credentials, self._address)
        except NixeryError as error:
            resource = _Refusal(error, self._path)
        else:
            resource = self._root.resource_for(self._path, request, client)
        if not client_disconnected(request):
            # Not the request's own method, which would log and count the request a second time.
            Request.render(request, getChildForRequest(resource, request))

    def _failed(self, failure: Failure, request: Request) -> None:
        if client_disconnected(request):
            failure.trap(CancelledError)
            return
        reference = request_id(request)
        self._log.failure(
            "credentials could not be checked (reference {reference})",
            failure,
            reference=reference,
        )
        Request.render(
            request, _RenderedError(send_error(request, internal_error_response(reference)))
        )


class _RenderedError(Resource):
    """Renders a body whose status and headers have been set already."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.isLeaf = True
        self._body = body

    def render(self, request: Request) -> bytes:
        # Twisted logs a message for a body that it has to drop.
        return b"" if request.method == b"HEAD" else self._body


class _Refusal(Resource):
    """Refuses a client: in JSON from the registry API, in a line of text from elsewhere."""

    def __init__(self, error: NixeryError, path: bytes) -> None:
        super().__init__()
        self.isLeaf = True
        self._error = error
        self._path = path

    def render(self, request: Request) -> bytes:
        problem = error_response(self._error)
        set_headers(request, {b"Cache-Control": b"no-store", b"X-Content-Type-Options": b"nosniff"})
        body = send_error(request, problem)
        if self._path not in (b"v2", b"token"):
            text = f"{problem.message}\n".encode("utf-8", "replace")
            body = answer_with(request, PLAIN_TEXT, text)
        return b"" if request.method == b"HEAD" else body
