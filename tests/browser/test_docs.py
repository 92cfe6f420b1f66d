"""The documentation that a registry serves."""

from __future__ import annotations

from tests.browser.case import BrowserCase
from tests.end_to_end.case import watched_registry


class DocumentationTests(BrowserCase):
    def test_word_is_looked_for_on_all_pages_and_page_that_has_it_is_click_away(self) -> None:
        """A word is looked for on all pages, and a page that has it is a click away."""
        page = self.browser
        self.visit(watched_registry(), "/")
        page.driver.find_element("link text", "Documentation").click()
        page.wait("main h1")
        page.type("header input[name=q]", "popularity")
        page.click("header form button")
        page.wait("#search-results li a")
        page.until(lambda: "found" in page.find("#search-results").text, "result")
        page.click("#search-results li a")
        page.wait("main h1")
        self.assertIn("popularity", page.text("main").lower())
