"""
Serve the index page: an introduction, and a search box for packages.

    /                        the page
    /?packages=git+htop      the same with the results, for browsers without JavaScript
    /api/packages?names=...  the results as JSON

The registry's address on the page is the one in the configuration: the Host header of a
request is not trusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

from attrs import asdict, evolve
from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request

from nixery.builds.candidates import visible_candidates
from nixery.errors import NixeryError
from nixery.http.client_address import client_keys
from nixery.http.error_responses import error_response
from nixery.http.responses import answer_with, client_disconnected, set_headers
from nixery.http.ui.build_list import group_by_cause, standing_failures
from nixery.http.ui.build_streams import Builds
from nixery.http.ui.package_query import (
    MAX_QUERY_CHARACTERS,
    JsonResult,
    PackageQueries,
    describe_results,
    parse_query,
    program_of,
)
from nixery.http.ui.pages import Pages
from nixery.http.ui.platform_search import PlatformSearch, search_platforms
from nixery.http.ui.query import argument
from nixery.http.visibility import AllowAll, VisibilityRules
from nixery.image.errors import PackageProblem
from nixery.image.names import (
    ARCH_META_PACKAGES,
    DEFAULT_PACKAGES,
    SHELL,
)
from nixery.image.packages import LookupResult
from nixery.runtime.deferreds import TimedOut, with_timeout
from nixery.sources.source import Revision

__all__ = ["IndexPage", "PackageSearch"]

REVISION_WAIT_SECONDS = 0.5
"""Seconds for which the page waits for the revision that is served."""

MAX_RECENT_BUILDS = 12
"""The number of builds on the page."""

MAX_RECENT_FAILURES = 5
"""The number of failed builds on the page, with their logs."""


class PackageSearch(PlatformSearch, Protocol):
    """Looks up packages, and the revision of the package set."""

    async def revision(self) -> Revision:
        """Return the revision served now; :raises NixeryError: it cannot be determined."""


class IndexPage:
    """
    Serves the index page, and the requests of its search box.

    :param pages: renders the page.
    :param search: looks up packages.
    :param system: the Nix system of images whose name chooses none.
    :param platforms: the systems of the index that such a name means; empty: it means an image.
    :param clock: for the timeout of the revision, which the page can do without.
    :param builds: supplies the builds to show; ``None``: none are shown.
    :param visibility: decides which builds and packages a client may see.
    """

    def __init__(
        self,
        pages: Pages,
        search: PackageSearch,
        system: str,
        clock: IReactorTime,
        *,
        platforms: Sequence[str] = (),
        builds: Builds | None = None,
        visibility: VisibilityRules | None = None,
    ) -> None:
        self._pages = pages
        self._search = search
        self._system = system
        self._platforms = platforms
        self._clock = clock
        self._builds = builds
        self._visibility = visibility or AllowAll()

    async def index(self, request: Request) -> bytes | None:
        """Answer ``/``."""
        typed = argument(request, b"packages")
        status, found = await self._check(request, typed) if typed else (200, None)
        revision = await self._revision()
        builds = [
            seen
            for build in (() if self._builds is None else self._builds.overview())
            if (seen := build.seen_by(partial(self._visibility.may_see, request))) is not None
        ]
        if client_disconnected(request):
            return None
        # An error in the query is shown on the page, whose own status remains 200.
        return await self._pages.answer_later(
            request,
            "index.html",
            200 if status < 500 else status,
            typed=typed,
            found=found,
            revision=revision,
            system=self._system,
            shell=SHELL,
            always=DEFAULT_PACKAGES,
            systems=ARCH_META_PACKAGES,
            max_typed=MAX_QUERY_CHARACTERS,
            show_builds=self._builds is not None,
            builds=builds[:MAX_RECENT_BUILDS],
            failures=group_by_cause(standing_failures(builds))[:MAX_RECENT_FAILURES],
        )

    async def packages(self, request: Request) -> bytes | None:
        """Answer ``/api/packages``."""
        status, found = await self._check(request, argument(request, b"names"))
        if client_disconnected(request):
            return None
        request.setResponseCode(status)
        set_headers(request, {b"Cache-Control": b"no-store", b"X-Content-Type-Options": b"nosniff"})
        body = json.dumps(found).encode("ascii") + b"\n"
        return answer_with(request, "application/json", body)

    async def _check(self, request: Request, typed: str) -> tuple[int, Mapping[str, object]]:
        """Look up the typed names; :return: a status, and the results or an error as JSON."""
        # The user before the address, which is that of the client of a trusted proxy.
        client = client_keys(request)[-1]
        try:
            queries = parse_query(typed, self._system, self._platforms)
            if queries is None:
                return 400, {**_NOTHING, "error": "type the names of packages: shell git htop"}
            if not self._visibility.may_see(request, queries.name.repository):
                return 403, {**_NOTHING, "error": "one of these packages is not for you"}
            checked = await self._search.search(
                client, queries.name.system, queries.package_requests
            )
            platforms = await search_platforms(
                self._search, client, queries.name, queries.package_requests, checked.results
            )
        except NixeryError as error:
            problem = error_response(error)
            if not client_disconnected(request):
                set_headers(request, problem.headers)
            return problem.status, {**_NOTHING, "error": problem.message}
        results = [self._visible(request, result) for result in checked.results]
        packages: list[JsonResult] = describe_results(queries, results, platforms)
        return 200, {
            "error": None,
            "image": queries.name.repository,
            "system": queries.name.system,
            "revision": checked.revision.label,
            "packages": packages,
            "notice": queries.notice,
            **self._commands(queries, results),
        }

    def _commands(self, queries: PackageQueries, results: Sequence[LookupResult]) -> JsonResult:
        """Return the commands for the image; none if a package is missing."""
        program = program_of(queries, results)
        if program is None:
            return {"commands": None, "clients": []}
        clients = self._pages.commands_for(
            queries.name.repository, systems=queries.name.platforms, program=program
        )
        text = {each.client: each.text for each in clients}
        return {
            "commands": {
                "pull": text["docker"]("pull"),
                "run": text["docker"]("run"),
                "kubernetes": text["kubernetes"]("run"),
            },
            "clients": [asdict(each) for each in clients],
        }

    def _visible(self, request: Request, result: LookupResult) -> LookupResult:
        """Leave out the candidates that a client may not see."""
        if not isinstance(result.result, PackageProblem):
            return result

        def may_see(candidate: str) -> bool:
            return self._visibility.may_see(request, candidate)

        return evolve(result, result=visible_candidates(result.result, may_see))

    async def _revision(self) -> str | None:
        try:
            revision = await with_timeout(
                REVISION_WAIT_SECONDS, self._clock, self._search.revision()
            )
        except (NixeryError, TimedOut):
            return None
        return revision.label


_NOTHING: Mapping[str, object] = {
    "image": None,
    "system": None,
    "revision": None,
    "packages": [],
    "notice": None,
    "commands": None,
    "clients": [],
}
