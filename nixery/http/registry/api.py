"""
Serve the registry API under ``/v2/``.

Handlers contain little logic.  Paths are parsed by :mod:`nixery.http.converters`, headers
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

from attrs import field, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request
from werkzeug.exceptions import NotFound

from nixery.access.errors import CrossSiteRequest
from nixery.artifacts.attachment import Attachment
from nixery.builds.candidates import visible_candidates
from nixery.errors import NixeryError
from nixery.http.auth import RegistryGuard
from nixery.http.back_pressure import SendLimits
from nixery.http.error_responses import BAD_PAGE_SIZE, NO_CATALOG, NO_REFERRERS
from nixery.http.headers import accepted_types, parse_number, requested_ranges
from nixery.http.hosts import HostRules, is_cross_site
from nixery.http.registry.blob_sender import BlobSender
from nixery.http.registry.client_support import check_readable
from nixery.http.registry.errors import FailedPull, ManifestUnknown
from nixery.http.registry.manifests import Manifests
from nixery.http.registry.pull_wait import PullWaiter
from nixery.http.registry.referrers import (
    NoReferrers,
    Referrers,
    answer_referrers,
    find_by_suffix,
    parse_referrers_tag,
)
from nixery.http.responses import (
    answer_unchanged,
    answer_with,
    describe_blob,
    identify,
    send_error,
    set_headers,
)
from nixery.image.errors import PackagesRefused
from nixery.image.image_index import ImageIndex
from nixery.image.manifests import Image, Manifest
from nixery.image.names import Digest, ImageName, Tag, is_referrers_tag, parse_image_name
from nixery.limits.package_rules import PackageRules
from nixery.runtime.workers import Workers
from nixery.storage.errors import BlobUnknown
from nixery.storage.interface import ByteRange, Storage

__all__ = ["Images", "Registry", "RegistryLimits"]

_PAGE_SIZE = re.compile(rb"[0-9]+")


class Images(Protocol):
    """Supplies images, and builds those that do not exist yet, which may take long."""

    async def get_image(self, name: ImageName, tag: Tag, *, is_head: bool = False) -> Image:
        """
        Return the image with a name and a tag; it is built if necessary, and stored.

        Cancelling the wait does not stop a build.

        :param is_head: true for a HEAD, after which the same client will send a GET.
        :raises NixeryError: the image cannot be supplied.
        """

    async def find_candidates(self, error: PackagesRefused) -> PackagesRefused:
        """Return the error with names that may have been meant by those that do not exist."""

    async def list_tags(self, name: ImageName) -> Sequence[str]:
        """
        Return the tags under which the image can be pulled, sorted.

        :raises NixeryError: they could not be determined.
        """

    def invalidate_checks(self) -> None:
        """Recheck stored images, after a blob turned out missing that one of them may name."""


@frozen(kw_only=True)
class RegistryLimits:
    """
    Limits that the registry enforces for all clients.

    :param rules: the packages that are served at all.
    :param sending: the minimum speed of clients.
    :param hosts: the names of the registry, of which none can be another site's; ``None``: every
        name.
    """

    rules: PackageRules = field(factory=PackageRules)
    sending: SendLimits = field(factory=SendLimits)
    hosts: HostRules | None = None


class Registry:
    """
    The routes under ``/v2/``.

    :param images: makes images.
    :param storage: holds their manifests and blobs.
    :param workers: threads to read files on.
    :param clock: for the timeouts of clients that stall.
    :param pull_waiter: holds requests for images; by default, for as long as
        :class:`nixery.http.registry.pull_wait.PullWaiter` says.
    :param guard: authorizes requests; by default, every client may pull every image.
    :param limits: the packages that are served at all, and the minimum speed of clients.
    :param manifests: finds manifests by digest; by default, in ``storage``.
    :param referrers: finds what refers to manifests; by default, there is nothing.
    """

    def __init__(  # noqa: PLR0913  # the dependencies of all handlers
        self,
        images: Images,
        storage: Storage,
        workers: Workers,
        clock: IReactorTime,
        *,
        pull_waiter: PullWaiter | None = None,
        guard: RegistryGuard | None = None,
        limits: RegistryLimits | None = None,
        manifests: Manifests | None = None,
        referrers: Referrers | None = None,
    ) -> None:
        self._images = images
        self._guard = guard
        self._pull_waiter = pull_waiter or PullWaiter(clock=clock)
        self._storage = storage
        limits = limits or RegistryLimits()
        self._sender = BlobSender(storage, workers, clock, limits.sending)
        self._rules = limits.rules
        self._hosts = limits.hosts
        self._manifests = manifests or Manifests(storage, clock.seconds)
        self._referrers = referrers or NoReferrers()

    async def ping(self, request: Request) -> bytes:
        """Answer ``/v2/``: this is a registry, and the client is authorized."""
        self._authorize(request)
        return answer_with(request, "application/json", b"{}")

    async def catalog(self, request: Request) -> bytes:
        """Say that there is no list of repositories."""
        self._authorize(request)
        return send_error(request, NO_CATALOG)

    async def unknown(self, request: Request) -> bytes:
        """Answer an authorized client that the API has no such path."""
        self._authorize(request)
        raise NotFound

    async def manifest(self, request: Request, name: ImageName, reference: Tag | Digest) -> bytes:
        """Answer with a manifest; an image that does not exist yet is built."""
        if ":" not in reference:
            tag = Tag(reference)
            if is_referrers_tag(tag):
                return await self._manifest_by_referrers_tag(request, name, tag)
            await self._admit(request, name)
            return await self._manifest_by_tag(request, name, tag)
        digest = Digest(reference)
        if not await self._admit(request, name, digest):
            raise ManifestUnknown(name=name.repository, digest=digest)
        return self._manifest(request, await self._manifests.get(name, digest))

    async def blob(self, request: Request, name: ImageName, digest: Digest) -> bytes | None:
        """Answer with a blob, or with a part of it."""
        if not await self._admit(request, name, digest):
            raise BlobUnknown(digest=digest)
        try:
            return await self._blob(request, digest)
        except BlobUnknown:
            self._manifests.invalidate_checks()
            self._images.invalidate_checks()
            raise

    def _authorize(self, request: Request, name: ImageName | None = None) -> None:
        if self._guard is not None:
            self._guard.authorize(request, name)

    async def _admit(self, request: Request, name: ImageName, digest: Digest | None = None) -> bool:
        """
        Check that the client may pull an image, and that its packages are served at all.

        :return: false if the digest is of no image that the client may pull: the request is
            answered as if there were no such digest.
        """
        if self._guard is not None:
            self._guard.authorize(request, name)
            if digest is not None and not await self._guard.may_read_digest(request, name, digest):
                return False
        self._rules.check(name)
        return True

    async def _manifest_by_tag(self, request: Request, name: ImageName, tag: Tag) -> bytes:
        if is_cross_site(request, self._hosts):
            raise CrossSiteRequest
        is_head = request.method == b"HEAD"
        agent = request.getHeader(b"User-Agent")
        try:
            image = await self._pull_waiter.wait_for_image(
                agent, name, tag, self._images.get_image(name, tag, is_head=is_head)
            )
        except NixeryError as error:
            build_url = self._pull_waiter.build_url(name, tag, error)
            # The answer to HEAD has no body that would tell them.
            if isinstance(error, PackagesRefused) and not is_head:
                error = await self._with_candidates(request, error)
            if build_url is None:
                raise error from None
            raise FailedPull(error=error, build_url=build_url) from error
        if self._guard is not None:
            self._guard.record_pull(request, name, image)
        accepted = accepted_types(request.requestHeaders.getRawHeaders(b"Accept", []))
        check_readable(image, agent, accepted)
        manifest = image.choose_manifest(accepted)
        set_headers(request, {b"Vary": b"Accept"})
        self._manifests.keep(manifest)
        if isinstance(image, ImageIndex):
            for named in image.named_manifests(manifest):
                self._manifests.keep(named)
        return self._manifest(request, manifest)

    async def _manifest_by_referrers_tag(
        self, request: Request, name: ImageName, tag: Tag
    ) -> bytes:
        digest, suffix = parse_referrers_tag(tag)
        manifest = None
        if await self._admit(request, name, digest):
            manifest = await find_by_suffix(self._referrers, name, digest, suffix)
        if manifest is None:
            return send_error(request, NO_REFERRERS)
        self._manifests.keep(manifest)
        return self._manifest(request, manifest)

    async def _with_candidates(self, request: Request, error: PackagesRefused) -> PackagesRefused:
        """Return the error with those names that may have been meant and the client may see."""

        def may_see(candidate: str) -> bool:
            return self._guard is None or self._guard.may_see(
                request, parse_image_name(candidate, system="")
            )

        found = await self._images.find_candidates(error)
        problems = tuple(visible_candidates(problem, may_see) for problem in found.problems)
        return PackagesRefused(problems=problems)

    def _manifest(self, request: Request, manifest: Manifest) -> bytes:
        if answer_unchanged(request, manifest.digest):
            return b""
        identify(request, manifest.digest)
        return answer_with(request, manifest.media_type, manifest.body)

    async def _blob(self, request: Request, digest: Digest) -> bytes | None:
        headers = request.requestHeaders
        ranges = headers.getRawHeaders(b"Range")
        parts: Sequence[ByteRange] = ()
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
                parts = requested_ranges(ranges, request.getHeader(b"If-Range"), digest, info.size)
        await self._sender.send(request, digest, parts)
        return None

    async def tags(self, request: Request, name: ImageName) -> bytes:
        """Answer with the tags of an image, or with a page of them."""
        await self._admit(request, name)
        size, last = _query(request, b"n"), _query(request, b"last")
        if size is not None and not _PAGE_SIZE.fullmatch(size):
            return send_error(request, BAD_PAGE_SIZE)
        tags = list(await self._images.list_tags(name))
        if last is not None:
            after = last.decode("utf-8", "replace")
            tags = [tag for tag in tags if tag > after]
        if size is not None:
            page = tags[: parse_number(size)]
            if page and len(page) < len(tags):
                following = f"/v2/{name.repository}/tags/list?n={len(page)}&last={quote(page[-1])}"
                set_headers(request, {b"Link": f'<{following}>; rel="next"'.encode("ascii")})
            tags = page
        body = json.dumps({"name": name.repository, "tags": tags}).encode("ascii")
        return answer_with(request, "application/json", body)

    async def referrers(self, request: Request, name: ImageName, digest: Digest) -> bytes:
        """Answer with the manifests that refer to another one, or with a page of them."""
        # The specification wants an empty index where there is nothing, and not a 404, which
        # would send clients to look for a tag.
        attachments: Sequence[Attachment] = ()
        size = _query(request, b"n")
        if await self._admit(request, name, digest):
            if size is not None and not _PAGE_SIZE.fullmatch(size):
                return send_error(request, BAD_PAGE_SIZE)
            attachments = await self._referrers.attachments(name, digest)
        return answer_referrers(request, name, digest, attachments, size)


def _query(request: Request, name: bytes) -> bytes | None:
    """Return the value of a query parameter, the last one if there are several."""
    values = request.args.get(name)
    return values[-1] if values else None
