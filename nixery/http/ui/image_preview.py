"""
Serve the page of an image that was never pulled: its packages, its price, and a button that has it
built.

The packages are looked up as those in the box on the start page are, and the price is estimated as
for programs, within the same limits.  Nothing is built.  What takes too long is left out; the work
goes on, and the page is loaded again.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, evolve, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request

from nixery.builds.candidates import visible_candidates
from nixery.builds.views import BuildView, ImageLabel
from nixery.errors import NixeryError
from nixery.http.client_address import client_keys
from nixery.http.error_responses import error_response
from nixery.http.responses import client_disconnected, set_headers
from nixery.http.ui.build_list import standing_failures
from nixery.http.ui.estimate_page import Estimator
from nixery.http.ui.image_facts import KeptBuilds
from nixery.http.ui.image_reference import ImageReferences
from nixery.http.ui.image_views import place
from nixery.http.ui.package_query import PackageQueries, program_of, queries_of
from nixery.http.ui.pages import Pages
from nixery.http.ui.platform_search import PlatformSearch, search_platforms
from nixery.http.ui.preview_contents import (
    PlatformResults,
    PreviewPackage,
    packages_refused,
    preview_packages,
)
from nixery.http.ui.query import argument
from nixery.http.visibility import VisibilityRules
from nixery.image.errors import PackageProblem
from nixery.image.names import (
    ImageName,
    Tag,
    is_referrers_tag,
    meta_packages_first,
)
from nixery.image.packages import LookupResult
from nixery.inspection.errors import ImageNotPulled
from nixery.inspection.estimate import Estimate, Held
from nixery.runtime.background_answers import BackgroundAnswers
from nixery.runtime.deferreds import TimedOut
from nixery.sources.source import Revision

__all__ = ["RESPONSE_SECONDS", "Contents", "ImagePreview", "PriceKey"]

MAX_TYPED_CHARACTERS = 400
"""The most characters of the image that a visitor has."""

RESPONSE_SECONDS = 4.0
"""Seconds for which the page waits for its packages and its price."""

MIN_PRICE_SECONDS = 0.5
"""Seconds for which it waits for its price in any case."""


@frozen(kw_only=True)
class Contents:
    """
    The packages of an image, as they were looked up.

    :param results: for all package requests of its name.
    :param platforms: the same for each platform of an index.
    """

    revision: Revision
    results: Sequence[LookupResult]
    platforms: PlatformResults


@frozen(kw_only=True)
class _Found:
    """
    The packages, as the page shows them.

    :param error: why they are not known, or cannot be used; ``None``: they can.
    :param is_late: whether they are still being looked up.
    """

    revision: str = ""
    packages: Sequence[PreviewPackage] = ()
    program: str = ""
    error: NixeryError | None = None
    is_late: bool = False


PriceKey = tuple[ImageName, Tag, Held | None]
"""The key of a price: the image, and the one that the client has already."""


@frozen(kw_only=True)
class _Price:
    """
    The price, as the page shows it.

    :param having: the image that the visitor has already, as it was typed.
    :param estimate: ``None``: it is not known.
    :param message: why it is not known; empty: it was not asked for, or is late.
    :param is_late: whether it is still being worked out.
    """

    having: str
    estimate: Estimate | None = None
    message: str = ""
    is_late: bool = False


@define(kw_only=True, eq=False)
class ImagePreview:
    """
    Serves pages of images that were never pulled.

    :param pages: renders the pages.
    :param search: looks up packages.
    :param answers: the look-ups that run.
    :param estimator: estimates prices.
    :param prices: the estimates that are being made.
    :param references: parses the name of the image that a visitor has.
    :param clock: for the time that the page waits.
    :param visibility: decides which packages a client may see.
    :param builds: supplies the builds.
    :param shows_builds: whether builds have pages to link.
    """

    _pages: Pages
    _search: PlatformSearch
    _answers: BackgroundAnswers[tuple[ImageName, Tag], Contents]
    _estimator: Estimator
    _prices: BackgroundAnswers[PriceKey, Estimate]
    _references: ImageReferences
    _clock: IReactorTime
    _visibility: VisibilityRules
    _builds: KeptBuilds
    _shows_builds: bool

    async def show(self, request: Request, name: ImageName, tag: Tag) -> bytes | None:
        """Answer a browser with the page of an image that was never pulled."""
        repository = name.repository
        if not self._visibility.may_see(request, repository):
            return self._pages.error(request, 403, "one of these packages is not for you")
        if is_referrers_tag(tag):
            return self._pages.error(request, 404, f"{tag} is the tag of signatures, not of images")
        deadline = self._clock.seconds() + RESPONSE_SECONDS
        found = await self._look_up(request, name, tag)
        running, failed = self._known_builds(repository, tag)
        price = None
        if not (found.is_late or found.error or running):
            price = await self._estimate(request, name, tag, deadline)
        if client_disconnected(request):
            return None
        status = 200
        if found.error is not None:
            problem = error_response(found.error)
            status = problem.status
            set_headers(request, problem.headers)
        body = await self._pages.answer_later(
            request,
            "preview.html",
            status,
            repository=repository,
            tag=tag,
            base=place(f"{repository}:{tag}"),
            found=found,
            price=price,
            message="" if found.error is None else found.error.message,
            running=running,
            failed=failed,
            shows_builds=self._shows_builds,
            clients=self._pages.commands_for(
                repository, tag=tag, systems=name.platforms, program=found.program
            ),
            meta_first=meta_packages_first(repository),
        )
        if body is not None:
            # Without a referrer, a browser also hides the origin of a form that it sends, and the
            # registry could not tell it from one of another site.
            set_headers(request, {b"Referrer-Policy": b"same-origin"})
        return body

    async def _look_up(self, request: Request, name: ImageName, tag: Tag) -> _Found:
        # The user before the address, which is that of the client of a trusted proxy.
        client = client_keys(request)[-1]

        async def work() -> Contents:
            requests = name.package_requests
            own = await self._search.search(client, name.system, requests, tag)
            platforms = await search_platforms(
                self._search, client, name, requests, own.results, tag
            )
            return Contents(revision=own.revision, results=own.results, platforms=platforms)

        try:
            contents = await self._answers.get(client, (name, tag), work, seconds=RESPONSE_SECONDS)
        except TimedOut:
            return _Found(is_late=True)
        except NixeryError as error:
            return _Found(error=error)
        queries = queries_of(name)
        results = [self._visible(request, each) for each in contents.results]
        return _Found(
            revision=contents.revision.label,
            packages=preview_packages(queries, results, contents.platforms, tag),
            program=_program(queries, results),
            error=packages_refused(results, contents.platforms),
        )

    async def _estimate(
        self, request: Request, name: ImageName, tag: Tag, deadline: float
    ) -> _Price:
        typed = argument(request, b"with").strip()[:MAX_TYPED_CHARACTERS]
        client = client_keys(request)[-1]
        try:
            having = Held(*self._references.parse(typed)) if typed else None
            # Answered as one that was never pulled: that it exists is not for this client.
            if having and not self._visibility.may_see(request, having.name.repository):
                raise ImageNotPulled(image=having.label)
            estimate = await self._prices.get(
                client,
                (name, tag, having),
                # The packages are there: no names are near to them.
                lambda: self._estimator.estimate(
                    client, name, tag, having, may_see=lambda _name: False
                ),
                seconds=max(deadline - self._clock.seconds(), MIN_PRICE_SECONDS),
            )
        except TimedOut:
            return _Price(having=typed, is_late=True)
        except NixeryError as error:
            return _Price(having=typed, message=error.message)
        return _Price(having=typed, estimate=estimate)

    def _visible(self, request: Request, result: LookupResult) -> LookupResult:
        """Leave out the candidates that a client may not see."""
        if not isinstance(result.result, PackageProblem):
            return result

        def may_see(candidate: str) -> bool:
            return self._visibility.may_see(request, candidate)

        return evolve(result, result=visible_candidates(result.result, may_see))

    def _known_builds(self, repository: str, tag: Tag) -> tuple[BuildView | None, BuildView | None]:
        """Return the build of an image that runs, and the last one, if that failed."""
        label = ImageLabel(repository, tag)
        builds = [each for each in self._builds.overview() if label in each.labels]
        running = [each for each in builds if not each.state.is_final]
        failed = standing_failures(builds)
        return next(iter(running), None), next(iter(failed), None)


def _program(queries: PackageQueries, results: Sequence[LookupResult]) -> str:
    required = [each for each in results if not each.request.optional]
    return program_of(queries, required) or ""
