"""
Fixtures that the tests in the browser share: one browser, and the registries of the other tests.
"""

from __future__ import annotations

from tests.browser.browser import DESKTOP, Browser
from tests.end_to_end.case import EndToEndCase, Once
from tests.end_to_end.daemon import Daemon

__all__ = ["BLANK", "BrowserCase", "browser"]

BLANK = "about:blank"

browser = Once(Browser)


class BrowserCase(EndToEndCase):
    """
    A test in the browser.  Whatever it is about, no page complains, and none asks
    another host for anything.
    """

    def setUp(self) -> None:
        super().setUp()
        self.allowed: dict[str, int] = {}
        self.browser = browser()
        self.browser.open(BLANK)
        self.browser.complaints({})
        self.addCleanup(self.check)

    def check(self) -> None:
        """Assert that no page of the test caused a complaint."""
        found = self.browser.complaints(self.allowed)
        self.browser.screen(DESKTOP)
        self.browser.open(BLANK)
        self.assertEqual([], found)

    def allow(self, path: str, status: int) -> None:
        """A request to a path is answered with an error, and that is right."""
        self.allowed[path] = status

    def visit(self, daemon: Daemon, path: str) -> None:
        """Go to a page of a registry."""
        self.browser.open(f"http://{daemon.address}{path}")
