"""Tests for the page of an image that was never pulled, and of its button."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import unescape

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.package_lookup import SearchResult
from nixery.builds.tracker import BuildTracker
from nixery.http.hosts import HostRules
from nixery.http.routes import UIHandlers
from nixery.http.ui.build_button import BuildButton
from nixery.http.ui.image_pages import ImagePages
from nixery.http.ui.image_preview import RESPONSE_SECONDS, ImagePreview
from nixery.image.errors import PackageProblem, PackagesRefused
from nixery.image.manifests import Image
from nixery.image.names import PackageRequest, Tag, parse_image_name
from nixery.image.patterns import parse_patterns
from nixery.limits.errors import QueueFull
from nixery.limits.package_rules import PackageRules
from nixery.nix.errors import BuildFailed
from nixery.nix.progress import Phase
from nixery.pulls.unattended_pulls import HOLD_SECONDS, MAX_PER_CLIENT, UnattendedPulls
from nixery.runtime.background_answers import BackgroundAnswers
from nixery.sources.errors import UnknownRevision
from nixery.sources.source import Revision
from nixery.testing.fakes import FakeWallClock, InlineWorkers
from tests.support.http import IMAGE, Connection, FakeImages, Response, make_root
from tests.support.pages import BROWSER, make_pages
from tests.unit.http.ui.test_image_pages import FakeCatalog, Veil
from tests.unit.http.ui.test_index_page import LATEST, OUTPUT, FakePackageSearch
from tests.unit.http.ui.test_package_query import missing

OWN = ("Sec-Fetch-Site", "same-origin")


class SlowSearch(FakePackageSearch):
    """Waits for the revision, and knows the tags ``latest`` and ``v1``."""

    async def search(
        self,
        client: str,
        system: str,
        requests: Sequence[PackageRequest],
        tag: Tag = LATEST,
    ) -> SearchResult:
        if tag not in ("latest", "v1"):
            raise UnknownRevision(tag=tag, allowed=("latest", "v1"), source="the tests")
        if self.unknown is not None:
            await self.unknown
        return await super().search(client, system, requests, tag)


class PreviewCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.search = SlowSearch()
        self.veil = Veil()
        self.images = FakeImages()
        self.tracker = BuildTracker(clock=self.clock, wall_clock=FakeWallClock(self.clock))
        self.connection = self.connect()

    def connect(self, *, shows_builds: bool = True) -> Connection:
        pages = make_pages()
        preview = ImagePreview(
            pages=pages,
            search=self.search,
            answers=BackgroundAnswers(clock=self.clock),
            visibility=self.veil,
            builds=self.tracker,
            shows_builds=shows_builds,
        )
        button = BuildButton(
            pages=pages,
            pulls=UnattendedPulls(
                images=self.images,
                builds=self.tracker if shows_builds else None,
                waiting=self.tracker.clients.waiting,
                clock=self.clock,
            ),
            candidates=self.images,
            visibility=self.veil,
            rules=PackageRules(denied=parse_patterns(["secret"])),
            hosts=HostRules(allowed=("reg",)),
        )
        images = ImagePages(FakeCatalog(), pages, InlineWorkers(), self.veil, preview=preview)
        ui = UIHandlers(pages=pages, images=images, build_button=button)
        return Connection(make_root(ui=ui), self.clock)

    def page(self, path: str, status: int = 200) -> str:
        answer = self.connection.request("GET", path, BROWSER)
        self.assertEqual(status, answer.status, answer.body)
        return answer.body.decode()

    def press(self, path: str, *headers: tuple[str, str]) -> Response:
        empty = ("Content-Length", "0")
        return self.connection.request("POST", f"{path}/build", BROWSER, empty, *headers)


class PreviewTests(PreviewCase):
    """Tests of the page."""

    def packages(self, page: str) -> list[tuple[str, str]]:
        """Return the packages on a page, in a table row or, with a problem, in a list item."""
        return re.findall(r'<(tr|li) data-package="([^"]*)"', page)

    def test_packages_of_the_name_of_shell_and_of_every_image(self) -> None:
        """The page lists the packages of the name, those of shell, and those of every image."""
        page = self.page("/images/shell/git/attr--6c6962736967632b2b:v1")
        self.assertEqual(
            [
                *[("tr", name) for name in ("bashInteractive", "coreutils", "moreutils", "nano")],
                *[("tr", name) for name in ("git", "libsigc++", "cacert", "iana-etc")],
            ],
            self.packages(page),
        )
        self.assertEqual(4, page.count("part of <code>shell</code>"))
        self.assertEqual(2, page.count("in every image"))
        self.assertIn("docker pull reg.example:8080/shell/git/attr--6c6962736967632b2b:v1", page)
        self.assertIn('action="/images/shell/git/attr--6c6962736967632b2b:v1/build"', page)
        self.assertIn('<meta name="robots" content="noindex">', page)
        self.assertNotIn("<b>", page)
        self.assertEqual([], self.images.requests)

    def test_origin_of_the_form_is_told(self) -> None:
        """Browsers tell the origin of the form, which no-referrer would hide."""
        answer = self.connection.request("GET", "/images/git:latest", BROWSER)
        self.assertEqual("same-origin", answer.header("Referrer-Policy"))

    def test_lookups_count_for_the_client(self) -> None:
        """Look-ups wait in the queue of the client, and are those of the tag."""
        self.page("/images/git:latest")
        [(client, system, _)] = self.search.asked
        self.assertEqual(("192.0.2.1", "x86_64-linux"), (client, system))

    def test_misspelt_name_has_near_ones_and_no_button(self) -> None:
        """A name that does not exist is a 404 with links to the images that may be meant."""
        page = self.page("/images/shell/gti/htop:latest", 404)
        self.assertIn("there is no package gti", page)
        self.assertEqual(["gti"], [name for kind, name in self.packages(page) if kind == "li"])
        self.assertIn('href="/images/shell/near/htop:latest"', page)
        self.assertNotIn("build-button", page)
        self.veil.hidden.add("secret")
        page = self.page("/images/scret:latest", 404)
        self.assertNotIn("/images/secret:", page)

    def test_meta_packages_are_not_at_the_start(self) -> None:
        """Where shell is not at the start, the page links the name that has it there."""
        page = self.page("/images/git/shell/multi:latest")
        self.assertIn('Did you mean <a href="/images/shell/multi/git:latest">', page)
        self.assertNotIn("Did you mean", self.page("/images/shell/git:latest"))

    def test_platforms_that_lack_a_package(self) -> None:
        """Of an index, the page tells which platform lacks a package; it can be built anyway."""
        self.search.lacking.add(("aarch64-linux", "git"))
        page = self.page("/images/multi/git/htop:latest")
        self.assertEqual(1, page.count("Not for arm64"))
        self.assertIn("build-button", page)
        self.search.lacking.add(("x86_64-linux", "htop"))
        self.page("/images/multi/git/htop:latest", 404)

    def test_image_that_is_not_for_the_client(self) -> None:
        """Whether or not it was pulled, an image that is not for the client is refused."""
        self.veil.hidden.add("git")
        self.page("/images/git:latest", 403)
        self.assertEqual([], self.search.asked)

    def test_tag_of_signatures_is_never_looked_up(self) -> None:
        """The tag of a signature is no revision, and never reaches the sources."""
        path = f"/images/git:sha256-{'0' * 64}.sig"
        self.page(path, 404)
        self.assertEqual(404, self.press(path, OWN).status)
        self.assertEqual([], self.search.asked)
        self.assertEqual([], self.images.requests)

    def test_errors_are_told_with_their_status(self) -> None:
        """An unknown tag and a full queue are told with the status that a pull has."""
        self.assertIn("the tests", self.page("/images/git:v9", 404))
        self.search.error = QueueFull(waiting=32, retry_after=5.0)
        answer = self.connection.request("GET", "/images/git:latest", BROWSER)
        self.assertEqual((429, "5"), (answer.status, answer.header("Retry-After")))

    def test_page_appears_before_a_slow_look_up_ends(self) -> None:
        """After some seconds the page appears without its packages, and later has them."""
        self.search.unknown = Deferred()
        self.connection.send("GET", "/images/git:latest", BROWSER)
        self.assertEqual(b"", self.connection.received())
        self.clock.advance(RESPONSE_SECONDS)
        page = self.connection.response().body.decode()
        self.assertIn('<meta http-equiv="refresh"', page)
        self.assertIn("still being looked up", page)
        self.assertIn("build-button", page)
        self.search.unknown.callback(
            Revision(identity={"kind": "test"}, pinned=True, label="nixos at 0123")
        )
        page = self.page("/images/git:latest")
        self.assertIn(("tr", "git"), self.packages(page))
        self.assertEqual(1, len(self.search.asked))

    def test_build_that_runs_or_failed_is_linked(self) -> None:
        """A build that runs is linked in the place of the button, a failed one beside it."""
        build = self.tracker.begin(parse_image_name("git", "x86_64-linux"), Tag("latest"))
        build.phase(Phase.BUILDING)
        page = self.page("/images/git:latest")
        self.assertIn(f'href="/builds/{build.id}"', page)
        self.assertNotIn("build-button", page)
        build.fail(BuildFailed(derivation="/nix/store/x.drv", log=(), output=OUTPUT))
        page = self.page("/images/git:latest")
        self.assertIn(f'href="/builds/{build.id}"', page)
        self.assertIn("build-button", page)
        self.assertNotIn(build.id, self.page("/images/git:v1"))

    def test_programs_get_no_preview(self) -> None:
        """A program gets a 404 in a line of text, and nothing is looked up."""
        answer = self.connection.request("GET", "/images/git:latest")
        self.assertEqual((404, 1), (answer.status, answer.body.count(b"\n")))
        self.assertEqual([], self.search.asked)


class ButtonTests(PreviewCase):
    """Tests of the button."""

    def test_button_leads_to_the_build_and_then_to_the_image(self) -> None:
        """A press leads to the page of the build; when the image is there, to its page."""
        image: Deferred[Image] = Deferred()
        self.images.images["git", "latest"] = image
        self.connection.send(
            "POST", "/images/git:latest/build", BROWSER, OWN, ("Content-Length", "0")
        )
        build = self.tracker.begin(parse_image_name("git", "x86_64-linux"), Tag("latest"))
        self.clock.advance(HOLD_SECONDS)
        answer = self.connection.response()
        self.assertEqual((303, f"/builds/{build.id}"), (answer.status, answer.header("Location")))
        image.callback(IMAGE)
        build.succeed(IMAGE.manifests[0].digest)
        self.images.images["git", "latest"] = IMAGE
        answer = self.press("/images/git:latest", OWN)
        self.assertEqual((303, "/images/git:latest"), (answer.status, answer.header("Location")))

    def test_failed_build_is_shown(self) -> None:
        """A failure leads to the page of the build that tells of it, if builds have pages."""
        error = BuildFailed(derivation="/nix/store/x.drv", log=("why",), output=OUTPUT)
        self.images.images["git", "latest"] = error
        build = self.tracker.begin(parse_image_name("git", "x86_64-linux"), Tag("latest"))
        build.phase(Phase.BUILDING)
        build.fail(error)
        answer = self.press("/images/git:latest", OWN)
        self.assertEqual((303, f"/builds/{build.id}"), (answer.status, answer.header("Location")))
        self.connection = self.connect(shows_builds=False)
        answer = self.press("/images/git:latest", OWN)
        self.assertEqual(422, answer.status)
        self.assertIn("failed to build", unescape(answer.body.decode()))

    def test_other_sites_cannot_press_it(self) -> None:
        """A page of another site cannot have an image built, and is told so."""
        self.images.images["git", "latest"] = IMAGE
        firefox = ("User-Agent", "Mozilla/5.0")
        for headers, status in (
            ([("Sec-Fetch-Site", "cross-site")], 403),
            ([("Sec-Fetch-Site", "same-site")], 403),
            ([("Origin", "http://attacker.example")], 403),
            ([("Origin", "null"), firefox], 403),
            ([firefox], 403),
            ([("Origin", "http://reg:1"), firefox], 303),
            ([OWN], 303),
            ([], 303),
        ):
            self.images.requests.clear()
            answer = self.press("/images/git:latest", *headers)
            self.assertEqual(status, answer.status, headers)
            self.assertEqual(status == 303, bool(self.images.requests), headers)
            if status == 403:
                self.assertIn(b"a page of another site", answer.body)

    def test_reading_builds_nothing(self) -> None:
        """GET and HEAD of the button's path, and of the page, build nothing."""
        for method in ("GET", "HEAD"):
            for path in ("/images/git:latest/build", "/images/git:latest", "/git"):
                self.connection.request(method, path, BROWSER)
        self.assertEqual([], self.images.requests)

    def test_rules_of_pulls_hold(self) -> None:
        """Packages that are not served, or not for this client, are refused as in a pull."""
        self.assertEqual(403, self.press("/images/secret:latest", OWN).status)
        self.veil.hidden.add("git")
        self.assertEqual(403, self.press("/images/git:latest", OWN).status)
        self.assertEqual([], self.images.requests)

    def test_misspelt_name_has_near_ones(self) -> None:
        """A package that does not exist is a 404 with near names."""
        problem = missing(PackageRequest(name="gti")).result
        assert isinstance(problem, PackageProblem)
        self.images.images["gti", "latest"] = PackagesRefused(problems=(problem,))
        answer = self.press("/images/gti:latest", OWN)
        self.assertEqual(404, answer.status)
        self.assertIn(b"did you mean near", answer.body)

    def test_client_has_a_number_of_builds(self) -> None:
        """A client that waits for many images is told to try again later."""
        for number in range(MAX_PER_CLIENT):
            self.images.images[f"p{number}", "latest"] = Deferred()
            other = Connection(self.connection.protocol.site)
            other.send("POST", f"/images/p{number}:latest/build", OWN, ("Content-Length", "0"))
        answer = self.press("/images/git:latest", OWN)
        self.assertEqual((429, "30"), (answer.status, answer.header("Retry-After")))
