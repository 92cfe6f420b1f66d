"""
Serve styles, scripts and pictures of the pages from memory.

They are read once, when the daemon starts, and not from disk again.  The path of an asset
contains a digest of all of them, as in ``/static/5f0c2d1e9a/site.css``, so that a browser
can cache it for ever and never mixes old and new ones.  Assets refer to each other by
relative paths (``import "./stream.js"``), which keep the same digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from gzip import compress
from pathlib import Path

from attrs import field, frozen
from twisted.web.server import Request
from werkzeug.exceptions import NotFound

from nixery.http.openapi import DESCRIPTION, read_description
from nixery.http.responses import answer_with, set_headers

__all__ = [
    "STATIC",
    "Asset",
    "Assets",
    "SiteFiles",
    "read_site_files",
]

STATIC = "static"
"""The first path segment of assets."""

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}

_FOR_EVER = b"public, max-age=31536000, immutable"

_PACKED = 1024
"""The smallest size of a text, in bytes, for which a compressed copy is worthwhile."""


@frozen(kw_only=True)
class Asset:
    """
    A file that is served from memory.

    :param media_type: with its charset.
    :param etag: with its quotes.
    :param packed: the same data compressed by gzip; ``None`` where that is not smaller.
    """

    media_type: str
    data: bytes = field(repr=False)
    etag: bytes
    packed: bytes | None = field(repr=False)


class Assets:
    """
    The collection of all assets, and their paths.

    :param files: their bytes, by their names: ``site.css``, ``image/graph.js``.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        digest = hashlib.sha256()
        for name, data in sorted(files.items()):
            digest.update(f"{len(name)} {name} {len(data)} ".encode() + data)
        self.digest = digest.hexdigest()[:12]
        self._assets = {name: _asset(name, data) for name, data in files.items()}

    def url(self, name: str) -> str:
        """
        Return the path of an asset, for a page.

        :raises KeyError: there is no asset of this name: the page's template is wrong.
        """
        if name not in self._assets:
            raise KeyError(name)
        return f"/{STATIC}/{self.digest}/{name}"

    def get(self, name: str) -> Asset | None:
        """Return an asset by its name; ``None`` if there is none."""
        return self._assets.get(name)

    def serve(self, request: Request, digest: str, name: str) -> bytes:
        """
        Answer a request under ``/static``.

        :param digest: of the assets that the client's page belongs to.
        :raises NotFound: there is no such asset.
        """
        # A page of an earlier version, still open in a browser, may request its assets: it
        # gets the present ones, which are not cached under the old digest.
        current = digest == self.digest
        return self._send(request, name, _FOR_EVER if current else b"no-cache")

    def serve_alone(self, request: Request, name: str) -> bytes:
        """Answer a request for an asset under another path, which has no digest."""
        return self._send(request, name, b"max-age=86400")

    def _send(self, request: Request, name: str, cache_control: bytes) -> bytes:
        asset = self._assets.get(name)
        if asset is None:
            raise NotFound
        return send(request, asset, cache_control)

    def __iter__(self) -> Iterator[str]:
        return iter(self._assets)


def send(request: Request, asset: Asset, cache_control: bytes) -> bytes:
    """Answer with an asset."""
    set_headers(
        request,
        {
            b"Cache-Control": cache_control,
            # An SVG file that is opened by itself is a document, and could contain scripts.
            b"Content-Security-Policy": b"default-src 'none'; style-src 'unsafe-inline'",
            b"ETag": asset.etag,
            b"Vary": b"Accept-Encoding",
            b"X-Content-Type-Options": b"nosniff",
        },
    )
    if asset.etag in (request.getHeader(b"If-None-Match") or b""):
        request.setResponseCode(304)
        return b""
    body = asset.data
    if asset.packed is not None and b"gzip" in (request.getHeader(b"Accept-Encoding") or b""):
        body = asset.packed
        set_headers(request, {b"Content-Encoding": b"gzip"})
    return answer_with(request, asset.media_type, body)


@frozen(kw_only=True)
class SiteFiles:
    """
    The templates and assets of the pages.

    :param templates: the templates' texts, by their names.
    """

    templates: Mapping[str, str] = field(repr=False)
    assets: Assets = field(repr=False)


def read_site_files(directory: Path) -> SiteFiles:
    """
    Read templates and assets.  Blocks.

    :param directory: as :func:`nixery.runtime.data_files.web_directory` finds it.
    """
    templates, static = directory / "templates", directory / STATIC
    return SiteFiles(
        templates={name: path.read_text("utf-8") for name, path in _files(templates)},
        assets=Assets(
            {name: path.read_bytes() for name, path in _files(static)}
            | {DESCRIPTION: read_description(directory)}
        ),
    )


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield path.relative_to(directory).as_posix(), path


def _asset(name: str, data: bytes) -> Asset:
    media_type = _TYPES.get(Path(name).suffix, "application/octet-stream")
    packed = None
    if len(data) >= _PACKED and not media_type.startswith(("image/png", "font/")):
        packed = compress(data, 9, mtime=0)
    return Asset(
        media_type=media_type,
        data=data,
        etag=b'"%s"' % hashlib.sha256(data).hexdigest()[:32].encode("ascii"),
        packed=packed if packed is not None and len(packed) < len(data) else None,
    )
