"""Tests for :mod:`nixery.http.ui.search_page`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request

from nixery.builds.package_catalog import CatalogResult
from nixery.errors import NixeryError
from nixery.http.routes import UIHandlers
from nixery.http.ui.search_page import PAGE_SIZE, SearchPage
from nixery.nix.package_finder import Findings, PackageFinder
from nixery.nix.package_index import PackageIndex
from nixery.sources.errors import SourceUnavailable
from nixery.sources.source import Revision, path_revision
from tests.support.http import Connection, make_root
from tests.support.http import Response as HTTPAnswer
from tests.support.pages import BROWSER, make_pages
from tests.unit.nix.test_package_finder import PACKAGES, entry


class FakeCatalog:
    """Has the packages of the tests of the finder."""

    def __init__(self) -> None:
        self.finder: PackageFinder | None = PACKAGES
        self.error: NixeryError | None = None
        self.clients: list[str] = []
        self.next_revision: Revision | None = None

    async def search(
        self,
        client: str,
        query: str,
        *,
        limit: int,
        offset: int = 0,
        may_see: Callable[[str], bool],
    ) -> CatalogResult:
        self.clients.append(client)
        if self.error is not None:
            raise self.error
        findings: Findings | None = None
        if self.finder is not None:
            findings = self.finder.find(
                query, limit=limit, offset=offset, accept=lambda each: may_see(each.attribute)
            )
        return CatalogResult(
            revision=path_revision(Path("/set")),
            findings=findings,
            next_revision=self.next_revision,
        )


class HideOne:
    """Visibility rules that hide one package."""

    def may_see(self, _request: Request, image: str) -> bool:
        return image != "gitui"


class SearchPageTests(SynchronousTestCase):
    """The page, and its JSON."""

    def setUp(self) -> None:
        self.catalog = FakeCatalog()
        pages = make_pages()
        page = SearchPage(pages, self.catalog, HideOne())
        self.root = make_root(ui=UIHandlers(pages=pages, search=page))

    def get(self, path: str, *headers: tuple[str, str]) -> HTTPAnswer:
        return Connection(self.root, Clock()).request("GET", path, *headers)

    def data(self, path: str) -> Any:
        answer = self.get(path)
        self.assertEqual("application/json", answer.header("Content-Type"))
        return json.loads(answer.body)

    def test_searches_are_those_of_the_client(self) -> None:
        """A search takes its turn among those of the client that sent it."""
        self.get("/search?q=git")
        self.data("/api/search?q=git")
        self.assertEqual(["192.0.2.1"] * 2, self.catalog.clients)

    def test_json_has_packages_their_names_in_images_and_the_revision(self) -> None:
        """The JSON has the best packages, what images call them, and the revision."""
        found = self.data("/api/search?q=git&limit=3")
        self.assertTrue(found["ready"])
        self.assertEqual(7, found["total"])
        self.assertEqual(
            ["git", "gitFull", "python3Packages.git"],
            [each["attribute"] for each in found["packages"]],
        )
        self.assertEqual("python3packages.git", found["packages"][2]["name"])
        self.assertEqual(
            {"attribute", "name", "pname", "version", "description", "served"},
            found["packages"][0].keys(),
        )

    def test_names_that_images_cannot_have_are_escaped(self) -> None:
        """Names that images cannot have are escaped, others in lower case, as near names are."""
        names = ("python3Packages.requests", "libsigc++", "_7zz")
        self.catalog.finder = PackageFinder(
            PackageIndex(names=(), entries=tuple(entry(name, "a tool") for name in names))
        )
        found = {
            each["attribute"]: each["name"] for each in self.data("/api/search?q=tool")["packages"]
        }
        self.assertEqual("python3packages.requests", found["python3Packages.requests"])
        self.assertTrue(found["libsigc++"].startswith("attr--"))
        self.assertEqual("7zz", found["_7zz"])

    def test_limits_that_are_no_numbers_are_ignored_and_large_ones_cut(self) -> None:
        """Limits that are no numbers are ignored; large ones are cut."""
        for limit in ("x", "0", "-1", "9" * 5000):
            self.assertEqual(200, self.get(f"/api/search?q=git&limit={limit}").status)

    def test_packages_that_are_not_listed_yet_are_said_so(self) -> None:
        """Before the packages are listed, JSON and page say so."""
        self.catalog.finder = None
        self.assertFalse(self.data("/api/search?q=git")["ready"])
        self.assertIn(b"have not been listed yet", self.get("/search?q=git").body)

    def test_packages_of_an_earlier_revision_are_said_so(self) -> None:
        """While a new revision is listed, JSON and page say whose packages these are."""
        self.assertIsNone(self.data("/api/search?q=git")["next_revision"])
        self.assertNotIn(b"not listed yet", self.get("/search?q=git").body)
        self.catalog.next_revision = path_revision(Path("/new"))
        found = self.data("/api/search?q=git")
        self.assertEqual(("/set", "/new"), (found["revision"], found["next_revision"]))
        self.assertIn(
            b"the packages of /set. Those of /new are not listed yet.",
            self.get("/search?q=git").body,
        )

    def test_page_has_links_that_add_packages_to_the_chosen_ones(self) -> None:
        """The page has links that add packages to those that are chosen."""
        body = self.get("/search?q=git&packages=shell", BROWSER).body.decode()
        self.assertIn('href="/?packages=shell%20git"', body)
        self.assertIn("not available", body)
        self.assertNotIn("gitui", body)
        self.assertIn("Distributed version control system", body)

    def test_long_lists_have_pages(self) -> None:
        """Long lists have pages, which keep the query."""
        many = [entry(f"lib{number:03}") for number in range(PAGE_SIZE + 1)]
        self.catalog.finder = PackageFinder(PackageIndex(names=(), entries=tuple(many)))
        body = self.get("/search?q=lib", BROWSER).body.decode()
        self.assertIn("page 1 of 2", body)
        self.assertIn("q=lib&amp;packages=&amp;page=2", body)
        body = self.get("/search?q=lib&page=2", BROWSER).body.decode()
        self.assertIn("lib050", body)
        self.assertNotIn("lib049", body)

    def test_markup_in_a_query_is_text(self) -> None:
        """Markup in a query is shown as text."""
        body = self.get("/search?q=%3Cscript%3E", BROWSER).body
        self.assertNotIn(b"<script>\xe2", body)
        self.assertIn(b"&lt;script&gt;", body)

    def test_source_that_cannot_be_reached_is_an_error(self) -> None:
        """A source that cannot be reached is an error in the JSON, and a page."""
        self.catalog.error = SourceUnavailable(
            source="the source", what="a tag", reason="no answer"
        )
        answer = self.get("/api/search?q=git")
        self.assertEqual(503, answer.status)
        self.assertIn("no answer", json.loads(answer.body)["error"])
        self.assertEqual(503, self.get("/search?q=git", BROWSER).status)
