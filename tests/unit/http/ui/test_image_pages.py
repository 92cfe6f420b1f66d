"""The pages of images."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from html import unescape
from html.parser import HTMLParser

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request

from nixery.artifacts.attachment import Attachment, attach_document
from nixery.artifacts.document import CYCLONEDX, IN_TOTO, SPDX, Document
from nixery.http.routes import UIHandlers
from nixery.http.ui.image_pages import DOCUMENTS, IMAGES_AT_ONCE, ImagePages
from nixery.image.image_index import ImageIndex, build_index
from nixery.image.manifests import Image, Manifest
from nixery.image.names import Digest, ImageName, PackageRequest, Tag, parse_image_name
from nixery.inspection.container_settings import ContainerSettings
from nixery.inspection.image_list import EarlierImage, ImageEntry
from nixery.inspection.page_data import PageData, make_page_data, summary_page_data
from nixery.inspection.report import ImageReport, ReportedLicense
from nixery.inspection.report_file import encode_report
from nixery.runtime.clocks import WallTime
from nixery.storage.errors import BlobUnknown
from nixery.testing.fakes import InlineWorkers
from tests.support.http import OCI, Connection, Response, make_root
from tests.support.inspection import digest, report_of
from tests.support.pages import BROWSER, make_pages

HOSTILE = '"><script>alert(1)</script>\u202e'


class FakeCatalog:
    """Portraits by repository name and tag."""

    def __init__(self) -> None:
        self.page_data_of: dict[tuple[str, str], PageData] = {}
        self.images: list[ImageEntry] = []
        self.documents: list[tuple[Attachment, bytes]] = []
        self.indexes: dict[tuple[tuple[PackageRequest, ...], str], ImageIndex] = {}

    async def list_keys(self) -> Sequence[str]:
        return sorted(image.label for image in self.images)

    async def read_entries(self, keys: Sequence[str]) -> Sequence[ImageEntry]:
        return [image for name in keys for image in self.images if image.label == name]

    async def find(self, name: ImageName, tag: Tag, system: str = "") -> Manifest | None:
        page_data = self.page_data_of.get((name.repository, tag))
        return None if page_data is None else evolve(OCI, digest=page_data.report.digest)

    async def find_index(self, name: ImageName, tag: Tag) -> ImageIndex | None:
        return self.indexes.get((tuple(name.package_requests), tag))

    async def find_served(self, name: ImageName, digest: Digest, system: str) -> Manifest | None:
        return await self.find(name, Tag(digest), system)

    async def page_data(self, manifest: Manifest) -> PageData:
        # Several names may mean one image.
        found, *_ = [
            each for each in self.page_data_of.values() if each.report.digest == manifest.digest
        ]
        return found

    async def earlier_images(self, label: str) -> Sequence[EarlierImage]:
        return [each for entry in await self.read_entries([label]) for each in entry.earlier]

    async def attachments(self, manifest: Manifest) -> tuple[Attachment, ...]:
        return tuple(attachment for attachment, _ in self.documents)

    async def read_attachment(self, attachment: Attachment) -> bytes:
        for each, data in self.documents:
            if each == attachment and data:
                return data
        raise BlobUnknown(digest=attachment.blob.digest)

    async def images_by_layer(self) -> Mapping[Digest, tuple[ImageEntry, ...]]:
        holders: dict[Digest, list[ImageEntry]] = {}
        for image in self.images:
            for layer in image.layers:
                holders.setdefault(layer, []).append(image)
        return {layer: tuple(images) for layer, images in holders.items()}


class Veil:
    """Hides some images."""

    def __init__(self) -> None:
        self.hidden: set[str] = set()

    def may_see(self, _request: Request, image: str) -> bool:
        return image not in self.hidden


class Tags(HTMLParser):
    """The elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def attribute(self, element_id: str, name: str) -> str | None:
        [attributes] = [each for _, each in self.found if each.get("id") == element_id]
        return attributes.get(name)


def listed(repository: str, report: ImageReport, *, tag: str = "latest") -> ImageEntry:
    return ImageEntry(
        repository=repository,
        tag=Tag(tag),
        system="x86_64-linux",
        digest=report.digest,
        size=report.size,
        layers=tuple(layer.digest for layer in report.layers),
        first_served=WallTime(1_700_000_000.0),
    )


class PagesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.library = FakeCatalog()
        self.veil = Veil()
        pages = ImagePages(self.library, make_pages(), InlineWorkers(), self.veil)
        self.connection = Connection(make_root(ui=UIHandlers(pages=make_pages(), images=pages)))
        self.report = report_of(
            {"git-2.40": 40_000_000, "curl-8.5": 3_000_000, "glibc-2.38": 30_000_000},
            {"git-2.40": ["curl-8.5"], "curl-8.5": ["glibc-2.38"]},
        )
        self.add("shell/git", self.report)

    def add(self, repository: str, report: ImageReport) -> None:
        self.library.page_data_of[repository, "latest"] = make_page_data(encode_report(report))
        self.library.images.append(listed(repository, report))

    def ask(self, path: str, *headers: tuple[str, str]) -> Response:
        return self.connection.request("GET", path, *(headers or (BROWSER,)))

    def page(self, path: str, status: int = 200) -> str:
        answer = self.ask(path)
        self.assertEqual(status, answer.status, answer.body)
        self.assertEqual("text/html; charset=utf-8", answer.header("Content-Type"))
        text = answer.body.decode("utf-8")
        for tag, attributes in Tags(text).found:
            # The policy of the pages forbids them, and browsers would complain.
            self.assertFalse({"style", "onclick", "onload"} & set(attributes), tag)
            self.assertFalse(tag == "style" or (tag == "script" and "src" not in attributes))
        return text


class SignedTests(PagesCase):
    """Tests of the command that verifies an image."""

    def test_page_of_a_signed_image_says_how_to_verify_it(self) -> None:
        """The page has the command with the image's name where images are signed, only there."""
        self.assertNotIn("cosign", self.page("/images/shell/git:latest"))
        pages = ImagePages(
            self.library,
            make_pages(signed=True),
            InlineWorkers(),
            self.veil,
        )
        self.connection = Connection(make_root(ui=UIHandlers(pages=make_pages(), images=pages)))
        page = self.page("/images/shell/git:latest")
        command = "cosign verify --key nixery.pub --insecure-ignore-tlog=true"
        self.assertIn(f"{command} reg.example:8080/shell/git:latest<", page)
        self.assertIn('href="/keys/nixery.pub"', page)


class IndexTests(PagesCase):
    """Tests of the page of an index, and of those of its platforms."""

    def setUp(self) -> None:
        super().setUp()
        self.index = build_index(
            {"x86_64-linux": Image(manifests=(evolve(OCI, digest=self.report.digest),))},
            "x86_64-linux",
            {"aarch64-linux": f"no builder {HOSTILE}"},
        )
        for name in ("multi/shell/git", "amd64/shell/git"):
            self.add(name, self.report)
        requests = parse_image_name("shell/git", "x86_64-linux").package_requests
        self.library.indexes[requests, "latest"] = self.index

    def test_platforms_lead_to_their_pages(self) -> None:
        """The page leads to those of the platforms, and says why one is missing."""
        for name, pulled in (
            ("multi/shell/git", self.index.manifests[0].digest),
            ("amd64/shell/git", self.report.digest),
        ):
            page = self.page(f"/images/{name}:latest")
            link = {"href": "/images/amd64/shell/git:latest", "aria-current": "true"}
            self.assertIn(("a", link), Tags(page).found)
            self.assertIn("<strong>arm64</strong> is not available: no builder", page)
            self.assertNotIn("<script>alert", page)
            self.assertIn(f"/{name}@{pulled}<", page)

    def test_programs_get_them(self) -> None:
        """Programs get the digests of the index and of its platforms."""
        data = self.ask("/images/multi/shell/git:latest", ("Accept", "application/json")).body
        index = json.loads(data)["index"]
        self.assertEqual(index["digest"], self.index.manifests[0].digest)
        self.assertEqual(
            index["platforms"],
            {"amd64": {"image": "amd64/shell/git:latest", "digest": self.report.digest}},
        )
        self.assertEqual(list(index["skipped"]), ["arm64"])

    def test_index_is_no_other_image(self) -> None:
        """The layers of an image are not counted as shared with the index of it."""
        self.library.images = [
            evolve(listed("x", self.report), digest=self.index.manifests[0].digest)
        ]
        for name, shared in (("amd64/shell/git", []), ("shell/git", ["x:latest"])):
            if shared:
                self.library.indexes.clear()
            answer = self.ask(f"/images/{name}:latest", ("Accept", "application/json"))
            for layer in json.loads(answer.body)["layers"]:
                self.assertEqual(layer["shared_with"], shared)

    def test_list_names_platforms(self) -> None:
        """The list of images says which systems an index has."""
        platforms = ("x86_64-linux", "aarch64-linux")
        self.library.images = [evolve(listed("multi/git", self.report), platforms=platforms)]
        self.assertIn("x86_64-linux, aarch64-linux", self.page("/images"))
        answer = self.ask("/images", ("Accept", "application/json"))
        self.assertEqual(json.loads(answer.body)["images"][0]["platforms"], list(platforms))


