"""
Serve the comparison of two images, ``/images/NAME:TAG/compare?with=NAME:TAG``; the other one may
also be named by its digest, ``NAME@sha256:...``, since a tag may have moved on.

It tells what changes for a client that has the image ``with`` and pulls the other one.  An image
that the client may not see is answered as one that was never pulled; nothing is built.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Protocol

from twisted.web.server import Request

from nixery.http.responses import answer_with, client_disconnected, set_headers
from nixery.http.ui.image_reference import ImageReferences
from nixery.http.ui.image_views import place, related_images
from nixery.http.ui.pages import PAGE_HEADERS, Pages, add_vary, wants_html
from nixery.http.ui.query import argument
from nixery.http.visibility import VisibilityRules
from nixery.image.manifests import Manifest
from nixery.image.names import Digest, ImageName, Tag
from nixery.inspection.comparison import Comparison, PackageChange
from nixery.inspection.image_list import EarlierImage, ImageEntry
from nixery.inspection.page_data import PageData

__all__ = ["ComparisonPage"]


class _Catalog(Protocol):
    """Supplies the images that this registry has served."""

    async def find(self, name: ImageName, tag: Tag, system: str = "") -> Manifest | None:
        """Return the manifest last served for a name and a tag; of an index, a system's."""

    async def find_served(self, name: ImageName, digest: Digest, system: str) -> Manifest | None:
        """Return a manifest that was served for a name under any tag; of an index, a system's."""

    async def page_data(self, manifest: Manifest) -> PageData:
        """Return all data for the page of an image."""

    async def earlier_images(self, label: str) -> Sequence[EarlierImage]:
        """Return the images that a tag has meant before, the latest first."""

    async def images_by_layer(self) -> Mapping[Digest, tuple[ImageEntry, ...]]:
        """Return the images that contain each layer, by the layer's digest."""


class _Comparer(Protocol):
    """Compares images."""

    async def compare(self, old: Manifest, new: Manifest) -> Comparison:
        """Compare an image that a client has with one that it pulls."""


class ComparisonPage:
    """
    Serves comparisons.

    :param catalog: supplies the images.
    :param comparer: compares them.
    :param pages: renders the page.
    :param visibility: decides which images a client may see.
    :param system: the Nix system of images whose names choose none.
    :param platforms: the systems of the index that such a name means; empty: it means an image.
    """

    def __init__(
        self,
        catalog: _Catalog,
        comparer: _Comparer,
        pages: Pages,
        visibility: VisibilityRules,
        *,
        system: str,
        platforms: Sequence[str] = (),
    ) -> None:
        self._catalog = catalog
        self._comparer = comparer
        self._pages = pages
        self._visibility = visibility
        self._references = ImageReferences(
            address=pages.address, system=system, platforms=platforms
        )

    async def show(self, request: Request, name: ImageName, tag: Tag) -> bytes | None:
        """
        Answer with the comparison of an image with the one that the query names.

        :raises InvalidName: the query names none.
        :raises InvalidReference: the query has a tag that is none.
        :raises InvalidDigest: the query has a digest that is none.
        """
        new = await self._find(request, name, tag, name.system)
        if new is None:
            return self._unknown(request, f"{name.repository}:{tag}")
        text = argument(request, b"with").strip()
        if not text:
            if not wants_html(request):
                return self._pages.error(request, 400, "say which image to compare: ?with=NAME:TAG")
            return await self._answer(request, name, tag, new)
        other, reference = self._references.parse(text)
        separator = "@" if ":" in reference else ":"
        label = f"{other.repository}{separator}{reference}"
        # Of two indexes, the images for one system are compared.
        old = await self._find(request, other, reference, name.system)
        if old is None:
            if not wants_html(request):
                return self._unknown(request, label)
            return await self._answer(request, name, tag, new, label, status=404)
        comparison = await self._comparer.compare(old, new)
        if client_disconnected(request):
            return None
        if not wants_html(request):
            return _send_json(
                request,
                {
                    "image": _image(name, tag, new),
                    "with": _image(other, None if separator == "@" else reference, old),
                    **_comparison_data(comparison),
                },
            )
        return await self._answer(request, name, tag, new, label, comparison)

    async def _find(
        self, request: Request, name: ImageName, reference: Tag | Digest, system: str
    ) -> Manifest | None:
        """Return the manifest of an image that the client may see; of an index, a system's."""
        if not self._visibility.may_see(request, name.repository):
            return None
        if ":" in reference:
            return await self._catalog.find_served(name, Digest(reference), system)
        return await self._catalog.find(name, Tag(reference), system)

    def _unknown(self, request: Request, label: str) -> bytes | None:
        if client_disconnected(request):
            return None
        return self._pages.error(request, 404, f"{label} has not been pulled from here yet")

    async def _answer(
        self,
        request: Request,
        name: ImageName,
        tag: Tag,
        manifest: Manifest,
        other: str = "",
        comparison: Comparison | None = None,
        *,
        status: int = 200,
    ) -> bytes | None:
        """Answer with the page; without a comparison it has the form alone."""
        page_data = await self._catalog.page_data(manifest)
        holders = await self._catalog.images_by_layer()
        earlier = await self._catalog.earlier_images(f"{name.repository}:{tag}")
        if client_disconnected(request):
            return None
        label = f"{name.repository}:{tag}"
        visible = {
            layer.digest: [
                image
                for image in holders.get(layer.digest, ())
                if self._visibility.may_see(request, image.repository)
            ]
            for layer in page_data.report.layers
        }
        return await self._pages.answer_later(
            request,
            "compare.html",
            status,
            label=label,
            other=other,
            base=place(label),
            # There is no page of an image by its digest.
            other_base="" if "@" in other else place(other),
            repository=name.repository,
            earlier=earlier,
            related=related_images(label, page_data.report, visible),
            comparison=comparison,
        )


def _image(name: ImageName, tag: str | None, manifest: Manifest) -> Mapping[str, str | None]:
    return {"name": name.repository, "tag": tag, "digest": manifest.digest}


def _comparison_data(comparison: Comparison) -> Mapping[str, object]:
    """Return a comparison as JSON, for programs."""
    packages, partial = comparison.packages, comparison.partial
    return {
        "packages": packages
        and {
            "updated": [_change(each) for each in packages.updated],
            "added": [_change(each) for each in packages.added],
            "removed": [_change(each) for each in packages.removed],
            "rebuilt": [_change(each) for each in packages.rebuilt],
            "unchanged_paths": packages.unchanged,
        },
        "layers": {
            "shared": len(comparison.shared),
            "shared_size": comparison.shared_size,
            "new": [
                {"digest": layer.digest, "size": layer.size, "title": layer.title}
                for layer in comparison.new
            ],
            "new_size": comparison.new_size,
        },
        "partial_pull": partial and {"chunked_layers": comparison.chunked, **partial.json()},
    }


def _change(change: PackageChange) -> Mapping[str, object]:
    return {"name": change.name, "old": change.old, "new": change.new, "size": change.size}


def _send_json(request: Request, value: Mapping[str, object]) -> bytes:
    set_headers(request, PAGE_HEADERS)
    add_vary(request)
    return answer_with(request, "application/json", json.dumps(value).encode("ascii") + b"\n")
