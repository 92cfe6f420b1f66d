"""Makes the pages that the configuration asks for, with all that they need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field
from twisted.web.resource import Resource

from nixery.builds.package_lookup import PackageLookup, PackageSearch
from nixery.builds.tracker import BuildTracker
from nixery.config.config import Config
from nixery.http.openapi import DESCRIPTION
from nixery.http.ui.assets import STATIC, AssetResource, AssetsResource, SiteFiles, read_site_files
from nixery.http.ui.build_pages import BuildPages
from nixery.http.ui.documentation import Documentation
from nixery.http.ui.image_pages import ImagePages
from nixery.http.ui.index_page import IndexPage
from nixery.http.ui.pages import Pages, Section
from nixery.http.visibility import AllowAll, VisibilityRules
from nixery.inspection.catalog import ImageCatalog
from nixery.runtime.data_files import docs_directory, web_directory
from nixery.runtime.startup import Component
from nixery.runtime.workers import Workers
from nixery.sources.interface import Sources

__all__ = ["WebUIParts"]


@define(kw_only=True, eq=False)
class WebUIParts:
    """
    The web pages of one daemon.

    :param cpu: the pool in which large pages are rendered.
    :param files: the pool for file systems.
    :param book: tracks the builds.
    :param catalog: the catalog of images.
    :param sources: the package sources.
    :param package_lookup: looks up names that a user types.
    :param visibility: decides which client may see which image.
    """

    config: Config
    cpu: Workers
    files: Workers
    reactor: Any  # the global reactor, which has no type
    book: BuildTracker
    catalog: ImageCatalog
    sources: Sources
    package_lookup: PackageLookup
    visibility: VisibilityRules = field(factory=AllowAll)
    _read: SiteFiles | None = field(default=None, init=False)

    @property
    def shows_builds(self) -> bool:
        """Tell whether there are pages of builds, which messages may link to."""
        return self.config.web_ui and self.config.show_builds

    def parts(self) -> tuple[Component, ...]:
        """Return the components that must start before the pages can be made."""
        # Reports are stored even without pages: they are there when the pages are switched on
        # later.
        notes = Component(name="notes on images", stop=self.catalog.stop)
        return (
            (notes, Component(name="web pages", start=self._start))
            if self.config.web_ui
            else (notes,)
        )

    async def _start(self) -> None:
        """:raises ResourceMissing: the installation is incomplete."""
        self._read = await self.files.run(lambda: read_site_files(web_directory()))

    def children(self, host: str | None) -> tuple[Mapping[str, Resource], Resource | None]:
        """
        Return the resources of the pages, by the first segment of their paths, and the resource for
        unknown paths; nothing if pages are switched off.

        :param host: the host that clients write before an image's name.
        """
        if self._read is None:
            return {}, None
        sections = [Section("Start", "/")]
        if self.config.show_builds:
            sections.append(Section("Builds", "/builds"))
        if self.config.show_images:
            sections.append(Section("Images", "/images"))
        sections.append(Section("Documentation", "/docs/"))
        pages = Pages(
            self._read,
            self.cpu,
            address=host or "localhost",
            source=self.config.source.describe(),
            sections=sections,
        )
        missing = pages.missing()
        children: dict[str, Resource] = {STATIC: AssetsResource(self._read.assets, missing)}
        index = IndexPage(
            pages,
            PackageSearch(
                sources=self.sources,
                package_lookup=self.package_lookup,
                seconds=self.reactor.seconds,
            ),
            self.config.system,
            self.reactor,
            builds=self.book if self.config.show_builds else None,
            visibility=self.visibility,
        )
        children[""] = index.index()
        children["api"] = index.api()
        children["favicon.ico"] = AssetResource(self._read.assets, "favicon.svg", missing)
        children[DESCRIPTION] = AssetResource(self._read.assets, DESCRIPTION, missing)
        if self.config.show_builds:
            children["builds"] = BuildPages(
                self.book, self.reactor, pages, visibility=self.visibility
            )
        if self.config.show_images:
            children["images"] = ImagePages(
                self.catalog, pages, self.cpu, self.visibility, system=self.config.system
            ).resource()
        children["docs"] = Documentation(pages, docs_directory(), self.files).resource()
        return children, missing
