"""Pages over the real templates, rendered at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from nixery.http.ui.assets import SiteFiles, read_site_files
from nixery.http.ui.pages import Pages, Section
from nixery.runtime.data_files import web_directory
from nixery.testing.fakes import InlineWorkers

BROWSER = ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")

SECTIONS = (Section("Start", "/"), Section("Builds", "/builds"), Section("Images", "/images"))


@cache
def site_files() -> SiteFiles:
    """Templates and assets, read once."""
    return read_site_files(web_directory())


@cache
def make_pages(
    *,
    address: str = "reg.example:8080",
    source: str = "the tests",
    sections: Sequence[Section] = SECTIONS,
    signed: bool = False,
) -> Pages:
    """Pages as the daemon has them; their templates are compiled once."""
    return Pages(
        site_files(),
        InlineWorkers(),
        address=address,
        source=source,
        sections=sections,
        signed=signed,
    )