class ListTests(PagesCase):
    def test_images_that_were_served_lead_to_their_pages(self) -> None:
        """The images that were served lead to their pages."""
        tags = Tags(self.page("/images"))
        self.assertIn(("a", {"href": "/images/shell/git:latest"}), tags.found)
        self.assertEqual("1", tags.attribute("images", "data-total"))

    def test_page_lists_no_more_than_it_can_hold_and_leads_to_the_next(self) -> None:
        """A page lists no more than it can hold, and leads to the next."""
        for number in range(2 * IMAGES_AT_ONCE):
            self.library.images.append(listed(f"p{number:03}", self.report))
        pages = [Tags(self.page(f"/images?page={number}")) for number in (1, 2, 3, 4)]
        rows = [sum("data-image" in each for _, each in page.found) for page in pages]
        self.assertEqual([IMAGES_AT_ONCE, IMAGES_AT_ONCE, 1, 0], rows)
        for wrong in ("-1", "x", "9" * 50, "%ff"):
            self.assertIn("p000", self.page(f"/images?page={wrong}"))

    def test_part_of_a_name_finds_images_and_is_shown_as_text(self) -> None:
        """A part of a name finds images, and is shown as text."""
        self.library.images.append(listed("hello", self.report))
        self.assertNotIn('data-image="hello', self.page("/images?q=GIT"))
        self.assertNotIn("<script>alert", self.page("/images?q=%22%3E%3Cscript%3Ealert(1)"))

    def test_image_that_the_client_may_not_see_is_not_listed(self) -> None:
        """An image that the client may not see is not listed."""
        self.veil.hidden.add("shell/git")
        self.assertNotIn("shell/git", self.page("/images"))

    def test_programs_get_data_of_images(self) -> None:
        """Programs get data."""
        value = json.loads(self.ask("/images", ("Accept", "*/*")).body)
        self.assertEqual(
            ("shell/git", self.report.digest),
            (value["images"][0]["name"], value["images"][0]["digest"]),
        )


