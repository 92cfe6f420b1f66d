"""
Serve pages of images under ``/images``.

    /images                              the images that were served, by name
    /images/NAME:TAG                     one of them: packages, layers, closure, digests
    /images/NAME:TAG?why=openssl         and the reason why it contains a path
    /images/NAME:TAG/paths               its store paths, page by page
    /images/NAME:TAG/graph.json          its closure with a layout, for the page's script
    /images/NAME:TAG/graph.svg           the same as a picture
    /images/NAME:TAG/sbom.cdx.json       its bill of materials in CycloneDX
    /images/NAME:TAG/sbom.spdx.json      the same in SPDX
    /images/NAME:TAG/provenance.json     its provenance

These are pages of images that this registry has served.  They do not build an image, query the
package set, or run Nix: a page costs some reads from storage, and work on the CPU pool that is done
once for each image.  Browsers get a preview of any other image
(:mod:`nixery.http.ui.image_preview`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from twisted.web.server import Request

from nixery.artifacts.attachment import Attachment
from nixery.artifacts.document import CYCLONEDX, IN_TOTO, SPDX
from nixery.http.responses import answer_with, client_disconnected, set_headers
from nixery.http.ui.image_facts import KeptBuilds, find_facts, program_of
from nixery.http.ui.image_preview import ImagePreview
from nixery.http.ui.image_views import (
    SORTS,
    PathQuery,
    image_data,
    image_view,
    index_data,
    paths_view,
    place,
)
from nixery.http.ui.layer_list import LAYER_SORTS, LayerQuery
from nixery.http.ui.pages import PAGE_HEADERS, Pages, add_vary, wants_html
from nixery.http.ui.query import argument, number
from nixery.http.visibility import VisibilityRules
from nixery.image.image_index import ImageIndex
from nixery.image.manifests import Manifest
from nixery.image.names import Digest, ImageName, Tag
from nixery.inspection.image_list import EarlierImage, ImageEntry
from nixery.inspection.page_data import PageData
from nixery.runtime.workers import Workers
from nixery.storage.errors import BlobUnknown

__all__ = ["ImagePages", "Catalog"]

DOCUMENTS = {"sbom.cdx.json": CYCLONEDX, "sbom.spdx.json": SPDX, "provenance.json": IN_TOTO}
"""The artifact types of the documents about an image, by their names below its page."""

IMAGES_AT_ONCE = 50
"""The number of images on a page of the list."""

_PICTURE_POLICY = b"default-src 'none'; style-src 'unsafe-inline'"
"""The policy for a picture that is opened by itself: it contains only a style sheet."""


class Catalog(Protocol):
    """Supplies the images that this registry has served."""

    async def list_keys(self) -> Sequence[str]:
        """Return the names of all images, each with its tag, sorted."""

    async def read_entries(self, keys: Sequence[str]) -> Sequence[ImageEntry]:
        """Return the list entries of some images, in the order of their names."""

    async def find(self, name: ImageName, tag: Tag) -> Manifest | None:
        """Return the manifest that was last served for a name and a tag."""

    async def find_index(self, name: ImageName, tag: Tag) -> ImageIndex | None:
        """Return the index that was last served of the packages of a name and a tag."""

    async def page_data(self, manifest: Manifest) -> PageData:
        """Return all data for the page of an image."""

    async def attachments(self, manifest: Manifest) -> tuple[Attachment, ...]:
        """Return the documents about an image."""

    async def read_attachment(self, attachment: Attachment) -> bytes:
        """Return the bytes of a document."""

    async def earlier_images(self, label: str) -> Sequence[EarlierImage]:
        """Return the images that a tag has meant before, the latest first."""

    async def images_by_layer(self) -> Mapping[Digest, tuple[ImageEntry, ...]]:
        """Return the images that contain each layer, by the layer's digest."""


