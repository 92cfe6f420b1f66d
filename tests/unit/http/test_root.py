"""The root of what is served."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.static import Data

from nixery.http.root import make_root
from tests.support.http import Connection
from tests.support.pages import BROWSER, make_pages


class SiteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.registry: Resource = Data(b"registry", "text/plain")
        index: Resource = Data(b"index", "text/plain")
        leaf: Resource = Data(b"child", "text/plain")
        self.root = make_root(self.registry, children={"": index, "child": leaf})

    def test_each_part_has_its_place(self) -> None:
        """Each part has its place."""
        for path, body in (("/", b"index"), ("/v2", b"registry"), ("/child", b"child")):
            self.assertEqual(body, Connection(self.root).request("GET", path).body)

    def test_there_is_no_more_not_even_for_paths_that_are_no_text(self) -> None:
        """There is no more, not even for paths that are no text."""
        for path in (b"/x", b"/%ff", b"/v2%2Fx", b"/index.html"):
            answer = Connection(self.root).request("GET", path)
            self.assertEqual((404, b"not found\n"), (answer.status, answer.body), path)
        self.assertEqual(b"", Connection(self.root).request("HEAD", "/x").body)

    def test_root_is_a_404_as_well_if_pages_are_switched_off(self) -> None:
        """The root is a 404 as well if pages are switched off."""
        answer = Connection(make_root(self.registry)).request("GET", "/", BROWSER)
        self.assertEqual((404, b"not found\n"), (answer.status, answer.body))

    def test_missing_page(self) -> None:
        """Browsers get a page that says that there is nothing, other clients a line."""
        root = make_root(self.registry, missing=make_pages().missing())
        answer = Connection(root).request("GET", "/x", BROWSER)
        self.assertEqual(
            (404, "text/html; charset=utf-8"), (answer.status, answer.header("Content-Type"))
        )
        answer = Connection(root).request("GET", "/x")
        self.assertEqual((404, b"there is nothing here\n"), (answer.status, answer.body))