class ImageTests(PagesCase):
    def test_page_tells_sizes_digests_packages_layers_with_reasons(self) -> None:
        """The page tells sizes, digests, packages, layers with reasons, and how to pull."""
        page = self.page("/images/shell/git:latest")
        self.assertIn(f"docker pull reg.example:8080/shell/git@{self.report.digest}", page)
        tags = Tags(page)
        self.assertEqual(str(self.report.size), tags.attribute("size", "data-bytes"))
        self.assertEqual(
            str(self.report.uncompressed_size), tags.attribute("unpacked", "data-bytes")
        )
        for number, layer in enumerate(self.report.layers, start=1):
            self.assertEqual(layer.digest, tags.attribute(f"layer-{number}", "data-digest"))
            self.assertIn(layer.reason, unescape(page))
            self.assertIn(layer.diff_id, page)
            self.assertTrue(
                any(each.get("href") == f"#layer-{number}" for _, each in tags.found), number
            )
        self.assertEqual(
            "/images/shell/git:latest/graph.json", tags.attribute("graph", "data-source")
        )

    def test_first_screen_tells_how_the_image_can_be_used(self) -> None:
        """The page tells programs, environment, user and directory, its time and other tags."""
        page_data = make_page_data(
            encode_report(evolve(self.report, programs=("git", HOSTILE), omitted_programs=2))
        )
        container = ContainerSettings(
            environment=("PATH=/bin", f"X={HOSTILE}"),
            user="root",
            working_directory="/",
            command=("/bin/bash",),
        )
        page_data = evolve(page_data, container=container)
        self.library.page_data_of["shell/git", "latest"] = page_data
        self.library.images.append(listed("shell/git", self.report, tag="stable"))
        page = self.page("/images/shell/git:latest")
        for words in (
            "<code>/bin/bash</code>, unless you name a program, as root in <code>/</code>",
            "<code>PATH=/bin</code>",
            "4 in <code>/bin</code>",
            "<code>git</code>",
            '<a href="/images/shell/git:stable">stable</a>',
            '<time datetime="2023-11-14T22:13:20+00:00" title="2023-11-14 22:13:20 UTC">',
            'compare?with=shell/git%3Astable" aria-label="Compare with stable">',
        ):
            self.assertIn(words, page)
        self.assertNotIn("<script>alert", page)
        value = json.loads(self.ask("/images/shell/git:latest", ("Accept", "*/*")).body)
        self.assertEqual(["git", HOSTILE], value["programs"])
        self.assertEqual("root", value["container"]["user"])
        self.assertEqual(["shell/git:stable"], value["other_tags"])
        self.assertIsNone(value["build"])

    def test_tree_comes_before_a_graph_that_is_too_large_to_be_read(self) -> None:
        """The tree comes after the graph, and before one that is too large to be read."""
        names = [f"p{number:03}" for number in range(201)]
        for count, tree_first in ((200, False), (201, True)):
            report = report_of(dict.fromkeys(names[:count], 5), {})
            self.add("wide", evolve(report, digest=digest(str(count))))
            page = self.page("/images/wide:latest")
            self.assertEqual(tree_first, page.index('id="tree"') < page.index('id="graph"'))
        # The tree is bounded, and the others are listed elsewhere.
        self.assertIn('<a href="/images/wide:latest/paths">1 smaller path</a>', page)

    def test_columns_without_values_are_left_out(self) -> None:
        """A column of the packages is left out if no package has a value for it."""
        heads = 'scope="col">Description</th>', 'class="number">With dependencies</th>'
        bare = evolve(self.report.packages[0], attribute="bare", description="", paths=())
        full = evolve(self.report.packages[0], description="It is described.")
        for packages, shown in (((bare,), False), ((bare, full), True)):
            report = evolve(self.report, digest=digest(str(shown)), packages=packages)
            self.add("git", report)
            page = self.page("/images/git:latest")
            for head in heads:
                self.assertEqual(shown, head in page)

    def test_image_of_an_older_version_tells_nothing_of_programs(self) -> None:
        """Nothing is said of programs and settings that are not known."""
        self.add("old", evolve(self.report, digest=digest("old"), programs=None))
        page = self.page("/images/old:latest")
        self.assertNotIn("Programs", page)
        self.assertNotIn("Environment", page)

    def test_command_runs_a_program_that_is_there(self) -> None:
        """The program to run is called as the package, or is the only one."""
        for programs, words in (
            (("git", "gitk"), " git"),
            (("g",), " g"),
            (("g", "h"), ""),
            (None, " git"),
        ):
            report = evolve(self.report, digest=digest(str(programs)), programs=programs)
            self.add("git", report)
            run = f"docker run --rm -it reg.example:8080/git:latest{words}</code>"
            self.assertIn(run, self.page("/images/git:latest"))

    def layers(self, query: str) -> list[str]:
        tags = Tags(self.page(f"/images/shell/git:latest?{query}"))
        return [
            str(each["id"]).removeprefix("layer-")
            for _, each in tags.found
            if str(each.get("class")).startswith("layer card")
        ]

    def test_layers_are_listed_as_the_query_asks_for(self) -> None:
        """Layers are sorted by position, size or sharing, and found by the paths in them."""
        numbers = range(1, len(self.report.layers) + 1)
        sizes = [layer.size for layer in self.report.layers]
        topmost = [str(number) for number in reversed(numbers)]
        self.assertEqual(topmost, self.layers(""))
        self.assertEqual(topmost, self.layers("sort=__class__"))
        by_size = sorted(numbers, key=lambda number: (-sizes[number - 1], -number))
        self.assertNotEqual(topmost, [*map(str, by_size)])
        self.assertEqual([*map(str, by_size)], self.layers("sort=size"))
        other = report_of({"glibc-2.38": 30_000_000, "hello": 5_000_000}, {"hello": ["glibc-2.38"]})
        self.add("hello", evolve(other, digest=digest("other")))
        shared = next(
            number
            for number in numbers
            if self.report.layers[number - 1].digest in {each.digest for each in other.layers}
        )
        self.assertIn(str(shared), self.layers("sort=sharing")[:2])
        [holder] = self.layers("layers=GLIBC")
        held = self.report.layers[int(holder) - 1].paths
        self.assertIn("glibc-2.38", [self.report.paths[each].name for each in held])
        self.assertEqual([], self.layers("layers=%22%3E%3Cscript%3Ealert(1)"))

    def test_chain_from_what_was_asked_for_is_shown_by_the_server(self) -> None:
        """The chain from what was asked for is shown by the server."""
        page = self.page("/images/shell/git:latest?why=glibc")
        chain = page[page.index('class="chain"') :]
        names = re.findall(r">([a-z]+-[0-9.]+)</a>", chain[: chain.index("</ol>")])
        self.assertEqual(["git-2.40", "curl-8.5", "glibc-2.38"], names)
        self.assertEqual(
            "0",
            Tags(self.page("/images/shell/git:latest?why=perl")).attribute(
                "why-answer", "data-found"
            ),
        )

    def test_question_in_the_url_is_shown_as_text(self) -> None:
        """A question in the URL is shown as text."""
        page = self.page("/images/shell/git:latest?why=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
        self.assertIn("&lt;script&gt;", page)
        self.assertNotIn("<script>alert", page)

    def test_hostile_texts_of_a_report_are_escaped(self) -> None:
        """All texts from a package set are shown as text."""
        hostile = evolve(
            self.report,
            digest=digest("hostile"),
            source=HOSTILE,
            popularity=HOSTILE,
            packages=tuple(
                evolve(each, attribute=HOSTILE, name=HOSTILE, version=HOSTILE, description=HOSTILE)
                for each in self.report.packages
            ),
            layers=tuple(
                evolve(each, title=HOSTILE, reason=HOSTILE) for each in self.report.layers
            ),
        )
        self.add("bad", hostile)
        for path in ("/images/bad:latest", "/images/bad:latest/paths"):
            page = self.page(path)
            self.assertNotIn("<script>alert", page)
            self.assertNotIn("\u202e", page)

    def test_layer_tells_which_other_images_have_it(self) -> None:
        """A layer tells which other images have it, but for those that are hidden."""
        other = report_of({"glibc-2.38": 30_000_000, "hello": 5_000_000}, {"hello": ["glibc-2.38"]})
        self.add("hello", evolve(other, digest=digest("other")))
        shared = self.report.layers[-1].digest  # The root's, in the kit.
        number = len(self.report.layers)
        tags = Tags(self.page("/images/shell/git:latest"))
        self.assertEqual(shared, tags.attribute(f"layer-{number}", "data-digest"))
        self.assertEqual("1", tags.attribute(f"layer-{number}", "data-shared"))
        self.veil.hidden.add("hello")
        page = self.page("/images/shell/git:latest")
        self.assertEqual("0", Tags(page).attribute(f"layer-{number}", "data-shared"))
        self.assertNotIn("hello:latest", page)

    def test_entries_that_are_not_at_the_root_are_listed(self) -> None:
        """The page tells what is not at the root, as text, and programs get it as data."""
        self.assertNotIn("Not at the root", self.page("/images/shell/git:latest"))
        notes = ("/tmp of a is left out", HOSTILE)
        self.add("noted", evolve(self.report, digest=digest("noted"), notes=notes, omitted_notes=3))
        page = self.page("/images/noted:latest")
        for words in ("Not at the root", notes[0], "5 in all", "3 more are not shown"):
            self.assertIn(words, page)
        self.assertNotIn("<script>alert", page)
        answer = self.ask("/images/noted:latest", ("Accept", "application/json"))
        self.assertEqual([*notes], json.loads(answer.body)["notes"])

    def test_image_that_was_not_served(self) -> None:
        """An image that was not served is a 404 for programs, and so are the parts of its page."""
        for path in ("/images/shell/htop:latest", "/images/shell/htop:latest/graph.json"):
            self.assertEqual(404, self.ask(path, ("Accept", "application/json")).status, path)
        missing = self.page("/images/shell/htop:latest/paths", 404)
        self.veil.hidden.add("shell/git")
        hidden = self.page("/images/shell/git:latest/paths", 404)
        self.assertEqual(missing.replace("htop", "git"), hidden, "they differ")

    def test_path_that_can_be_no_name_or_no_tag_is_a_mistake_of_the_clients(self) -> None:
        """A path that can be no name or no tag is a mistake of the client's: 400 or 404."""
        for path in (
            "/images/Shell:latest",
            "/images/a:b:c",
            "/images/%3Cscript%3E:x",
            "/images/a%00",
        ):
            answer = self.ask(path)
            self.assertIn(answer.status, (400, 404), path)
            self.assertNotIn(b"<script>:", answer.body)

    def test_name_without_a_tag_means_the_latest(self) -> None:
        """A name without a tag means the latest."""
        answer = self.ask("/images/shell/git")
        self.assertEqual(
            (302, "/images/shell/git:latest"), (answer.status, answer.header("Location"))
        )

    def test_image_without_a_report_shows_its_layers_only(self) -> None:
        """Of an image without a report its layers are shown, and that there is no more."""
        bare = evolve(
            self.report,
            paths=(),
            packages=(),
            layers=tuple(
                evolve(each, paths=(), uncompressed_size=0) for each in self.report.layers
            ),
        )
        self.library.page_data_of["shell/git", "latest"] = summary_page_data(bare)
        page = self.page("/images/shell/git:latest")
        self.assertIn('id="no-report"', page)
        self.assertIn(bare.layers[0].digest, page)
        self.assertNotIn('id="graph"', page)
        for path in ("paths", "graph.json", "graph.svg", "other"):
            self.page(f"/images/shell/git:latest/{path}", 404)

    def test_documents_are_linked_and_sent(self) -> None:
        """The documents that are attached to an image are linked from its page, and sent."""
        base = "/images/shell/git:latest"
        self.assertNotIn('id="documents"', self.page(base))
        for name in DOCUMENTS:
            self.page(f"{base}/{name}", 404)
        for media_type in (CYCLONEDX, IN_TOTO):
            document = Document(media_type=media_type, predicate_type="p", data=b'{"a":"<b>"}')
            new = attach_document(OCI, document)
            self.library.documents.append((new.attachment, new.blobs[1][0]))
        links = [
            attributes["href"] for tag, attributes in Tags(self.page(base)).found if tag == "a"
        ]
        self.assertIn(f"{base}/sbom.cdx.json", links)
        self.assertIn(f"{base}/provenance.json", links)
        self.assertNotIn(f"{base}/sbom.spdx.json", links)
        answer = self.ask(f"{base}/sbom.cdx.json", BROWSER)
        self.assertEqual((200, b'{"a":"<b>"}'), (answer.status, answer.body))
        self.assertEqual("application/json", answer.header("Content-Type"))
        self.assertEqual("nosniff", answer.header("X-Content-Type-Options"))
        statement = json.loads(self.ask(f"{base}/provenance.json").body)
        self.assertEqual({"a": "<b>"}, statement["predicate"])
        self.page(f"{base}/sbom.spdx.json", 404)
        value = json.loads(self.ask(base, ("Accept", "*/*")).body)
        self.assertEqual(["sbom.cdx.json", "provenance.json"], value["documents"])

    def test_document_that_was_removed_is_not_there(self) -> None:
        """A document whose blob is gone is a 404."""
        document = Document(media_type=SPDX, predicate_type="p", data=b"{}")
        self.library.documents.append((attach_document(OCI, document).attachment, b""))
        self.page("/images/shell/git:latest/sbom.spdx.json", 404)

    def test_licences_are_counted_by_store_paths(self) -> None:
        """Licences are shown with the number of their paths, and how many paths have none."""
        self.add(
            "shell/git",
            evolve(
                self.report,
                licenses=(
                    ReportedLicense(text="MIT", paths=(0,)),
                    ReportedLicense(text=HOSTILE, paths=(0, 2)),
                ),
            ),
        )
        page = self.page("/images/shell/git:latest")
        self.assertLess(page.index("&lt;script&gt;alert(1)"), page.index(">MIT<"))
        self.assertIn('id="unlicensed">1<', page)
        value = json.loads(self.ask("/images/shell/git:latest", ("Accept", "*/*")).body)
        self.assertEqual(1, value["licenses"]["MIT"])
        self.assertEqual(1, value["paths_without_license"])

    def test_licences_that_were_not_written_down_are_not_counted(self) -> None:
        """Of an image of an older version nothing is said of licences."""
        self.add("shell/git", evolve(self.report, licenses=None))
        self.assertNotIn("licenses", self.page("/images/shell/git:latest"))

    def test_programs_get_the_same_as_data(self) -> None:
        """Programs get the same as data."""
        value = json.loads(self.ask("/images/shell/git:latest?why=glibc", ("Accept", "*/*")).body)
        self.assertEqual(self.report.digest, value["digest"])
        self.assertEqual(
            [layer.digest for layer in self.report.layers],
            [layer["digest"] for layer in value["layers"]],
        )
        self.assertEqual(3, len(value["why"][0]))


class PathsTests(PagesCase):
    def names(self, query: str) -> list[str]:
        tags = Tags(self.page(f"/images/shell/git:latest/paths?{query}"))
        return [str(each["data-path"])[44:] for _, each in tags.found if "data-path" in each]

    def test_paths_are_sorted_as_the_query_asks_for(self) -> None:
        """Paths are sorted as the query asks for."""
        self.assertEqual(["git-2.40", "glibc-2.38", "curl-8.5"], self.names(""))
        self.assertEqual(["git-2.40", "curl-8.5", "glibc-2.38"], self.names("sort=closure"))
        self.assertEqual(["curl-8.5", "git-2.40", "glibc-2.38"], self.names("sort=name"))
        self.assertEqual(self.names(""), self.names("sort=__class__&layer=x&page=0x1"))

    def test_paths_are_found_by_a_part_of_their_name_and_by_their_layer(self) -> None:
        """Paths are found by a part of their name, and by their layer."""
        self.assertEqual(["glibc-2.38"], self.names("q=GLIBC"))
        found = [
            name
            for number in range(1, len(self.report.layers) + 1)
            for name in self.names(f"layer={number}")
        ]
        self.assertEqual(["curl-8.5", "git-2.40", "glibc-2.38"], sorted(found))


class GraphTests(PagesCase):
    def test_graph_is_sent_compressed_to_those_who_can_read_that(self) -> None:
        """The graph is sent compressed to those who can read that, and plain to others."""
        for name, media_type in (("json", "application/json"), ("svg", "image/svg+xml")):
            path = f"/images/shell/git:latest/graph.{name}"
            packed = self.ask(path, ("Accept-Encoding", "gzip, br"))
            plain = self.ask(path)
            self.assertEqual("gzip", packed.header("Content-Encoding"))
            self.assertIsNone(plain.header("Content-Encoding"))
            self.assertEqual(plain.body, gzip.decompress(packed.body))
            self.assertEqual(media_type, plain.header("Content-Type"))
            self.assertIn("default-src 'none'", plain.header("Content-Security-Policy") or "")

    def test_client_that_has_the_graph_already_does_not_get_it_again(self) -> None:
        """A client that has the graph already does not get it again."""
        path = "/images/shell/git:latest/graph.json"
        etag = self.ask(path).header("ETag") or ""
        answer = self.ask(path, ("If-None-Match", etag))
        self.assertEqual((304, b""), (answer.status, answer.body))
        self.assertEqual(200, self.ask(path, ("If-None-Match", '"other"')).status)
