"""The documentation that a registry serves."""

from __future__ import annotations

from tests.browser.case import BrowserCase
from tests.end_to_end.case import watched_registry


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
        page.click(".on-page a[href='#pull-an-image']")
        self.assertIn("#pull-an-image", page.driver.current_url)
        page.driver.find_element("link text", "Images").click()
        page.wait("main h1", "Images")

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