class ImagePages:
    """
    Serves the pages of images.

    :param catalog: supplies the images.
    :param pages: renders the pages.
    :param workers: the pool in which their data is prepared.
    :param visibility: decides which images a client may see.
    :param preview: serves the pages of images that were never pulled; ``None``: they are a 404.
    :param builds: supplies the builds that made them; ``None``: builds are not shown.
    """

    def __init__(
        self,
        catalog: Catalog,
        pages: Pages,
        workers: Workers,
        visibility: VisibilityRules,
        *,
        preview: ImagePreview | None = None,
        builds: KeptBuilds | None = None,
    ) -> None:
        self._catalog = catalog
        self._pages = pages
        self._workers = workers
        self._visibility = visibility
        self._preview = preview
        self._builds = builds

    # -- the list ---------------------------------------------------------------------------

    async def overview(self, request: Request) -> bytes | None:
        """Answer with the list of images."""
        wanted = argument(request, b"q").strip().lower()[:200]
        page = number(request, b"page")
        names = await self._catalog.list_keys()
        total, shown = await self._workers.run(
            _chosen, self._visibility, request, names, wanted, page
        )
        images = await self._catalog.read_entries(shown)
        if client_disconnected(request):
            return None
        if not wants_html(request):
            return _send_json(
                request,
                {
                    "total": total,
                    "images": [
                        {
                            "name": image.repository,
                            "tag": image.tag,
                            "system": image.system,
                            "digest": image.digest,
                            "size": image.size,
                            "layers": len(image.layers),
                            "served": image.first_served,
                            **({"platforms": image.platforms} if image.platforms else {}),
                        }
                        for image in images
                    ],
                },
            )
        return await self._pages.answer_later(
            request,
            "images.html",
            200,
            images=images,
            total=total,
            wanted=wanted,
            page=page,
            pages=max(1, -(-total // IMAGES_AT_ONCE)),
        )

    # -- one image --------------------------------------------------------------------------

    async def image(
        self, request: Request, name: ImageName, tag: Tag, part: str = ""
    ) -> bytes | None:
        """
        Answer with the page of an image, or a part of it.

        :param part: the path below the page, ``graph.svg``; empty: the page itself.
        """
        manifest = None
        if self._visibility.may_see(request, name.repository):
            manifest = await self._catalog.find(name, tag)
        if manifest is None:
            return await self._unknown(request, name, tag, part)
        if part in DOCUMENTS:
            return await self._document(request, manifest, part)
        page_data = await self._catalog.page_data(manifest)
        if client_disconnected(request):
            return None
        match part:
            case "":
                attached = await self._catalog.attachments(manifest)
                types = {each.artifact_type for each in attached}
                documents = [each for each in DOCUMENTS if DOCUMENTS[each] in types]
                return await self._page(request, name, tag, page_data, documents)
            case "paths" if page_data.report.paths:
                return await self._paths(request, name, tag, page_data)
            case "graph.json" if page_data.graph:
                return await self._send(request, "application/json", page_data.graph, page_data)
            case "graph.svg" if page_data.picture:
                return await self._send(request, "image/svg+xml", page_data.picture, page_data)
        return self._nothing_more(request)

    def _nothing_more(self, request: Request) -> bytes:
        return self._pages.error(request, 404, "there is nothing more to see of this image")

    async def _document(self, request: Request, manifest: Manifest, part: str) -> bytes | None:
        """Answer with a document about an image."""
        for attachment in await self._catalog.attachments(manifest):
            if attachment.artifact_type == DOCUMENTS[part]:
                try:
                    body = await self._catalog.read_attachment(attachment)
                except BlobUnknown:
                    break
                if client_disconnected(request):
                    return None
                set_headers(request, PAGE_HEADERS)
                return answer_with(request, "application/json", body)
        return None if client_disconnected(request) else self._nothing_more(request)

    async def _unknown(
        self, request: Request, name: ImageName, tag: Tag, part: str
    ) -> bytes | None:
        if client_disconnected(request):
            return None
        if self._preview is not None and not part and wants_html(request):
            return await self._preview.show(request, name, tag)
        message = f"{name.repository}:{tag} has not been pulled from here yet"
        return self._pages.error(request, 404, message)

    async def _page(
        self,
        request: Request,
        name: ImageName,
        tag: Tag,
        page_data: PageData,
        documents: Sequence[str],
    ) -> bytes | None:
        label = f"{name.repository}:{tag}"
        holders = await self._catalog.images_by_layer()
        earlier = await self._catalog.earlier_images(label)
        index = await self._catalog.find_index(name, tag)
        own = {page_data.report.digest}
        if index is not None:
            own.add(index.manifests[0].digest)
        # The same image under another name is not counted as another image.
        visible = {
            layer.digest: [
                image
                for image in holders.get(layer.digest, ())
                if image.digest not in own and self._visibility.may_see(request, image.repository)
            ]
            for layer in page_data.report.layers
        }
        sort = argument(request, b"sort")
        layer_query = LayerQuery(
            text=argument(request, b"layers")[:200],
            sort=sort if sort in LAYER_SORTS else next(iter(LAYER_SORTS)),
        )
        facts = await find_facts(
            self._catalog, self._builds, self._visibility, request, label, frozenset(own)
        )
        view = await self._workers.run(
            image_view,
            label,
            page_data,
            visible,
            argument(request, b"why"),
            documents,
            layer_query,
        )
        if client_disconnected(request):
            return None
        if not wants_html(request):
            data = image_data(name.repository, tag, view)
            data["earlier"] = [
                {"digest": each.digest, "served": each.first_served} for each in earlier
            ]
            data["served"] = facts.first_served
            data["build"] = facts.build
            data["other_tags"] = facts.other_tags
            if index is not None:
                data["index"] = index_data(name, tag, index)
            return _send_json(request, data)
        named_index = index if name.platforms else None
        digest = page_data.report.digest
        clients = self._pages.commands_for(
            name.repository,
            tag=tag,
            digest=digest if named_index is None else named_index.manifests[0].digest,
            systems=() if named_index is None else tuple(named_index.images),
            program=program_of(name.repository, page_data.report),
        )
        return await self._pages.answer_later(
            request,
            "image.html",
            200,
            clients=clients,
            facts=facts,
            layer_sorts=LAYER_SORTS,
            repository=name.repository,
            tag=tag,
            base=place(label),
            view=view,
            earlier=earlier,
            index=None if index is None else index_data(name, tag, index),
            is_index=bool(name.platforms),
        )

    async def _paths(
        self, request: Request, name: ImageName, tag: Tag, page_data: PageData
    ) -> bytes | None:
        sort = argument(request, b"sort")
        query = PathQuery(
            text=argument(request, b"q")[:200],
            layer=min(number(request, b"layer", 0), len(page_data.report.layers)),
            sort=sort if sort in SORTS else SORTS[0],
            page=number(request, b"page"),
        )
        view = await self._workers.run(paths_view, page_data, query)
        if client_disconnected(request):
            return None
        label = f"{name.repository}:{tag}"
        return await self._pages.answer_later(
            request,
            "imagepaths.html",
            200,
            label=label,
            base=place(label),
            view=view,
            layers=page_data.report.layers,
            sorts=SORTS,
        )

    async def _send(
        self, request: Request, media_type: str, packed: bytes, page_data: PageData
    ) -> bytes | None:
        """Send a compressed document, unchanged to clients that accept gzip."""
        etag = b'"%s"' % page_data.etag.encode("ascii")
        set_headers(
            request,
            {
                **PAGE_HEADERS,
                b"Content-Security-Policy": _PICTURE_POLICY,
                b"ETag": etag,
                b"Vary": b"Accept-Encoding",
            },
        )
        if etag in (request.getHeader(b"If-None-Match") or b""):
            request.setResponseCode(304)
            return b""
        if b"gzip" in (request.getHeader(b"Accept-Encoding") or b""):
            set_headers(request, {b"Content-Encoding": b"gzip"})
            return answer_with(request, media_type, packed)
        plain = await self._workers.run(zlib.decompress, packed, 31)
        return None if client_disconnected(request) else answer_with(request, media_type, plain)


def _chosen(
    visibility: VisibilityRules, request: Request, names: Sequence[str], wanted: str, page: int
) -> tuple[int, Sequence[str]]:
    """Return the number of images whose names contain a text, and the names on one page."""
    found = [
        name
        for name in names
        if wanted in name and visibility.may_see(request, name.rpartition(":")[0])
    ]
    start = (page - 1) * IMAGES_AT_ONCE
    return len(found), found[start : start + IMAGES_AT_ONCE]


def _send_json(request: Request, value: Mapping[str, object]) -> bytes:
    set_headers(request, PAGE_HEADERS)
    add_vary(request)
    return answer_with(request, "application/json", json.dumps(value).encode("ascii") + b"\n")
