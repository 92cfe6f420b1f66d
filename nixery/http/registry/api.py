"""
Serve the registry API under ``/v2/``.

Handlers contain little logic.  Paths are parsed by :mod:`nixery.http.registry.paths`, headers
by :mod:`nixery.http.headers`, errors are mapped to responses by
:mod:`nixery.http.error_responses`, and blobs are sent by :mod:`nixery.http.registry.blob_sender`.

A HEAD is answered by the same code as the GET, up to the body, so that the two cannot
differ: clients rely on the digest and the length in the response to a HEAD.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import quote
from uuid import uuid4

from attrs import field, frozen
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.web.resource import Resource
from twisted.web.server import Request

from nixery.errors import NixeryError, ShuttingDown
from nixery.http.client_address import client_keys
from nixery.http.coroutine_resource import CoroutineResource
from nixery.http.error_responses import (
    BAD_PAGE_SIZE,
    NO_CATALOG,
    NO_REFERRERS,
    NO_ROUTE,
    READ_ONLY,
    error_response,
    internal_error_response,
    log_text,
)
from nixery.http.headers import accepted_types, requested_range
from nixery.http.registry.blob_sender import BlobSender, SendLimits
from nixery.http.registry.client_support import check_readable
from nixery.http.registry.errors import ManifestUnknown
from nixery.http.registry.manifests import Manifests
from nixery.http.registry.paths import (
    Blob,
    Catalog,
    ManifestByDigest,
    ManifestByTag,
    NoRoute,
    Ping,
    Referrers,
    Route,
    Tags,
    parse_route,
)
from nixery.http.registry.pull_wait import PullWaiter
from nixery.http.responses import (
    answer_unchanged,
    answer_with,
    client_disconnected,
    describe_blob,
    identify,
    request_id,
    send_error,
    set_headers,
)
from nixery.image.manifests import OCI_INDEX, Image, Manifest, empty_index
from nixery.image.names import Digest, ImageName, Tag, is_referrers_tag
from nixery.limits.build_quota import current_client
from nixery.limits.package_rules import PackageRules
from nixery.observability.context import current_request
from nixery.runtime.workers import Workers
from nixery.storage.errors import BlobUnknown
from nixery.storage.interface import Storage

__all__ = ["Guard", "Images", "Registry", "RegistryLimits"]

# Enough digits for any number of tags, and fewer than the limit of Python's int().
_PAGE_SIZE = re.compile(rb"[0-9]{1,9}")


class Images(Protocol):
    """Supplies images, and builds those that do not exist yet, which may take long."""

    async def get_image(self, name: ImageName, tag: Tag, *, is_head: bool = False) -> Image:
        """
        Return the image with a name and a tag; it is built if necessary, and stored.

        Cancelling the wait does not stop a build.

        :param is_head: true for a HEAD, after which the same client will send a GET.
        :raises NixeryError: the image cannot be supplied.
        """

    async def list_tags(self, name: ImageName) -> Sequence[str]:
        """
        Return the tags under which the image can be pulled, sorted.

        :raises NixeryError: they could not be determined.
        """

    def invalidate_checks(self) -> None:
        """Recheck stored images, after a blob turned out missing that one of them may name."""


class Guard(Protocol):
    """Authorizes requests to the registry API."""

    def authorize(self, request: Request, route: Route) -> None:
        """
        Authorize a request.

        :raises LoginRequired: it needs a login, or another one.
        :raises AccessDenied: the user that has logged in may not make it.
        """

    def record_pull(self, request: Request, name: ImageName, image: Image) -> None:
        """Record that the client of a request was served the manifest of an image."""

    async def may_read_digest(self, request: Request, name: ImageName, digest: Digest) -> bool:
        """
        Tell whether a digest belongs to an image that the client may pull.

        :raises StorageError: the storage failed, so that it cannot be determined.
        """


@frozen(kw_only=True)
class RegistryLimits:
    """
    Limits that the registry enforces for all clients.

    :param rules: the packages that are served at all.
    :param sending: the minimum speed of clients.
    """

    rules: PackageRules = field(factory=PackageRules)
    sending: SendLimits = field(factory=SendLimits)


class Registry:
    """
    The routes under ``/v2/``.

    :param images: makes images.
    :param storage: holds their manifests and blobs.
    :param workers: threads to read files on.
    :param system: the Nix system of images whose name chooses none.
    :param clock: for the timeouts of clients that stall.
    :param pull_waiter: holds requests for images; by default, for as long as
        :class:`nixery.http.registry.pull_wait.PullWaiter` says.
    :param guard: authorizes requests; by default, every client may pull every image.
    :param limits: the packages that are served at all, and the minimum speed of clients.
    :param manifests: finds manifests by digest; by default, in ``storage``.
    """

    _log = Logger()

    def __init__(  # noqa: PLR0913  # the dependencies of all handlers
        self,
        images: Images,
        storage: Storage,
        workers: Workers,
        system: str,
        clock: IReactorTime,
        *,
        pull_waiter: PullWaiter | None = None,
        guard: Guard | None = None,
        limits: RegistryLimits | None = None,
        manifests: Manifests | None = None,
    ) -> None:
        self._images = images
        self._guard = guard
        self._pull_waiter = pull_waiter or PullWaiter(clock=clock)
        self._storage = storage
        self._system = system
        limits = limits or RegistryLimits()
        self._sender = BlobSender(storage, workers, clock, limits.sending)
        self._rules = limits.rules
        self._manifests = manifests or Manifests(storage, clock.seconds)

    def resource(self) -> Resource:
        """Make the resource for a site: its child ``v2``, or its root."""
        return CoroutineResource(self._answer)

    async def _answer(self, request: Request) -> bytes | None:
        """Answer any request; all errors become responses here."""
        # Docker before 1.10 and a few scripts recognize a registry by this header alone.
        set_headers(request, {b"Docker-Distribution-Api-Version": b"registry/2.0"})
        current_request.set(request_id(request))
        current_client.set(client_keys(request))
        try:
            if request.method not in (b"GET", b"HEAD"):
                return send_error(request, READ_ONLY)
            return await self._dispatch(request, parse_route(request.path, self._system))
        except NixeryError as error:
            # A disconnected client gets no response; the failing component has logged the error.
            return None if client_disconnected(request) else self._fail(request, error)
        except CancelledError:
            if client_disconnected(request):
                raise  # CoroutineResource, which cancelled this, handles it.
            # Not cancelled by the client: the build is being stopped, with the daemon.
            return self._fail(request, ShuttingDown())
        except Exception:  # noqa: BLE001  # the client gets a response to any failure
            reference = request_id(request) or _new_reference()
            self._log.failure(
                "{method} {path} failed (reference {reference})",
                method=log_text(request.method),
                path=log_text(request.path),
                reference=reference,
            )
            return (
                None
                if client_disconnected(request)
                else send_error(request, internal_error_response(reference))
            )

    async def _dispatch(self, request: Request, route: Route) -> bytes | None:
        if self._guard is not None:
            self._guard.authorize(request, route)
            await self._check_digest(self._guard, request, route)
        asked: ImageName | None = getattr(route, "name", None)
        if asked is not None:
            self._rules.check(asked)
        match route:
            case ManifestByTag(name, tag):
                return await self._manifest_by_tag(request, name, tag)
            case ManifestByDigest(name, digest):
                return self._manifest(request, await self._manifests.get(name, digest))
            case Blob(_, digest):
                try:
                    return await self._blob(request, digest)
                except BlobUnknown:
                    self._manifests.invalidate_checks()
                    self._images.invalidate_checks()
                    raise
            case Tags(name):
                return await self._tags(request, name)
            case Referrers():
                return self._referrers(request)
            case Ping():
                return answer_with(request, "application/json", b"{}")
            case Catalog():
                return send_error(request, NO_CATALOG)
            case NoRoute():
                return send_error(request, NO_ROUTE)

    async def _check_digest(self, guard: Guard, request: Request, route: Route) -> None:
        """Answer a request for a digest that the client may not pull as if it did not exist."""
        match route:
            case ManifestByDigest(name, digest):
                if not await guard.may_read_digest(request, name, digest):
                    raise ManifestUnknown(name=name.repository, digest=digest)
            case Blob(name, digest):
                if not await guard.may_read_digest(request, name, digest):
                    raise BlobUnknown(digest=digest)

    async def _manifest_by_tag(self, request: Request, name: ImageName, tag: Tag) -> bytes:
        if is_referrers_tag(tag):
            return send_error(request, NO_REFERRERS)
        is_head = request.method == b"HEAD"
        agent = request.getHeader(b"User-Agent")
        try:
            image = await self._pull_waiter.wait_for_image(
                agent, name, tag, self._images.get_image(name, tag, is_head=is_head)
            )
        except NixeryError as error:
            if client_disconnected(request):
                raise
            return self._fail(request, error, self._pull_waiter.build_url(name, tag, error))
        if self._guard is not None:
            self._guard.record_pull(request, name, image)
        accepted = accepted_types(request.requestHeaders.getRawHeaders(b"Accept", []))
        check_readable(image, agent, accepted)
        manifest = image.choose_manifest(accepted)
        set_headers(request, {b"Vary": b"Accept"})
        self._manifests.keep(manifest)
        return self._manifest(request, manifest)

    def _manifest(self, request: Request, manifest: Manifest) -> bytes:
        if answer_unchanged(request, manifest.digest):
            return b""
        identify(request, manifest.digest)
        return answer_with(request, manifest.media_type, manifest.body)

    async def _blob(self, request: Request, digest: Digest) -> bytes | None:
        headers = request.requestHeaders
        ranges = headers.getRawHeaders(b"Range")
        part = None
        if request.method == b"HEAD" or ranges or headers.hasHeader(b"If-None-Match"):
            info = await self._storage.stat(digest)
            if answer_unchanged(request, digest):
                return b""
            # HEAD is answered here, without a redirect, since a URL may be signed
            # for GET alone; and without a range, which RFC 9110 defines for GET
            # alone.
            if request.method == b"HEAD":
                describe_blob(request, info, None)
                return b""
            if ranges:
                part = requested_range(ranges, request.getHeader(b"If-Range"), digest, info.size)
        await self._sender.send(request, digest, part)
        return None

    async def _tags(self, request: Request, name: ImageName) -> bytes:
        size, last = _query(request, b"n"), _query(request, b"last")
        if size is not None and not _PAGE_SIZE.fullmatch(size):
            return send_error(request, BAD_PAGE_SIZE)
        tags = list(await self._images.list_tags(name))
        if last is not None:
            after = last.decode("utf-8", "replace")
            tags = [tag for tag in tags if tag > after]
        if size is not None:
            page = tags[: int(size)]
            if page and len(page) < len(tags):
                following = f"/v2/{name.repository}/tags/list?n={len(page)}&last={quote(page[-1])}"
                set_headers(request, {b"Link": f'<{following}>; rel="next"'.encode("ascii")})
            tags = page
        body = json.dumps({"name": name.repository, "tags": tags}).encode("ascii")
        return answer_with(request, "application/json", body)

    def _referrers(self, request: Request) -> bytes:
        # Nothing refers to our images so far; the specification wants an empty
        # index then, and not a 404, which would send clients to look for a tag.
        if _query(request, b"artifactType") is not None:
            set_headers(request, {b"OCI-Filters-Applied": b"artifactType"})
        return answer_with(request, OCI_INDEX, empty_index())

    def _fail(self, request: Request, error: NixeryError, log: str | None = None) -> bytes:
        problem = error_response(error, log)
        if problem.status >= 500:
            # A stop of the daemon is not an error, and has been logged already.
            level = LogLevel.info if isinstance(error, ShuttingDown) else LogLevel.error
            self._log.emit(
                level,
                "{method} {path} is answered with {status}: {error!r}",
                method=log_text(request.method),
                path=log_text(request.path),
                status=problem.status,
                error=error,
            )
        return send_error(request, problem)


def _query(request: Request, name: bytes) -> bytes | None:
    """Return the value of a query parameter, the last one if there are several."""
    values = request.args.get(name)
    return values[-1] if values else None


def _new_reference() -> str:
    return uuid4().hex[:12]
