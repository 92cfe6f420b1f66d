"""The documentation that a registry serves."""

from __future__ import annotations

from tests.browser.browser import Screen
from tests.browser.case import BrowserCase
from tests.end_to_end.case import watched_registry

NARROW = Screen(width=390, height=844, dark=True, touch=True)


class DocumentationTests(BrowserCase):
    """The pages below ``/docs/``."""

    def test_commands_of_a_block_are_copied_without_prompts_and_output(self) -> None:
        """The commands of a block are copied without prompts and output."""
        page = self.browser
        self.visit(watched_registry(), "/docs/tutorial/")
        page.wait("div.highlight-console button[data-copy]")
        block = page.driver.find_element("xpath", "//pre[contains(., 'Hello, world!')]")
        block.find_element("xpath", "..//button").click()
        page.until(lambda: "Copied" in block.find_element("xpath", "..").text, "copy")
        page.click("header input[name=q]")
        page.paste()
        typed = page.run("return document.querySelector('header input[name=q]').value")
        self.assertEqual("docker run --rm localhost:8080/hello hello", typed)

    def test_page_leads_to_its_sections_and_to_the_other_pages_of_the_site(self) -> None:
        """A page leads to its sections, and to the other pages of the site."""
        page = self.browser
        self.visit(watched_registry(), "/docs/tutorial/")
        page.click(".on-page.beside a[href='#pull-an-image']")
        self.assertIn("#pull-an-image", page.driver.current_url)
        page.driver.find_element("link text", "Images").click()
        page.wait("main h1", "Images")

    def test_phone_shows_sections_copies_blocks_and_leads_to_the_site(self) -> None:
        """On a phone, a page unfolds its sections, copies blocks, and leads to the site."""
        page = self.browser
        page.screen(NARROW)
        self.visit(watched_registry(), "/docs/tutorial/")
        page.wait("div.highlight-console button[data-copy]")
        self.assertEqual([], page.faults())
        links = [each.text for each in page.find_all("header nav a") if each.is_displayed()]
        self.assertEqual(["Start", "Builds", "Images", "Documentation"], links)
        page.click(".on-page.folded summary")
        self.assertEqual([], page.faults())
        page.click(".on-page.folded a[href='#pull-an-image']")
        self.assertIn("#pull-an-image", page.driver.current_url)

    def test_sections_are_there_and_the_search_tells_why_it_is_not_without_scripts(self) -> None:
        """Without scripts, pages have their sections, and the search says that it needs scripts."""
        page = self.browser
        page.screen(NARROW)
        with page.without_scripts():
            self.visit(watched_registry(), "/docs/tutorial/")
            page.click(".on-page.folded summary")
            self.assertTrue(page.find(".on-page.folded a[href='#pull-an-image']").is_displayed())
            page.type("header input[name=q]", "popularity")
            page.click("header form button")
            page.wait("main", "needs JavaScript")

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
