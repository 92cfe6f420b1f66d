"""
Serve the documentation that Sphinx has built, under ``/docs``.

It is read once, at the first request for a page, and stays in memory: a megabyte or two.
Only files that were read then can be served, so that no path reaches another file.

Responses have no Last-Modified.  In a Nix store all files have the same date, and an old
page would be taken for the new one; an ETag from a digest distinguishes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from gzip import compress
from pathlib import Path
from urllib.parse import quote

from twisted.web.server import Request

from nixery.http.responses import client_disconnected, set_headers
from nixery.http.ui.assets import Asset, send
from nixery.http.ui.pages import PAGE_HEADERS, Pages
from nixery.runtime.workers import Workers

__all__ = ["Documentation", "read_documentation"]

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
"""Media types of the files that are served; other files are for Sphinx itself."""

_INDEX = "index.html"

_MISSING = (
    "there is no documentation in this installation: in a checkout, `tox -e docs` builds it"
    " into build/docs, and an installed package brings it along if Sphinx and MyST-Parser were"
    " there when it was built"
)


class Documentation:
    """
    Answers requests under ``/docs``.

    :param pages: renders error pages.
    :param directory: the directory of the built documentation; ``None`` if there is none.
    :param files: the pool in which the documentation is read.
    """

    def __init__(self, pages: Pages, directory: Path | None, files: Workers) -> None:
        self._pages = pages
        self._directory = directory
        self._files = files
        self._tree: Mapping[str, Asset] | None = None

    async def show(self, request: Request, page: str) -> bytes | None:
        """
        Answer with a page, or another file of the documentation.

        :param page: its path below ``/docs/``; empty for ``/docs`` itself.
        """
        if self._directory is None:
            return self._pages.error(request, 404, _MISSING)
        if self._tree is None:
            # Two simultaneous requests both read it; the second result replaces the first.
            self._tree = await self._files.run(read_documentation, self._directory)
            if client_disconnected(request):
                return None
        if f"{page}/{_INDEX}".removeprefix("/") in self._tree:
            # Links within an index page are relative to its directory, which needs the slash.
            return self._redirect(request, page)
        asset = self._tree.get(f"{page}{_INDEX}" if page.endswith("/") else page)
        if asset is None:
            return self._pages.error(request, 404, "the documentation has no such page")
        # Sphinx appends a digest to the URLs of styles and scripts as ``?v=``.
        pinned = page.startswith("_static/") and b"v" in (request.args or {})
        lifetime = b"public, max-age=31536000, immutable" if pinned else b"no-cache"
        body = send(request, asset, lifetime)
        set_headers(request, {**PAGE_HEADERS, b"Cache-Control": lifetime})
        return body

    def _redirect(self, request: Request, page: str) -> bytes:
        location = quote(f"/docs/{page}".rstrip("/") + "/")
        set_headers(request, {b"Location": location.encode("ascii")})
        return self._pages.error(request, 308, f"this page is at {location}")


def read_documentation(directory: Path) -> Mapping[str, Asset]:
    """
    Read all files of the built documentation, by their paths in it.  Blocks.

    :param directory: the root of the built documentation.
    """
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.suffix in _TYPES and path.is_file() and not path.name.startswith("."):
            found[name] = _asset(_TYPES[path.suffix], path.read_bytes())
    return found


def _asset(media_type: str, data: bytes) -> Asset:
    packed = None if media_type == "image/png" else compress(data, 6, mtime=0)
    return Asset(
        media_type=media_type,
        data=data,
        etag=b'"%s"' % hashlib.sha256(data).hexdigest()[:32].encode("ascii"),
        packed=packed if packed is not None and len(packed) < len(data) else None,
    )
