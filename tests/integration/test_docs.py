"""The documentation as it was built: what browsers get is safe, whole, and our own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from nixery.runtime.data_files import docs_directory

SITE = {"/", "/builds", "/images"}
"""Pages that are no documentation, and that it leads to."""

LOADED = {"script": "src", "link": "href", "img": "src", "form": "action", "iframe": "src"}
"""Attributes with URLs that a browser fetches, or sends data to, by itself."""

_IMPORT = re.compile(r'^(?:import|export)\b[^"\n]*"(\./[^"]+)";$', re.MULTILINE)
"""A module that a script imports."""


class Page(HTMLParser):
    """The elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, Mapping[str, str]]] = []
        self.inline: list[str] = []
        self.ids: set[str] = set()
        self._within = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if "id" in given:
            self.ids.add(given["id"])
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in {"script", "style"} and data.strip():
            self.inline.append(data)


@cache
def directory() -> Path | None:
    """The documentation's directory: the one built just now, or the installed one."""
    given = os.environ.get("NIXERY_TEST_DOCS")
    return Path(given) if given else docs_directory()


@cache
def read_pages(root: Path) -> Mapping[str, Page]:
    """The pages by their addresses, ``running/``."""
    return {
        path.relative_to(root).as_posix().removesuffix("index.html"): Page(path.read_text("utf-8"))
        for path in sorted(root.rglob("*.html"))
    }


class BuiltTests(SynchronousTestCase):
    """All pages and files."""

    def setUp(self) -> None:
        root = directory()
        if root is None:
            raise SkipTest("the documentation is not built: tox -e docs")
        self.root = root
        self.pages = read_pages(root)

    def test_there_are_the_pages_their_search_index_and_the_start(self) -> None:
        """There are the pages, their search index, and the start."""
        self.assertGreater(len(self.pages), 15)
        for page in ("", "tutorial/", "configuration/", "troubleshooting/", "search/"):
            self.assertIn(page, self.pages)
        index = (self.root / "searchindex.js").read_text("utf-8")
        self.assertIn("troubleshooting", index)

    def test_no_page_needs_what_the_policy_forbids(self) -> None:
        """No page needs what the policy forbids: scripts, styles or handlers within it."""
        for name, page in self.pages.items():
            self.assertEqual([], page.inline, name)
            for tag, given in page.elements:
                self.assertNotEqual("style", tag, name)
                self.assertNotEqual("base", tag, name)
                wrong = [each for each in given if each == "style" or each.startswith("on")]
                self.assertEqual([], wrong, (name, tag, given))
                if tag == "script":
                    self.assertIn("src", given, name)
                self.assertFalse(given.get("href", "").startswith(("javascript:", "data:")), name)

    def test_pages_load_only_files_of_the_documentation_that_exist(self) -> None:
        """All that a page loads comes from the documentation itself, and exists."""
        for name, page in self.pages.items():
            for tag, given in page.elements:
                url = given.get(LOADED.get(tag, ""), "")
                if not url or given.get("rel") in {"next", "prev"}:
                    continue
                parts = urlsplit(url)
                self.assertEqual(("", ""), (parts.scheme, parts.netloc), (name, url))
                self.assertTrue((self.root / name / parts.path).exists(), (name, url))
        imported = 0
        for path in self.root.rglob("*.js"):
            for name in _IMPORT.findall(path.read_text("utf-8")):
                imported += 1
                self.assertTrue((path.parent / name).is_file(), (path.name, name))
        self.assertGreater(imported, 2)
        for path in self.root.rglob("*.css"):
            text = path.read_text("utf-8")
            self.assertNotIn("@import", text, path.name)
            for url in re.findall(r"url\(([^)]*)\)", text):
                target = path.parent / url.strip("\"'")
                self.assertTrue(target.is_file(), (path.name, url))

    def test_links_within_the_documentation_lead_to_a_page_and_to_a_place_on_it(self) -> None:
        """Links within the documentation lead to a page, and to a place on it."""
        seen = 0
        for name, page in self.pages.items():
            for tag, given in page.elements:
                url = given.get("href") if tag == "a" else None
                if url is None or urlsplit(url).scheme in {"http", "https"}:
                    continue
                parts = urlsplit(url)
                if parts.path.startswith("/"):
                    self.assertIn(parts.path, SITE, name)
                    continue
                seen += 1
                base = self.root / name if name.endswith("/") or not name else self.root
                found = (base / unquote(parts.path)).resolve()
                target = found.relative_to(self.root.resolve()).as_posix()
                address = "" if target == "." else f"{target}/"
                self.assertIn(address, self.pages, (name, url))
                if parts.fragment:
                    self.assertIn(unquote(parts.fragment), self.pages[address].ids, (name, url))
        self.assertGreater(seen, 100)

    def test_each_page_leads_to_its_sections_and_to_the_site(self) -> None:
        """Each page links its sections, the other pages of the site, and a search."""
        for name, page in self.pages.items():
            links = [given.get("href", "") for tag, given in page.elements if tag == "a"]
            self.assertLessEqual(SITE, {*links}, name)
            self.assertIn(("form", "search"), [(tag, at.get("role")) for tag, at in page.elements])
            # The first section is the page. Each other one is linked by its heading, in the list
            # above the text, which narrow screens show, and in the one beside it.
            sections = [at["id"] for tag, at in page.elements if tag == "section" and "id" in at]
            for section in sections[1:]:
                self.assertLessEqual(3, links.count(f"#{section}"), (name, section))

    def test_search_says_that_it_needs_scripts(self) -> None:
        """The page of the search says that it needs JavaScript, to browsers without it."""
        text = (self.root / "search" / "index.html").read_text("utf-8")
        (words,) = re.findall(r"<noscript>(.*?)</noscript>", text, re.DOTALL)
        self.assertIn("needs JavaScript", words)
        self.assertIn('href="#contents"', words)

    def test_each_page_has_a_language_and_one_heading(self) -> None:
        """Each page has a language, one heading of the first order, and a text to skip to."""
        for name, page in self.pages.items():
            tags = [tag for tag, _ in page.elements]
            self.assertEqual(1, tags.count("h1"), name)
            # The search's script finds the text by the role, and fails without.
            roles = [given.get("role") for tag, given in page.elements if tag == "main"]
            self.assertEqual(["main"], roles, name)
            self.assertIn(("html", "en"), [(tag, at.get("lang")) for tag, at in page.elements])
            self.assertIn("main", page.ids, name)
            for tag, given in page.elements:
                if tag == "img":
                    self.assertIn("alt", given, name)

    def test_every_page_is_in_the_contents_that_stand_on_every_page(self) -> None:
        """Every page is in the contents that stand on every page."""
        links = {given.get("href", "") for tag, given in self.pages[""].elements if tag == "a"}
        for name in self.pages:
            if name not in {"", "search/"}:
                self.assertIn(name, links)
