"""
List every route: which path and method is answered by which handler.

A path that is not listed here is a 404, and so is one of a part that the configuration has
switched off.  HEAD is answered as GET, without the body.  Other methods are a 405.

Paths with converters (``<name:name>``) raise the error of :mod:`nixery.http.converters`
before the handler is called.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from attrs import frozen
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.server import Request

from nixery.http.error_handler import answer_failure
from nixery.http.health import HealthPage
from nixery.http.keys import PublicKeyPage
from nixery.http.metrics import MetricsPage
from nixery.http.openapi import DESCRIPTION
from nixery.http.registry.api import Registry
from nixery.http.router import Router
from nixery.http.token_endpoint import TokenEndpoint
from nixery.http.ui.assets import STATIC, Assets
from nixery.http.ui.build_button import BuildButton
from nixery.http.ui.build_pages import BuildPages
from nixery.http.ui.comparison_page import ComparisonPage
from nixery.http.ui.documentation import Documentation
from nixery.http.ui.estimate_page import EstimatePage
from nixery.http.ui.image_pages import ImagePages
from nixery.http.ui.image_redirects import redirect_to_image, redirect_to_latest
from nixery.http.ui.index_page import IndexPage
from nixery.http.ui.pages import Pages
from nixery.http.ui.search_page import SearchPage
from nixery.image.names import Digest, ImageName, Tag

__all__ = ["READ", "Handlers", "UIHandlers", "make_router"]

Body = Coroutine[Deferred[Any], Any, bytes | None]
"""A body that is being made; ``None``: it has been written already."""

READ = ("GET", "HEAD")


@frozen(kw_only=True)
class UIHandlers:
    """
    The handlers of the web UI; ``None``: their paths are a 404.

    :param pages: renders errors for browsers.
    """

    pages: Pages
    assets: Assets | None = None
    index: IndexPage | None = None
    search: SearchPage | None = None
    estimates: EstimatePage | None = None
    builds: BuildPages | None = None
    images: ImagePages | None = None
    comparison: ComparisonPage | None = None
    build_button: BuildButton | None = None
    documentation: Documentation | None = None


@frozen(kw_only=True)
class Handlers:
    """
    All handlers; ``None``: their paths are a 404.

    :param health: tells that the daemon answers at all.
    :param readiness: tells whether it can serve images.
    :param public_key: shows the key that verifies signatures.
    """

    registry: Registry | None = None
    token: TokenEndpoint | None = None
    health: HealthPage | None = None
    readiness: HealthPage | None = None
    public_key: PublicKeyPage | None = None
    metrics: MetricsPage | None = None
    ui: UIHandlers | None = None


def make_router(handlers: Handlers, system: str, platforms: Sequence[str] = ()) -> Router:
    """
    Make the application.

    :param system: the Nix system of images whose name chooses none.
    :param platforms: the systems of the index that such a name means; empty: it means an image.
    """
    router = Router(system, platforms)

    @router.handle_errors
    def fail(request: Any, failure: Failure) -> bytes:  # Klein says an interface for Request
        return answer_failure(request, failure, None if handlers.ui is None else handlers.ui.pages)

    if handlers.registry is not None:
        _route_registry(router, handlers.registry)
    if handlers.token is not None:
        _route_token(router, handlers.token)
    if handlers.health is not None and handlers.readiness is not None:
        _route_health(router, handlers.health, handlers.readiness)
    if handlers.public_key is not None:
        _route_public_key(router, handlers.public_key)
    if handlers.metrics is not None:
        _route_metrics(router, handlers.metrics)
    if handlers.ui is not None:
        _route_ui(router, handlers.ui)
    return router


def _route_registry(app: Klein, registry: Registry) -> None:
    @app.route("/v2", methods=READ)
    @app.route("/v2/", methods=READ)
    def ping(request: Request) -> Body:
        return registry.ping(request)

    @app.route("/v2/_catalog", methods=READ)
    def catalog(request: Request) -> Body:
        return registry.catalog(request)

    @app.route("/v2/<name:name>/tags/list", methods=READ)
    def tags(request: Request, name: ImageName) -> Body:
        return registry.tags(request, name)

    @app.route("/v2/<name:name>/manifests/<reference:reference>", methods=READ)
    def manifest(request: Request, name: ImageName, reference: Tag | Digest) -> Body:
        return registry.manifest(request, name, reference)

    @app.route("/v2/<name:name>/blobs/<digest:digest>", methods=READ)
    def blob(request: Request, name: ImageName, digest: Digest) -> Body:
        return registry.blob(request, name, digest)

    @app.route("/v2/<name:name>/referrers/<digest:digest>", methods=READ)
    def referrers(request: Request, name: ImageName, digest: Digest) -> Body:
        return registry.referrers(request, name, digest)

    @app.route("/v2/<rest:_path>", methods=READ)
    def unknown(request: Request, _path: str) -> Body:
        return registry.unknown(request)


def _route_token(app: Klein, token: TokenEndpoint) -> None:
    @app.route("/token", methods=READ)
    @app.route("/token/", methods=READ)
    def issue(request: Request) -> Body:
        return token.issue(request)

    @app.route("/token", methods=["POST"])
    @app.route("/token/", methods=["POST"])
    def issue_for_form(request: Request) -> Body:
        return token.issue_for_form(request)


def _route_health(app: Klein, health: HealthPage, readiness: HealthPage) -> None:
    @app.route("/healthz", methods=READ)
    def healthz(request: Request) -> Body:
        return health.show(request)

    @app.route("/readyz", methods=READ)
    def readyz(request: Request) -> Body:
        return readiness.show(request)


def _route_public_key(app: Klein, page: PublicKeyPage) -> None:
    @app.route("/keys/nixery.pub", methods=READ)
    def public_key(request: Request) -> Body:
        return page.show(request)


def _route_metrics(app: Klein, page: MetricsPage) -> None:
    @app.route("/metrics", methods=READ)
    def metrics(request: Request) -> Body:
        return page.show(request)


def _route_ui(app: Klein, ui: UIHandlers) -> None:
    if ui.assets is not None:
        _route_assets(app, ui.assets)
    if ui.index is not None:
        _route_index(app, ui.index)
    if ui.search is not None:
        _route_search(app, ui.search)
    if ui.estimates is not None:
        _route_estimates(app, ui.estimates)
    if ui.builds is not None:
        _route_builds(app, ui.builds)
    if ui.images is not None:
        _route_images(app, ui.images)
    if ui.comparison is not None:
        _route_comparison(app, ui.comparison)
    if ui.build_button is not None:
        _route_build_button(app, ui.build_button)
    if ui.documentation is not None:
        _route_documentation(app, ui.documentation)


def _route_assets(app: Klein, assets: Assets) -> None:
    @app.route(f"/{STATIC}/<digest>/<rest:file>", methods=READ)
    def static(request: Request, digest: str, file: str) -> bytes:
        return assets.serve(request, digest, file)

    # Browsers request it without a link to it.
    @app.route("/favicon.ico", methods=READ)
    def favicon(request: Request) -> bytes:
        return assets.serve_alone(request, "favicon.svg")

    # Robots request it without a link to it.
    @app.route("/robots.txt", methods=READ)
    def robots(request: Request) -> bytes:
        return assets.serve_alone(request, "robots.txt")

    @app.route(f"/{DESCRIPTION}", methods=READ)
    def openapi(request: Request) -> bytes:
        return assets.serve_alone(request, DESCRIPTION)


def _route_index(app: Klein, page: IndexPage) -> None:
    @app.route("/", methods=READ)
    def index(request: Request) -> Body:
        return page.index(request)

    @app.route("/api/packages", methods=READ)
    def packages(request: Request) -> Body:
        return page.packages(request)


def _route_search(app: Klein, page: SearchPage) -> None:
    @app.route("/search", methods=READ)
    def search(request: Request) -> Body:
        return page.show(request)

    @app.route("/api/search", methods=READ)
    def search_data(request: Request) -> Body:
        return page.answer(request)


def _route_estimates(app: Klein, page: EstimatePage) -> None:
    @app.route("/api/estimate/<rest:repository>", methods=READ)
    def estimate(request: Request, repository: str) -> Body:
        return page.answer(request, repository)


def _route_builds(app: Klein, builds: BuildPages) -> None:
    @app.route("/builds", methods=READ)
    @app.route("/builds/", methods=READ)
    def builds_overview(request: Request) -> Body:
        return builds.overview(request)

    @app.route("/builds/events", methods=READ)
    def builds_events(request: Request) -> Body:
        return builds.overview_events(request)

    @app.route("/builds/<build_id>", methods=READ)
    def build(request: Request, build_id: str) -> Body:
        return builds.build(request, build_id)

    @app.route("/builds/<build_id>/log", methods=READ)
    def build_log(request: Request, build_id: str) -> Body:
        return builds.build_log(request, build_id)

    @app.route("/builds/<build_id>/events", methods=READ)
    def build_events(request: Request, build_id: str) -> Body:
        return builds.build_events(request, build_id)

    @app.route("/builds/<rest:_path>", methods=READ)
    def unknown_build(request: Request, _path: str) -> Body:
        return builds.unknown(request)


def _route_images(app: Klein, images: ImagePages) -> None:
    @app.route("/images", methods=READ)
    @app.route("/images/", methods=READ)
    def images_overview(request: Request) -> Body:
        return images.overview(request)

    @app.route("/images/<rest:repository>", methods=READ)
    def image_without_tag(request: Request, repository: str) -> bytes:
        return redirect_to_latest(request, repository)

    @app.route("/images/<image:image>/", methods=READ, strict_slashes=False)
    def image(request: Request, image: tuple[ImageName, Tag]) -> Body:
        return images.image(request, *image)

    # Parts are ``paths``, ``graph.json``, ``graph.svg``, and the documents about the image.
    @app.route("/images/<image:image>/<rest:part>", methods=READ)
    def image_part(request: Request, image: tuple[ImageName, Tag], part: str) -> Body:
        return images.image(request, *image, part)

    # Whatever is no path of the site, and may be a name as in ``docker pull``.
    @app.route("/<rest:_path>", methods=READ)
    def named_image(request: Request, _path: str) -> bytes:
        return redirect_to_image(request)


def _route_comparison(app: Klein, page: ComparisonPage) -> None:
    @app.route("/images/<image:image>/compare", methods=READ)
    def comparison(request: Request, image: tuple[ImageName, Tag]) -> Body:
        return page.show(request, *image)


def _route_build_button(app: Klein, button: BuildButton) -> None:
    @app.route("/images/<image:image>/build", methods=["POST"])
    def build_image(request: Request, image: tuple[ImageName, Tag]) -> Body:
        return button.press(request, *image)


def _route_documentation(app: Klein, documentation: Documentation) -> None:
    @app.route("/docs", methods=READ, defaults={"page": ""})
    @app.route("/docs/", methods=READ, defaults={"page": "index.html"})
    @app.route("/docs/<rest:page>", methods=READ)
    def docs(request: Request, page: str) -> Body:
        return documentation.show(request, page)
