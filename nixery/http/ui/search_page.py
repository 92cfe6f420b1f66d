"""
Serve the search of packages.

    /search?q=git          a page of results, which needs no JavaScript
    /api/search?q=git      the results as JSON, for the box on the start page, and for tools

A search evaluates nothing: it reads the list of the packages of the revision that is served.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.web.server import Request

from nixery.builds.package_catalog import CatalogResult
from nixery.errors import NixeryError
from nixery.http.client_address import client_keys
from nixery.http.error_responses import error_response
from nixery.http.responses import answer_with, client_disconnected, set_headers
from nixery.http.ui.pages import Pages
from nixery.http.ui.query import argument, number
from nixery.http.visibility import VisibilityRules
from nixery.nix.package_index import IndexEntry
from nixery.nix.suggestions import spell

__all__ = ["PAGE_SIZE", "SearchPage"]

PAGE_SIZE = 50
"""The packages on one page."""

SUGGESTIONS = 10
"""The packages in a response of the API that names no limit."""

MAX_PAGE = 1000
MAX_OFFSET = 10_000

MAX_QUERY_CHARACTERS = 200
"""The length that a query is cut to."""


class PackageCatalog(Protocol):
    """Searches packages."""

    async def search(
        self,
        client: str,
        query: str,
        *,
        limit: int,
        offset: int = 0,
        may_see: Callable[[str], bool],
    ) -> CatalogResult:
        """As :meth:`nixery.builds.package_catalog.PackageCatalog.search`."""


class SearchPage:
    """
    Serves the search of packages.

    :param pages: renders the page.
    :param catalog: searches packages.
    :param visibility: decides which packages a client may see.
    """

    def __init__(self, pages: Pages, catalog: PackageCatalog, visibility: VisibilityRules) -> None:
        self._pages = pages
        self._catalog = catalog
        self._visibility = visibility

    async def show(self, request: Request) -> bytes | None:
        """Answer ``/search``."""
        query, chosen = _query(request), argument(request, b"packages")
        page = max(1, min(number(request, b"page"), MAX_PAGE))
        offset = (page - 1) * PAGE_SIZE
        result = await self._search(request, query, limit=PAGE_SIZE, offset=offset)
        if client_disconnected(request):
            return None
        findings = result.findings
        total = 0 if findings is None else findings.total
        return await self._pages.answer_later(
            request,
            "search.html",
            query=query,
            chosen=chosen,
            revision=result.revision.label,
            next_revision=_next_revision(result),
            ready=findings is not None,
            packages=[] if findings is None else [_described(each) for each in findings.entries],
            total=total,
            page=page,
            last=max(1, -(-total // PAGE_SIZE)),
        )

    async def answer(self, request: Request) -> bytes | None:
        """Answer ``/api/search``."""
        limit = max(1, min(number(request, b"limit", SUGGESTIONS), PAGE_SIZE))
        offset = min(number(request, b"offset", 0), MAX_OFFSET)
        status = 200
        found: Mapping[str, object]
        try:
            result = await self._search(request, _query(request), limit=limit, offset=offset)
        except NixeryError as error:
            problem = error_response(error)
            if client_disconnected(request):
                return None
            set_headers(request, problem.headers)
            status = problem.status
            found = {
                "error": problem.message,
                "revision": None,
                "next_revision": None,
                "ready": False,
                "total": 0,
                "packages": [],
            }
        else:
            findings = result.findings
            found = {
                "error": None,
                "revision": result.revision.label,
                "next_revision": _next_revision(result),
                "ready": findings is not None,
                "total": 0 if findings is None else findings.total,
                "packages": [] if findings is None else [*map(_described, findings.entries)],
            }
        if client_disconnected(request):
            return None
        request.setResponseCode(status)
        set_headers(request, {b"Cache-Control": b"no-store", b"X-Content-Type-Options": b"nosniff"})
        return answer_with(request, "application/json", json.dumps(found).encode("ascii") + b"\n")

    async def _search(
        self, request: Request, query: str, *, limit: int, offset: int
    ) -> CatalogResult:
        def may_see(name: str) -> bool:
            return self._visibility.may_see(request, name)

        # The user before the address, which is that of the client of a trusted proxy.
        client = client_keys(request)[-1]
        return await self._catalog.search(
            client, query, limit=limit, offset=offset, may_see=may_see
        )


def _next_revision(result: CatalogResult) -> str | None:
    return None if result.next_revision is None else result.next_revision.label


def _described(entry: IndexEntry) -> Mapping[str, object]:
    return {
        "attribute": entry.attribute,
        "name": spell(entry.attribute.split(".")),
        "pname": entry.pname,
        "version": entry.version,
        "description": entry.description,
        "served": entry.served,
    }


def _query(request: Request) -> str:
    return argument(request, b"q")[:MAX_QUERY_CHARACTERS].strip()
