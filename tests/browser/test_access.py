"""
Tests of the accessibility of the pages: judged by axe, in light and dark, on a desktop
and on a phone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.browser.browser import DESKTOP, PHONE
from tests.browser.case import BrowserCase
from tests.end_to_end.case import watched_registry, watched_set


class AccessTests(BrowserCase):
    def judge(self, paths: Sequence[str]) -> None:
        """Look at pages on both screens."""
        for screen in (DESKTOP, PHONE):
            self.browser.screen(screen)
            for path in paths:
                self.visit(watched_registry(), path)
                if self.browser.find_all("#graph"):
                    self.browser.wait("#graph[data-ready]")
                faults = self.browser.faults()
                self.assertEqual([], faults, f"{path}, {screen}:\n" + "\n".join(faults))

    def test_first_page_by_itself_and_with_the_answer_to_what_was_typed(self) -> None:
        """The first page, by itself and with the answer to what was typed."""
        self.judge(["/", "/?packages=plain+hostile", "/?packages=plian+estate", "/?packages=%3C"])

    def test_list_tells_builds_that_run_failed_and_succeeded(self) -> None:
        """The list of builds, and one that runs, one that failed and one that succeeded."""
        registry = watched_registry().registry
        self.assertEqual(422, registry.manifest("hostile-failing").status)
        self.assertEqual(200, registry.manifest("plain").status)
        with ThreadPoolExecutor(1) as pool:
            pull = pool.submit(registry.manifest, "seen-running")
            try:
                watched_set().wait_for("seen-running")
                listed = json.loads(registry.get("/builds", accept="application/json").body)
                builds = {each["state"]: each["id"] for each in listed["builds"]}
                self.assertLessEqual({"running", "failed", "succeeded"}, set(builds))
                self.judge(
                    [
                        "/builds",
                        "/builds?state=failed&q=a",
                        *(f"/builds/{build_id}" for build_id in builds.values()),
                    ]
                )
            finally:
                watched_set().let("seen-running")
                pull.result()

    def test_list_of_images_large_one_with_answer_its_paths_and_one_that_is_not(self) -> None:
        """The list of images, a large one with an answer, its paths, and some that are not."""
        for image in ("estate", "hostile"):
            self.assertEqual(200, watched_registry().registry.manifest(image).status)
        self.allow("/images/nobody/has:latest", 404)
        self.allow("/Nowhere", 404)
        self.judge(
            [
                "/images",
                "/images/estate:latest?why=part27",
                "/images/estate:latest/paths?q=part2",
                "/images/estate:latest/compare?with=hostile",
                "/images/nobody/has:latest",
                "/images/known/first:latest",
                "/Nowhere",
            ]
        )

    def test_pages_have_code_tables_definitions_and_search(self) -> None:
        """Pages of the documentation, with code, tables and definitions, and its search."""
        self.judge(["/docs/", "/docs/tutorial/", "/docs/api/", "/docs/search/?q=layer"])
