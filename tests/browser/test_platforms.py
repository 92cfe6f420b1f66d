"""Tests of what pages tell of the platforms of a tag."""

from __future__ import annotations

from tests.browser.browser import DESKTOP, PHONE
from tests.browser.case import BrowserCase
from tests.end_to_end.test_platforms import ARCHITECTURES, CLIENTS, FOREIGN, HOST, registry


class PlatformTests(BrowserCase):
    """A registry whose tags are indexes, of which some lack a platform."""

    def test_platforms_of_an_image(self) -> None:
        """The page of an image leads to each platform, and says why one is missing."""
        page, own, foreign = self.browser, ARCHITECTURES[HOST], ARCHITECTURES[FOREIGN]
        for name in ("portable", "native"):
            registry().registry.manifest(name, accept=CLIENTS)
        self.visit(registry(), "/images/portable:latest")
        shown = page.wait("#digest").text
        self.assertEqual(page.text("#platforms [aria-current]"), own)
        page.click(f"#platforms a[href='/images/{foreign}/portable:latest']")
        page.wait("#platforms [aria-current]", foreign)
        self.assertNotEqual(page.text("#digest"), shown)
        self.assertIn(f"/{foreign}/portable:latest", page.text("#docker-pull"))
        self.visit(registry(), "/images/native:latest")
        self.assertIn(f"{foreign} is not available: ", page.text("#platforms"))
        for screen in (DESKTOP, PHONE):
            page.screen(screen)
            self.assertEqual([], page.faults())

    def test_platforms_of_packages(self) -> None:
        """The box says which platforms have a package."""
        page, own, foreign = self.browser, ARCHITECTURES[HOST], ARCHITECTURES[FOREIGN]
        self.visit(registry(), "/")
        page.type("#packages", "portable local")
        page.wait("#result-packages [data-name=portable]", "for amd64, arm64")
        page.wait("#result-packages [data-name=local]", f"for {own}")
        self.assertIn(f"Not for {foreign}: ", page.text("#result-packages [data-name=local]"))
        for screen in (DESKTOP, PHONE):
            page.screen(screen)
            self.assertEqual([], page.faults())
