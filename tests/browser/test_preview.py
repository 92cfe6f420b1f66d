"""The page of an image that was never pulled: from its name in the address bar to its contents."""

from __future__ import annotations

from selenium.webdriver.common.keys import Keys

from tests.browser.browser import PHONE
from tests.browser.case import BrowserCase
from tests.end_to_end.case import watched_registry, watched_set
from tests.end_to_end.daemon import Daemon


class PreviewTests(BrowserCase):
    def test_name_of_an_image_leads_to_its_build_and_its_contents(self) -> None:
        """
        By keyboard, without JavaScript and on a phone in the dark, the name of an image leads to
        its preview, to its build and to its page; afterwards it leads to its page.
        """
        page, registry = self.browser, watched_registry()
        page.screen(PHONE)
        self.visit(registry, "/known/seen-preview")
        page.wait("#packages-table [data-package=seen-preview]", "A package of the tests")
        self.assertEqual([], page.faults())
        page.wait("#price ~ dl .state", "to be built")
        page.wait("#price ~ dl", "seen-preview-1.0")
        self.assertEqual(0, watched_set().builds("seen-preview"), "a GET has built it")
        with page.without_scripts():
            self.visit(registry, "/known/seen-preview")
            page.wait("#packages-table [data-package=known]")
            page.find("#build-button").send_keys(Keys.ENTER)
            page.wait("#build[data-state=running] #log", "the first line of seen-preview")
            self.visit(registry, "/known/seen-preview")
            page.find("#running a").send_keys(Keys.ENTER)
            watched_set().let("seen-preview")
            page.wait("#build[data-state=succeeded]")
            page.find("#image-link").send_keys(Keys.ENTER)
            page.wait("#packages-table [data-package=seen-preview]")
            digest = page.text("#digest")
            self.visit(registry, "/known/seen-preview")
            self.assertEqual(digest, page.text("#digest"))
        self.assertEqual(200, registry.registry.manifest("seen-preview/known").status)
        self.assertEqual(1, watched_set().builds("seen-preview"))

    def test_page_that_was_too_early_loads_itself_again_until_it_is_complete(self) -> None:
        """A page that could not wait for Nix appears at once, and has the rest after a while."""
        preview = "nixery.http.ui.image_preview"
        daemon = Daemon(
            watched_set().path,
            name="late",
            constants={f"{preview}.RESPONSE_SECONDS": 0.0, f"{preview}.MIN_PRICE_SECONDS": 0.0},
        ).start()
        self.addCleanup(daemon.stop)
        page = self.browser
        self.visit(daemon, "/known/first")
        page.wait("#price ~ dl .state", "to be built")
        page.find("#packages-table [data-package=first]")
        kind = page.run("return performance.getEntriesByType('navigation')[0].type")
        self.assertEqual("reload", kind)
