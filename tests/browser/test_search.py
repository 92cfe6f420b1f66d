"""The search of packages: while somebody types, and on a page of its own."""

from __future__ import annotations

import json

from selenium.webdriver.common.keys import Keys

from tests.browser.browser import PHONE
from tests.browser.case import BrowserCase
from tests.end_to_end.case import demo_registry
from tests.end_to_end.processes import wait_until


class SearchTests(BrowserCase):
    """The packages of the demo set, once they are listed."""

    def setUp(self) -> None:
        super().setUp()
        registry = demo_registry().registry
        # The list is made after the first use of the package set, when nothing else is done.
        self.assertEqual(200, registry.manifest("hello").status)
        wait_until(
            lambda: json.loads(registry.get("/api/search?q=hello").body)["ready"],
            "the list of packages",
            seconds=300,
        )

    def test_names_are_completed_by_keyboard_while_they_are_typed(self) -> None:
        """Names are completed by the keyboard alone; a pasted command becomes its names."""
        page = self.browser
        self.visit(demo_registry(), "/")
        box = page.find("#packages")
        page.type("#packages", "shell hel")
        page.wait("#suggestions [data-name=hello]", "2.1")
        self.assertEqual("true", box.get_attribute("aria-expanded"))
        self.assertIn("to choose from, in ", page.text("#suggestions-note"))
        page.press(Keys.ARROW_DOWN, Keys.END)
        options = page.find_all("#suggestions [role=option]")
        self.assertEqual("true", options[-1].get_attribute("aria-selected"))
        page.press(Keys.HOME)
        option = page.find("#suggestions [aria-selected=true]")
        self.assertEqual("hello", option.get_attribute("data-name"))
        self.assertEqual(option.get_attribute("id"), box.get_attribute("aria-activedescendant"))
        self.assertEqual([], page.faults())
        page.press(Keys.ENTER)
        chosen = page.find("#chosen")
        self.assertEqual("", box.get_attribute("value"))
        self.assertEqual("shell hello", chosen.get_attribute("value"))
        self.assertFalse(page.find("#suggestions").is_displayed())
        page.wait("#result-packages [data-name=hello][data-status=found]")

        page.type("#packages", "gi")
        page.wait("#suggestions [data-name=git]")
        page.press(Keys.ESCAPE)
        self.assertFalse(page.find("#suggestions").is_displayed())
        self.assertEqual("gi", box.get_attribute("value"))

        page.type("#packages", "docker pull registry.example/shell/tree:latest")
        page.wait("#result-packages [data-name=tree][data-status=found]")
        self.assertEqual("shell hello tree", chosen.get_attribute("value"))
        self.assertIn("packages=shell+hello+tree", page.find("#search-link").get_attribute("href"))

    def test_results_are_added_to_the_chosen_names_without_javascript(self) -> None:
        """Without JavaScript a page of results adds packages to those that were chosen."""
        page = self.browser
        page.screen(PHONE)
        with page.without_scripts():
            self.visit(demo_registry(), "/search?packages=shell")
            page.type("#q", "revision control")
            page.click("#package-search button")
            page.wait("#packages [data-package=git]")
            page.click("#packages [data-package=git] a")
            page.wait("[data-name=git][data-status=found]")
            self.assertEqual("shell git", page.find("#packages").get_attribute("value"))
        self.visit(demo_registry(), "/search?q=lib")
        page.wait("#packages")
        self.assertEqual([], page.faults())
