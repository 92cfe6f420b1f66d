"""Tests for the page of an image that was never pulled, and of its button."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import unescape

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.package_lookup import SearchResult
from nixery.builds.tracker import BuildTracker
from nixery.errors import NixeryError
from nixery.http.hosts import HostRules
from nixery.http.routes import UIHandlers
from nixery.http.ui.build_button import BuildButton
from nixery.http.ui.image_pages import ImagePages
from nixery.http.ui.image_preview import RESPONSE_SECONDS, ImagePreview
from nixery.http.ui.image_reference import ImageReferences
from nixery.image.errors import PackageProblem, PackagesRefused
from nixery.image.manifests import Image
from nixery.image.names import ImageName, PackageRequest, Tag, parse_image_name
from nixery.image.patterns import parse_patterns
from nixery.inspection.estimate import (
    Accuracy,
    Estimate,
    Held,
    PlatformEstimate,
    PullSize,
    StorePlan,
)
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


class FakeEstimator:
    """Tells the estimate of the test, when it says so."""

    def __init__(self) -> None:
        self.platforms: tuple[PlatformEstimate, ...] = (
            PlatformEstimate(system="x86_64-linux", store=StorePlan(all_valid=True)),
        )
        self.error: NixeryError | None = None
        self.gate: Deferred[None] | None = None
        self.asked: list[tuple[str, str, Held | None]] = []

    async def estimate(
        self,
        client: str,
        name: ImageName,
        tag: Tag,
        having: Held | None = None,
        *,
        may_see: Callable[[str], bool],
    ) -> Estimate:
        self.asked.append((client, f"{name.repository}:{tag}", having))
        if self.gate is not None:
            await self.gate
        if self.error is not None:
            raise self.error
        return Estimate(
            name=name, tag=tag, revision="0123", having=having, platforms=self.platforms
        )


class PreviewCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.estimator = FakeEstimator()
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
            estimator=self.estimator,
            prices=BackgroundAnswers(clock=self.clock),
            references=ImageReferences(address="reg.example:8080", system="x86_64-linux"),
            clock=self.clock,
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
        """The page of a name without shell at the start links the name that has it there."""
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
        """An image that is not for the client is refused, pulled or not."""
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


class PriceTests(PreviewCase):
    """Tests of the price on the page."""

    def price(self, path: str, status: int = 200) -> str:
        """Return the text of the section of the price, without tags."""
        [section] = re.findall(r'<h2 id="price">(.*?)</section>', self.page(path, status), re.S)
        return " ".join(unescape(re.sub("<[^>]*>", " ", section)).split())

    def test_image_that_is_to_be_built(self) -> None:
        """The page tells what is downloaded, what is built and what a client pulls."""
        hashed = "/nix/store/" + "0" * 32
        self.estimator.platforms = (
            PlatformEstimate(
                system="x86_64-linux",
                store=StorePlan(
                    fetched=(f"{hashed}-git-2.44", f"{hashed}-curl-8"),
                    download_size=3_000_000,
                    unpacked_size=9_000_000,
                    built=(f"{hashed}-hello-2.12.drv",),
                ),
                pull=PullSize(layers=None, size=4_000_000, accuracy=Accuracy.LOWER_BOUND),
            ),
        )
        text = self.price("/images/git:latest")
        for words in (
            "State to be built",
            "From binary caches 3.00 MB in 2 store paths, 9.00 MB unpacked",
            "Built here 1 derivation: hello-2.12",
            "To pull at least about 4.00 MB",
        ):
            self.assertIn(words, text)
        self.assertEqual([("192.0.2.1", "git:latest", None)], self.estimator.asked)

    def test_image_that_is_ready_and_the_one_that_the_visitor_has(self) -> None:
        """With an image that the visitor has, the page tells what is shared and what is new."""
        self.estimator.platforms = (
            PlatformEstimate(
                system="x86_64-linux",
                ready=True,
                pull=PullSize(layers=3, size=5_000_000, accuracy=Accuracy.EXACT),
                shared=PullSize(layers=2, size=3_000_000, accuracy=Accuracy.EXACT),
            ),
        )
        page = self.page("/images/git:latest")
        self.assertIn("Show its layers", page)
        self.assertNotIn("Build this image", page)
        self.estimator.asked.clear()
        text = self.price("/images/git:latest?with=reg.example:8080/shell")
        self.assertIn("State ready", text)
        self.assertIn("To pull 5.00 MB in 3 layers", text)
        self.assertIn("In shell:latest 3.00 MB in 2 layers; 2.00 MB to download", text)
        [(_, _, having)] = self.estimator.asked
        assert having is not None
        self.assertEqual("shell:latest", having.label)

    def test_platforms_and_what_is_not_known(self) -> None:
        """Each platform has its price; what is not known is said to be so."""
        self.estimator.platforms = (
            PlatformEstimate(
                system="x86_64-linux",
                store=StorePlan(known=False, download_size=None, unpacked_size=None),
            ),
            PlatformEstimate(system="aarch64-linux", missing="no builder"),
        )
        text = self.price("/images/multi/git:latest?with=shell")
        self.assertIn("Work for Nix not known To pull not known before it is built", text)
        self.assertIn("In shell:latest not known before it is built", text)
        self.assertIn("not available: no builder", text)

    def test_errors_of_the_price_leave_the_page(self) -> None:
        """The page has its packages though the price, or the image at hand, is not known."""
        self.estimator.error = QueueFull(waiting=32, retry_after=5.0)
        self.assertIn("32", self.price("/images/git:latest"))
        self.estimator.error = None
        self.estimator.asked.clear()
        for typed in ("Shell", "shell:.x", "shell@sha256:x"):
            self.assertIn(typed[0], self.price(f"/images/git:latest?with={typed}"))
        self.veil.hidden.add("secret")
        hidden = self.price("/images/git:latest?with=secret")
        self.assertIn("secret:latest has not been pulled from here", hidden)
        self.assertEqual([], self.estimator.asked)

    def test_packages_that_do_not_exist_have_no_price(self) -> None:
        """There is no estimate for an image that cannot be built, or that is being built."""
        self.page("/images/gti:latest", 404)
        build = self.tracker.begin(parse_image_name("git", "x86_64-linux"), LATEST)
        build.phase(Phase.BUILDING)
        self.page("/images/git:latest")
        self.assertEqual([], self.estimator.asked)

    def test_page_appears_before_a_slow_estimate_ends(self) -> None:
        """After some seconds the page appears without its price, and later has it."""
        self.estimator.gate = Deferred()
        self.connection.send("GET", "/images/git:latest", BROWSER)
        self.clock.advance(RESPONSE_SECONDS)
        page = self.connection.response().body.decode()
        self.assertIn("price-late", page)
        self.assertIn('<meta http-equiv="refresh"', page)
        self.assertIn("packages-table", page)
        self.estimator.gate.callback(None)
        self.assertIn("packages are ready", self.price("/images/git:latest"))
        self.assertEqual(1, len(self.estimator.asked))


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
