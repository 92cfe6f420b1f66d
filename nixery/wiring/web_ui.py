"""Makes the pages that the configuration asks for, with all that they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from nixery.builds.candidates import CandidateSearch
from nixery.builds.package_catalog import PackageCatalog
from nixery.builds.package_lookup import PackageLookup, PackageSearch
from nixery.config.config import Config
from nixery.http.hosts import HostRules
from nixery.http.routes import UIHandlers
from nixery.http.ui.assets import read_site_files
from nixery.http.ui.build_button import BuildButton
from nixery.http.ui.build_pages import BuildPages
from nixery.http.ui.comparison_page import ComparisonPage
from nixery.http.ui.documentation import Documentation
from nixery.http.ui.estimate_page import EstimatePage
from nixery.http.ui.image_pages import ImagePages
from nixery.http.ui.image_preview import Contents, ImagePreview, PriceKey
from nixery.http.ui.image_reference import ImageReferences
from nixery.http.ui.index_page import IndexPage
from nixery.http.ui.pages import Pages, Section
from nixery.http.ui.search_page import SearchPage
from nixery.http.visibility import VisibilityRules
from nixery.image.names import ImageName, Tag
from nixery.inspection.catalog import ImageCatalog
from nixery.inspection.estimate import Estimate
from nixery.inspection.estimator import Estimator
from nixery.inspection.image_comparer import ImageComparer
from nixery.limits.package_rules import PackageRules
from nixery.pulls.unattended_pulls import UnattendedPulls
from nixery.runtime.background_answers import BackgroundAnswers
from nixery.runtime.data_files import docs_directory, web_directory
from nixery.runtime.public_address import PublicAddress
from nixery.runtime.startup import Component
from nixery.runtime.workers import Workers
from nixery.sources.interface import Sources
from nixery.wiring.builds import BuildSubsystem

__all__ = ["WebUISubsystem", "make_web_ui"]


@frozen(kw_only=True)
class WebUISubsystem:
    """
    The pages.

    :param shows_builds: true if there are pages of builds, which messages may link to.
    :param make: makes their handlers, which show the address of the registry, and know its names.
    :param components: when they have stopped, nothing goes on that was begun for a page.
    """

    shows_builds: bool
    make: Callable[[PublicAddress, HostRules], UIHandlers | None]
    components: tuple[Component, ...] = ()


def make_web_ui(
    config: Config,
    cpu: Workers,
    files: Workers,
    reactor: Any,  # the global reactor, which has no type
    *,
    builds: BuildSubsystem,
    catalog: ImageCatalog,
    comparer: ImageComparer,
    sources: Sources,
    package_lookup: PackageLookup,
    candidates: CandidateSearch,
    packages: PackageCatalog,
    rules: PackageRules,
    estimator: Estimator,
    visibility: VisibilityRules,
) -> WebUISubsystem:
    """
    Make the pages, as they are configured.

    :param cpu: the pool in which large pages are rendered.
    :param files: the pool for file systems.
    :param builds: makes images for visitors, and tracks all builds.
    :param rules: the packages that are served at all.
    :param package_lookup: looks up names that a user types.
    :param candidates: finds other names for those that do not exist.
    :param packages: searches packages.
    :param estimator: tells the price of images before they are pulled.
    :param visibility: decides which client may see which image.
    :raises ResourceMissing: the installation is incomplete.
    """
    if not config.ui.web_ui:
        return WebUISubsystem(shows_builds=False, make=lambda _address, _hosts: None)
    site_files = read_site_files(web_directory())
    docs = docs_directory()
    sections = [Section("Start", "/")]
    if config.ui.show_builds:
        sections.append(Section("Builds", "/builds"))
    if config.ui.show_images:
        sections.append(Section("Images", "/images"))
    sections.append(Section("Documentation", "/docs/"))

    tracker = builds.tracker
    search = PackageSearch(
        sources=sources,
        package_lookup=package_lookup,
        candidates=candidates,
        seconds=reactor.seconds,
    )
    previews = BackgroundAnswers[tuple[ImageName, Tag], Contents](clock=reactor)
    prices = BackgroundAnswers[PriceKey, Estimate](clock=reactor)
    shown_builds = tracker if config.ui.show_builds else None
    pulls = UnattendedPulls(
        images=builds.images, builds=shown_builds, waiting=tracker.clients.waiting, clock=reactor
    )

    def make(address: PublicAddress, hosts: HostRules) -> UIHandlers:
        pages = Pages(
            site_files,
            cpu,
            address=address.host,
            address_configured=address.configured,
            secure=address.url.startswith("https:"),
            source=config.sources.source.describe(),
            sections=sections,
            signed=config.signing.signing_key is not None,
        )
        index = IndexPage(
            pages,
            search,
            config.sources.system,
            reactor,
            platforms=config.sources.platforms,
            builds=shown_builds,
            visibility=visibility,
        )
        references = ImageReferences(
            address=address.host,
            system=config.sources.system,
            platforms=config.sources.platforms,
        )
        build_pages, images, comparison, button = None, None, None, None
        if config.ui.show_builds:
            build_pages = BuildPages(tracker, reactor, pages, visibility=visibility)
        if config.ui.show_images:
            preview = ImagePreview(
                pages=pages,
                search=search,
                answers=previews,
                estimator=estimator,
                prices=prices,
                references=references,
                clock=reactor,
                visibility=visibility,
                builds=tracker,
                shows_builds=config.ui.show_builds,
            )
            images = ImagePages(
                catalog, pages, cpu, visibility, preview=preview, builds=shown_builds
            )
            button = BuildButton(
                pages=pages,
                pulls=pulls,
                candidates=builds.images,
                visibility=visibility,
                rules=rules,
                hosts=hosts,
            )
            comparison = ComparisonPage(
                catalog,
                comparer,
                pages,
                visibility,
                system=config.sources.system,
                platforms=config.sources.platforms,
            )
        return UIHandlers(
            pages=pages,
            assets=site_files.assets,
            index=index,
            search=SearchPage(pages, packages, visibility),
            estimates=EstimatePage(
                estimator,
                visibility,
                references,
            ),
            builds=build_pages,
            images=images,
            comparison=comparison,
            build_button=button,
            documentation=Documentation(pages, docs, files),
        )

    return WebUISubsystem(
        shows_builds=config.ui.show_builds,
        make=make,
        components=(
            Component(name="previews", stop=previews.stop),
            Component(name="prices", stop=prices.stop),
            Component(name="unattended pulls", stop=pulls.stop),
        ),
    )
