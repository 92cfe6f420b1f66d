"""The page that compares two images."""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from nixery.http.routes import UIHandlers
from nixery.http.ui.comparison_page import ComparisonPage
from nixery.http.ui.image_pages import ImagePages
from nixery.image.manifests import Manifest
from nixery.inspection.comparison import Comparison, compare_images
from nixery.inspection.image_list import EarlierImage
from nixery.inspection.page_data import make_page_data
from nixery.inspection.report import ImageReport
from nixery.inspection.report_file import encode_report
from nixery.layers.partial_pull import PartialPull
from nixery.runtime.clocks import WallTime
from nixery.testing.fakes import InlineWorkers
from tests.support.http import Connection, Response, make_root
from tests.support.inspection import digest, report_of
from tests.support.pages import BROWSER, make_pages
from tests.unit.http.ui.test_image_pages import HOSTILE, FakeCatalog, Tags, Veil, listed

PAGE = "/images/shell/git:latest/compare"
JSON = ("Accept", "application/json")


class FakeComparer:
    """Compares reports; partial pulls are as they are given."""

    def __init__(self, catalog: FakeCatalog) -> None:
        self.catalog = catalog
        self.partial: dict[str, Any] = {"partial": None}

    async def compare(self, old: Manifest, new: Manifest) -> Comparison:
        reports = [(await self.catalog.page_data(each)).report for each in (old, new)]
        return evolve(compare_images(*reports), **self.partial)


class ComparisonPageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.catalog, self.veil = FakeCatalog(), Veil()
        self.comparer = FakeComparer(self.catalog)
        pages = make_pages()
        ui = UIHandlers(
            pages=pages,
            images=ImagePages(self.catalog, pages, InlineWorkers(), self.veil),
            comparison=ComparisonPage(
                self.catalog, self.comparer, pages, self.veil, system="x86_64-linux"
            ),
        )
        self.connection = Connection(make_root(ui=ui))
        old = report_of(
            {"git-2.40": 40_000_000, "perl-5.38": 9_000_000, "glibc-2.38": 30_000_000},
            {"git-2.40": ["perl-5.38", "glibc-2.38"]},
        )
        new = report_of(
            {"git-2.41": 41_000_000, "curl-8.5": 3_000_000, "glibc-2.38": 30_000_000},
            {"git-2.41": ["curl-8.5", "glibc-2.38"]},
        )
        self.add("shell/git", "v1", evolve(old, digest=digest("old")))
        self.new = evolve(new, digest=digest("new"))
        self.add("shell/git", "latest", self.new)

    def add(self, repository: str, tag: str, report: ImageReport) -> None:
        self.catalog.page_data_of[repository, tag] = make_page_data(encode_report(report))
        self.catalog.images.append(listed(repository, report, tag=tag))

    def ask(self, path: str, *headers: tuple[str, str]) -> Response:
        return self.connection.request("GET", path, *(headers or (BROWSER,)))

    def page(self, query: str = "?with=shell/git:v1", status: int = 200) -> str:
        answer = self.ask(PAGE + query)
        self.assertEqual(status, answer.status, answer.body)
        return answer.body.decode("utf-8")

    def test_packages_and_layers_are_compared(self) -> None:
        """The page tells packages and layers, and leads to both images and the other way round."""
        text = self.page()
        tags = Tags(text)
        rows = [each.get("data-package") for tag, each in tags.found if tag == "tr"]
        self.assertEqual(["git", "curl", "perl"], [each for each in rows if each])
        for element in ("updated", "added", "removed"):
            self.assertIn(f'<table id="{element}">', text)
        new = sum(
            layer.size for layer in self.new.layers if not layer.title.startswith(("glibc", "root"))
        )
        self.assertEqual(str(new), tags.attribute("new-layers", "data-bytes"))
        links = [each.get("href") for tag, each in tags.found if tag == "a"]
        for link in (
            "/images/shell/git:latest",
            "/images/shell/git:v1",
            "/images/shell/git:v1/compare?with=shell/git%3Alatest",
        ):
            self.assertIn(link, links)

    def test_partial_pulls_are_told_as_far_as_they_are_known(self) -> None:
        """The page tells what a partial pull fetches, or why there is none."""
        self.assertIn("not known", self.page())
        partial = PartialPull(tables=1000, files=20_000, chunks=3000, new_files=2, all_files=90)
        self.comparer.partial = {"partial": partial, "chunked": 2, "held_chunked": True}
        tags = Tags(self.page())
        self.assertEqual("21000", tags.attribute("partial", "data-bytes"))
        self.assertEqual("4000", tags.attribute("partial", "data-reflink-bytes"))
        self.assertIn("2 of 90 files are new", self.page())
        self.assertNotIn("Nothing can be reused", self.page())
        self.comparer.partial = {"partial": partial, "chunked": 2, "held_chunked": False}
        self.assertIn("Nothing can be reused", self.page())
        self.comparer.partial = {"partial": PartialPull(whole=5), "chunked": 0}
        self.assertIn("not possible", self.page())

    def test_equal_images_have_nothing_to_download(self) -> None:
        """An image does not differ from itself."""
        text = self.page("?with=shell/git")
        self.assertEqual("0", Tags(text).attribute("new-layers", "data-bytes"))
        self.assertIn('id="packages-same"', text)
        self.assertNotIn('id="partial"', text)

    def test_programs_get_data(self) -> None:
        """Programs get the same in JSON."""
        partial = PartialPull(tables=1, files=2, chunks=1, whole=3, new_files=4, all_files=5)
        self.comparer.partial = {"partial": partial, "chunked": 2, "held_chunked": True}
        value = json.loads(self.ask(f"{PAGE}?with=shell/git:v1", JSON).body)
        self.assertEqual({"name": "shell/git", "tag": "v1", "digest": digest("old")}, value["with"])
        self.assertEqual(self.new.digest, value["image"]["digest"])
        packages = value["packages"]
        self.assertEqual(
            [{"name": "git", "old": ["2.40"], "new": ["2.41"], "size": 41_000_000}],
            packages["updated"],
        )
        self.assertEqual(["curl"], [each["name"] for each in packages["added"]])
        self.assertEqual(
            (["perl"], 1),
            ([each["name"] for each in packages["removed"]], packages["unchanged_paths"]),
        )
        self.assertEqual(
            sum(each["size"] for each in value["layers"]["new"]), value["layers"]["new_size"]
        )
        self.assertEqual(
            {
                "chunked_layers": 2,
                "size": 6,
                "size_with_reflinks": 5,
                "tables": 1,
                "whole_layers": 3,
                "new_files": 4,
                "files": 5,
            },
            value["partial_pull"],
        )

    def test_packages_that_are_not_known_are_told_so(self) -> None:
        """Packages of an image without a report are not known; layers are."""
        self.catalog.page_data_of["large", "latest"] = make_page_data(
            encode_report(evolve(self.new, digest=digest("large")), limit=0)
        )
        self.assertIn('id="packages-unknown"', self.page("?with=large"))
        value = json.loads(self.ask(f"{PAGE}?with=large", JSON).body)
        self.assertEqual((None, None), (value["packages"], value["partial_pull"]))

    def test_image_that_is_not_known_or_not_seen_is_a_404(self) -> None:
        """Images that were not pulled, and those that the client may not see, are alike."""
        self.add("secret", "latest", evolve(self.new, digest=digest("s")))
        self.veil.hidden.add("secret")
        answers = []
        for name in ("secret", "absent"):
            page = self.page(f"?with={name}", 404)
            self.assertIn(f"{name}:latest has not been pulled", page)
            self.assertNotIn('value="secret:latest">', page)
            for path in (f"{PAGE}?with={name}", f"/images/{name}:latest/compare?with=shell/git"):
                answer = self.ask(path, JSON)
                self.assertEqual(404, answer.status)
                answers.append(answer.body.replace(name.encode(), b"NAME"))
        self.assertEqual(answers[:2], answers[2:])

    def test_without_another_image_there_is_a_form(self) -> None:
        """Browsers get a form with similar images, programs an error."""
        text = self.page("")
        self.assertIn('<option value="shell/git:v1">', text)
        self.assertEqual("compare-images", Tags(text).attribute("compare-with", "list"))
        self.assertEqual(400, self.ask(PAGE, JSON).status)
        self.assertIn('action="/images/shell/git:latest/compare"', self.image_page())

    def test_earlier_images_of_a_tag_are_one_step_away(self) -> None:
        """The image and its comparisons link to the images that the tag has meant before."""
        image = self.catalog.images.pop()
        earlier = EarlierImage(digest=digest("old"), first_served=WallTime(1_600_000_000))
        self.catalog.images.append(evolve(image, earlier=(earlier,)))
        link = f"{PAGE}?with=shell/git@{earlier.digest}"
        for text in (self.image_page(), self.page()):
            self.assertIn(link, [each.get("href") for _, each in Tags(text).found])
            self.assertIn("2020-09-13 12:26:40", text)
        value = json.loads(self.ask("/images/shell/git:latest", JSON).body)
        self.assertEqual([{"digest": earlier.digest, "served": 1_600_000_000}], value["earlier"])

    def image_page(self) -> str:
        return self.ask("/images/shell/git:latest").body.decode()

    def test_page_of_an_image_suggests_similar_images_that_may_be_seen(self) -> None:
        """Other tags come first, then images with the most shared bytes; hidden ones never."""
        for name in ("z", "secret"):
            self.add(name, "latest", evolve(self.new, digest=digest(name)))
        self.veil.hidden.add("secret")
        links = [
            each.get("href") or ""
            for tag, each in Tags(self.image_page()).found
            if tag == "a" and "compare?" in (each.get("href") or "")
        ]
        self.assertEqual(
            # The other tag is linked on the first screen, too.
            [
                f"{PAGE}?with=shell/git%3Av1",
                f"{PAGE}?with=shell/git%3Av1",
                f"{PAGE}?with=z%3Alatest",
            ],
            links,
        )

    def test_name_may_be_pasted_with_the_registry(self) -> None:
        """The registry's address before a name is understood, and latest is the default tag."""
        self.page("?with=reg.example:8080/shell/git:v1")
        self.page("?with=%20shell/git%20")

    def test_image_whose_tag_has_moved_on_is_named_by_its_digest(self) -> None:
        """A digest finds what was served for its name, and nothing of hidden names."""
        old = self.catalog.page_data_of.pop(("shell/git", "v1")).report
        self.catalog.page_data_of["shell/git", old.digest] = make_page_data(encode_report(old))
        query = f"?with=shell/git:latest@{old.digest}"
        tags = Tags(self.page(query))
        self.assertIn("updated", {each.get("id") for _, each in tags.found})
        self.assertFalse([each for _, each in tags.found if each.get("id") == "compare-swap"])
        value = json.loads(self.ask(PAGE + query, JSON).body)
        self.assertEqual({"name": "shell/git", "tag": None, "digest": old.digest}, value["with"])
        for other in (f"git@{old.digest}", f"shell/git@{digest('absent')}"):
            self.assertIn("has not been pulled", self.page(f"?with={other}", 404))
        self.assertEqual(400, self.ask(f"{PAGE}?with=shell/git@sha256:1").status)
        self.veil.hidden.add("shell/git")
        self.assertEqual(404, self.ask(PAGE + query, JSON).status)

    def test_names_that_are_none_are_refused(self) -> None:
        """A text that is no image's name is an error, and is escaped."""
        for query, status in {
            "Git": 400,
            "a//b": 400,
            "%22%3E%3Cscript%3Ealert(1)%3C/script%3E": 400,
            "%ff": 400,
            "git:*": 404,
            "a:b:c": 404,
        }.items():
            answer = self.ask(f"{PAGE}?with={query}")
            self.assertEqual(status, answer.status)
            self.assertNotIn(b"<script>alert", answer.body)

    def test_hostile_texts_are_escaped(self) -> None:
        """Titles of layers and names of packages are shown as text."""
        layers = tuple(
            evolve(each, title=HOSTILE, digest=digest(f"x{number}"))
            for number, each in enumerate(self.new.layers)
        )
        bad = evolve(self.new, digest=digest("bad"), layers=layers)
        self.add("shell/git", "latest", bad)
        text = self.page()
        self.assertNotIn("<script>alert", text)
        self.assertNotIn("\u202e", text)
