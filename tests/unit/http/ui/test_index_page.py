"""Tests for :mod:`nixery.http.ui.index_page`, and the pages of builds as browsers see them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import unescape
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Request

from nixery.builds.candidates import CandidateSearch
from nixery.builds.package_lookup import PackageSearch, SearchResult
from nixery.builds.progress import Build
from nixery.builds.tracker import BuildTracker
from nixery.errors import NixeryError
from nixery.http.routes import UIHandlers
from nixery.http.server import make_site
from nixery.http.ui.build_pages import BuildPages, timeline
from nixery.http.ui.index_page import IndexPage
from nixery.image.names import Digest, PackageRequest, Tag, parse_image_name
from nixery.image.packages import LookupResult
from nixery.limits.addresses import parse_proxies
from nixery.limits.admission import AdmissionControl, AdmissionLimits
from nixery.limits.errors import QueueFull
from nixery.nix.errors import BuildFailed, EvaluationFailed
from nixery.nix.progress import Phase
from nixery.process.errors import CommandOutput
from nixery.sources.source import PackageSet, Revision
from nixery.testing.fakes import FakeWallClock, InlineWorkers
from tests.support.http import Connection, make_root
from tests.support.http import Response as HTTPAnswer
from tests.support.pages import BROWSER, make_pages
from tests.unit.http.ui.test_package_query import found, missing

DIGEST = Digest("sha256:" + "0" * 64)
LATEST = Tag("latest")
OUTPUT = CommandOutput(argv=("secret",), status=1, stderr="secret")


MISSING = {"gti": ("near",), "scret": ("secret", "near", "secret.more")}
"""Names that do not exist, with names near them."""


class FakePackageSearch:
    """Knows every package but those of :data:`MISSING`."""

    def __init__(self) -> None:
        self.error: NixeryError | None = None
        self.unknown: Deferred[Revision] | None = None
        self.asked: list[tuple[str, str, Sequence[PackageRequest]]] = []
        self.broken_systems: set[str] = set()
        self.lacking: set[tuple[str, str]] = set()

    async def revision(self) -> Revision:
        if self.unknown is not None:
            return await self.unknown
        return Revision(identity={"kind": "test"}, pinned=True, label="nixos at 0123")

    async def search(
        self,
        client: str,
        system: str,
        requests: Sequence[PackageRequest],
        tag: Tag = LATEST,
    ) -> SearchResult:
        self.asked.append((client, system, requests))
        if self.error is not None:
            raise self.error
        if system in self.broken_systems:
            raise EvaluationFailed(reason="no", output=OUTPUT)
        answers = [
            missing(each, MISSING.get(each.name, ()))
            if each.name in MISSING or (system, each.name) in self.lacking
            else found(each)
            for each in requests
        ]
        return SearchResult(revision=await self.revision(), results=tuple(answers))


class Hidden:
    """Hides images that begin with ``secret``."""

    def may_see(self, _request: Request, image: str) -> bool:
        return not image.startswith("secret")


class UsersTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.book = BuildTracker(clock=self.clock, wall_clock=FakeWallClock(self.clock))
        self.package_search = FakePackageSearch()
        self.pages = make_pages()
        self.root = self.serve()

    def serve(self, *, builds: bool = True, platforms: Sequence[str] = ()) -> Resource:
        index = IndexPage(
            self.pages,
            self.package_search,
            "x86_64-linux",
            self.clock,
            platforms=platforms,
            builds=self.book if builds else None,
            visibility=Hidden(),
        )
        pages = BuildPages(self.book, self.clock, self.pages, visibility=Hidden())
        return make_root(ui=UIHandlers(pages=self.pages, index=index, builds=pages))

    def ask(self, path: str, *headers: tuple[str, str]) -> HTTPAnswer:
        return Connection(self.root, self.clock).request("GET", path, *headers)

    def page(self, path: str) -> str:
        answer = self.ask(path, BROWSER)
        self.assertEqual(200, answer.status)
        return answer.body.decode("utf-8")

    def begin(self, repository: str = "shell/git") -> Build:
        build = self.book.begin(parse_image_name(repository, "x86_64-linux"), LATEST)
        build.phase(Phase.BUILDING)
        return build

    def failing(self, repository: str, *log: str) -> Build:
        build = self.begin(repository)
        build.fail(BuildFailed(derivation="/nix/store/x.drv", log=log, output=OUTPUT))
        return build


class IndexTests(UsersTestCase):
    """The first page."""

    def test_address_is_the_registrys_whatever_the_client_calls_it(self) -> None:
        """It says how to pull from here, whatever name the client knows us by."""
        for host in ("reg:1", "evil.example"):
            body = self.ask("/", ("Host", host)).body
            self.assertIn(b"docker pull reg.example:8080/shell/git/htop", body)
            self.assertNotIn(b"evil", body)

    def test_pasted_link_has_a_title_and_a_description(self) -> None:
        """A page has what a chat shows of a link that is pasted: title and description."""
        page = self.page("/")
        self.assertIn(
            '<meta property="og:title" content="A registry that builds its images">', page
        )
        self.assertRegex(page, '<meta property="og:description" content="A container registry')
        self.assertEqual(1, page.count('<meta name="description"'))

    def test_what_is_served(self) -> None:
        """It names source, revision and system; and does not wait long for them."""
        self.assertIn("nixos at 0123", self.page("/"))
        self.package_search.unknown = Deferred()
        connection = Connection(self.root, self.clock)
        connection.send("GET", "/", BROWSER)
        self.clock.advance(1)
        self.assertIn(b"not looked up yet", connection.response().body)

    def test_platforms_of_an_index(self) -> None:
        """The platforms that have each package are told where the name means several."""
        body = self.ask("/api/packages?names=multi+git").body
        meta, git = json.loads(body)["packages"]
        self.assertEqual(meta["message"], "the image is for x86_64-linux, aarch64-linux")
        self.assertEqual((git["platforms"], git["missing_platforms"]), (["amd64", "arm64"], {}))
        self.assertEqual(
            [system for _, system, _ in self.package_search.asked[-2:]],
            ["x86_64-linux", "aarch64-linux"],
        )
        self.assertIn("for amd64, arm64)", self.page("/?packages=multi+git"))
        self.assertNotIn(
            "platforms", json.loads(self.ask("/api/packages?names=git").body)["packages"][0]
        )

    def test_package_that_a_platform_lacks(self) -> None:
        """The reason of a platform that lacks a package is told; a broken one has none."""
        self.package_search.lacking = {("aarch64-linux", "git")}
        self.root = self.serve(platforms=("x86_64-linux", "aarch64-linux"))
        [git] = json.loads(self.ask("/api/packages?names=git").body)["packages"]
        self.assertEqual((git["status"], git["platforms"]), ("found", ["amd64"]))
        self.assertEqual(list(git["missing_platforms"]), ["arm64"])
        self.assertIn("Not for arm64: ", self.page("/?packages=git"))
        self.package_search.broken_systems = {"aarch64-linux"}
        [git] = json.loads(self.ask("/api/packages?names=git").body)["packages"]
        self.assertEqual((git["platforms"], git["missing_platforms"]), (["amd64"], {}))
        names = {each.name for _, _, requests in self.package_search.asked for each in requests}
        self.assertEqual(names, {"git"})

    def test_box_without_scripts(self) -> None:
        """The form alone answers, and what was typed stays in it."""
        page = self.page("/?packages=shell+git")
        self.assertIn("docker run --rm -it reg.example:8080/shell/git bash", page)
        self.assertIn('value="shell git"', page)
        self.assertIn("kind: Pod", page)
        page = self.page("/?packages=gti+git")
        self.assertIn('href="/?packages=near+git"', page)
        self.assertNotIn("docker pull reg.example:8080/gti", page)

    def test_box_says_that_a_name_comes_first(self) -> None:
        """Page and JSON say that ``shell``, typed behind another name, comes first."""
        notice = "shell comes first in the name of the image."
        self.assertIn(notice, self.page("/?packages=git+shell"))
        found = json.loads(self.ask("/api/packages?names=git+shell").body)
        self.assertEqual((notice, "shell/git"), (found["notice"], found["image"]))
        self.assertNotIn(notice, self.page("/?packages=shell+git"))

    def test_typed_text_is_shown_as_text_wherever_it_is_shown(self) -> None:
        """Typed text is shown as text, wherever it is shown."""
        for typed in ("%3Cscript%3Ealert(1)%3C/script%3E", "%22%3E%3Cimg%20src=x%3E", "%E2%80%AE"):
            answer = self.ask(f"/?packages={typed}", BROWSER)
            self.assertNotIn(b"<script>alert", answer.body)
            self.assertNotIn(b"<img src=x", answer.body)
            self.assertNotIn("\u202e".encode(), answer.body)

    def test_failures_are_shown_once_until_the_image_is_built(self) -> None:
        """A failure is shown once for each image, and not when the image was built since."""
        self.failing("built-since")
        self.failing("broken", "the first failure")
        self.failing("broken", "the second failure")
        self.begin("built-since").succeed(DIGEST)
        self.begin("broken").fail(CancelledError())
        self.begin("broken")
        _, _, shown = self.page("/").partition('<section id="failures"')
        self.assertEqual(1, shown.count("<article"))
        self.assertIn("the second failure", shown)
        self.assertNotIn("built-since", shown)
        self.failing("built-since")
        _, _, shown = self.page("/").partition('<section id="failures"')
        self.assertIn("built-since", shown)

    def test_failure_that_was_retried_under_other_names_is_shown_once(self) -> None:
        """Names in another order, retries and other tags of a revision are the same image."""
        self.failing("git/htop", "no")
        self.failing("git/htop", "still not")
        self.failing("htop/git", "not either")
        other = self.book.begin(parse_image_name("broken", "x86_64-linux"), Tag("v1"), "revision")
        other.fail(BuildFailed(derivation="/nix/store/y.drv", log=(), output=OUTPUT))
        _, _, shown = self.page("/").partition('<section id="failures"')
        self.assertEqual(2, shown.count("<article"))
        self.assertIn("not either", shown)
        self.begin("git/htop/git").succeed(DIGEST)
        built = self.book.begin(parse_image_name("broken", "x86_64-linux"), LATEST, "revision")
        built.phase(Phase.BUILDING)
        built.succeed(DIGEST)
        self.assertNotIn('id="failures"', self.page("/"))

    def test_derivation_that_fails_several_images_is_shown_once(self) -> None:
        """Images that one derivation fails are shown together, each with a link to its build."""
        builds = [self.failing(name, "no") for name in ("git", "git/htop", "git/nano")]
        other = self.begin("other")
        other.fail(EvaluationFailed(reason="no", output=OUTPUT))
        _, _, shown = self.page("/").partition('<section id="failures"')
        self.assertEqual(2, shown.count("<article"))
        self.assertEqual(1, shown.count("Also fails: "))
        for build in builds:
            self.assertEqual(1, shown.count(f'href="/builds/{build.id}"'))

    def test_build_is_shown_under_the_names_that_the_client_may_see(self) -> None:
        """A build that somebody pulls by a private name too is shown without that name."""
        build = self.book.begin(parse_image_name("secret/git", "x86_64-linux"), LATEST, "key")
        build.phase(Phase.BUILDING)
        self.assertEqual([], json.loads(self.ask("/builds").body)["builds"])
        connection = Connection(self.root, self.clock)
        connection.send("GET", "/builds/events?format=events")
        escaped = self.book.begin(parse_image_name("git", "x86_64-linux"), LATEST, "key")
        [seen] = json.loads(self.ask("/builds").body)["builds"]
        self.assertEqual(("git", [], build.id), (seen["image"], seen["also"], seen["id"]))
        self.assertEqual(200, self.ask(f"/builds/{escaped.id}").status)
        self.clock.advance(1)
        for text in (connection.received().decode(), self.page("/"), self.page("/builds")):
            self.assertIn("git", text)
            self.assertNotIn("secret", text)

    def test_running_builds_come_first_with_logs_of_failures(self) -> None:
        """Those that run come first; failures have their logs."""
        self.failing("broken", "<b>no</b>", "\x1b[2J")
        self.begin("running")
        page = self.page("/")
        self.assertLess(page.index("running:latest"), page.index("broken:latest"))
        self.assertIn("&lt;b&gt;no&lt;/b&gt;", page)
        self.assertNotIn("\x1b", page)
        self.assertNotIn("secret", page)

    def test_private_builds_are_not_shown_nor_are_any_if_builds_are_switched_off(self) -> None:
        """Private builds are not shown, nor are any if builds are switched off."""
        build = self.failing("secret/thing", "hush")
        for path in ("/", "/builds"):
            page = self.page(path)
            self.assertNotIn("secret", page)
            self.assertNotIn("hush", page)
        for path in (f"/builds/{build.id}", f"/builds/{build.id}/events"):
            self.assertEqual(404, self.ask(path, BROWSER).status, path)
            self.assertEqual(404, self.ask(path).status, path)
        self.assertEqual([], json.loads(self.ask("/builds").body)["builds"])
        connection = Connection(self.root, self.clock)
        connection.send("GET", "/builds/events?format=events")
        self.begin("secret/more")
        self.clock.advance(1)
        self.assertNotIn(b"secret", connection.received())
        self.begin("shell")
        self.root = self.serve(builds=False)
        self.assertNotIn("Recent builds", self.page("/"))

    def test_there_are_no_other_pages(self) -> None:
        """There are no other pages."""
        for path in ("//", "/api", "/api/x", "/api/packages/x"):
            self.assertEqual(404, self.ask(path).status, path)


class ApiTests(UsersTestCase):
    """The answer to the box, as JSON."""

    def get(self, query: str) -> tuple[int, dict[str, Any]]:
        answer = self.ask(f"/api/packages?names={query}")
        self.assertEqual("application/json", answer.header("Content-Type"))
        self.assertEqual("nosniff", answer.header("X-Content-Type-Options"))
        value = json.loads(answer.body)
        assert isinstance(value, dict)
        return answer.status, value

    def test_candidates_are_those_that_the_visitor_may_see(self) -> None:
        """Of the names near to a missing one, a visitor is told those that are for it."""
        _, value = self.get("scret")
        self.assertEqual(["near"], value["packages"][0]["candidates"])
        self.assertNotIn("secret", json.dumps(value))
        self.assertNotIn("secret", self.page("/?packages=scret"))

    def test_bytes_that_are_no_text_are_replaced(self) -> None:
        """Bytes that are no text, and halves of surrogate pairs, are replaced."""
        for typed in ("%ED%A0%80", "%FF", "a%C0%AF"):
            status, value = self.get(f"git+{typed}")
            self.assertEqual(200, status)
            self.assertIn("\ufffd", value["packages"][1]["name"])
            self.assertEqual(200, self.ask(f"/?packages={typed}", BROWSER).status)

    def test_answer_has_all_that_a_page_needs(self) -> None:
        """All that a page needs."""
        status, value = self.get("shell/git")
        self.assertEqual(200, status)
        self.assertEqual(("shell/git", "x86_64-linux"), (value["image"], value["system"]))
        self.assertEqual(["meta", "found"], [each["status"] for each in value["packages"]])
        self.assertEqual({"pull", "run", "kubernetes"}, set(value["commands"]))
        texts = {
            (each["client"], command["key"]): command["text"]
            for each in value["clients"]
            for command in each["commands"]
        }
        self.assertEqual(value["commands"]["pull"], texts["docker", "pull"])
        page = unescape(self.page("/?packages=shell/git"))
        for (client, key), text in texts.items():
            self.assertIn(f'<code id="{client}-{key}">{text}</code>', page)
        self.assertEqual("192.0.2.1", self.package_search.asked[0][0])

    def test_clients_of_a_trusted_proxy_are_told_apart(self) -> None:
        """The queue of evaluations is fair between them, and not between proxies."""
        admission = AdmissionControl(
            limits=AdmissionLimits(proxies=parse_proxies(["192.0.2.1"])), seconds=self.clock.seconds
        )
        site = make_site(self.root, self.clock, admission=admission)
        for address in ("203.0.113.7", "203.0.113.8"):
            Connection(site).request("GET", "/api/packages?names=git", ("X-Forwarded-For", address))
        self.assertEqual(
            ["203.0.113.7", "203.0.113.8"], [client for client, *_ in self.package_search.asked]
        )

    def test_query_that_cannot_be_looked_up_is_answered_with_status_and_error(self) -> None:
        """A query that cannot be looked up is answered with a status and an error."""
        for query, status in (("", 400), ("a..b", 400), ("x" * 1001, 400)):
            code, value = self.get(query)
            self.assertEqual((status, []), (code, value["packages"]))
            self.assertTrue(value["error"])
        self.assertEqual([], self.package_search.asked)
        for error, status in (
            (QueueFull(waiting=1, retry_after=5), 429),
            (EvaluationFailed(reason="syntax", output=OUTPUT), 422),
        ):
            self.package_search.error = error
            code, value = self.get("git")
            self.assertEqual(status, code)
            self.assertNotIn("secret", json.dumps(value))


class BuildsForUsersTests(UsersTestCase):
    """``/builds`` for browsers and for terminals."""

    def test_builds_and_what_reloads_them_where_there_are_no_scripts(self) -> None:
        """The builds, and what reloads them where there are no scripts."""
        build = self.begin("git")
        page = self.page("/builds")
        self.assertIn(f'data-build="{build.id}"', page)
        self.assertIn('<noscript><meta http-equiv="refresh"', page)

    def test_running_build_shows_activity_counts_and_log(self) -> None:
        """A build that runs: what it does, how far it is, its log; all of it as text."""
        build = self.begin()
        build.count(Phase.BUILDING, 1, 3, "builds")
        build.derivation("/nix/store/<i>.drv")
        build.log("</pre><script>alert(1)</script>")
        build.log("\x1b[31m\u202ered")
        page = self.page(f"/builds/{build.id}")
        self.assertIn('value="1" max="3"', page)
        self.assertIn("/nix/store/&lt;i&gt;.drv", page)
        self.assertIn("&lt;/pre&gt;&lt;script&gt;", page)
        self.assertNotIn("<script>alert", page)
        self.assertNotIn("\u202e", page)
        self.assertIn('<noscript><meta http-equiv="refresh"', page)

    def test_ended_build_tells_how_to_pull_it(self) -> None:
        """One that has ended: how to pull it, its stages to scale; nothing reloads."""
        build = self.begin()
        self.clock.advance(3)
        build.phase(Phase.PACKING)
        self.clock.advance(1)
        build.succeed(DIGEST)
        page = self.page(f"/builds/{build.id}")
        self.assertIn("docker pull reg.example:8080/shell/git</code>", page)
        self.assertIn('href="/images/shell/git:latest"', page)
        self.assertIn('class="phase-building" x="0" y="2" width="750"', page)
        self.assertNotIn("http-equiv", page)
        failed = self.page(f"/builds/{self.failing('broken', 'why').id}")
        self.assertIn("why", failed)
        self.assertNotIn("secret", failed)

    def test_build_that_is_not_there_is_a_page_too(self) -> None:
        """A build that is not there is a page too."""
        answer = self.ask("/builds/x", BROWSER)
        self.assertEqual(404, answer.status)
        self.assertIn(b"there is no such build", answer.body)

    def test_stages_stay_within_the_picture_and_the_shortest_can_be_seen(self) -> None:
        """Stages stay within the picture, and the shortest can be seen."""
        build = self.begin()
        for seconds in (100, 0.001, 50):
            self.clock.advance(seconds)
            build.phase(Phase.PACKING)
        view = self.book.find(build.id)
        assert view is not None
        for lane in timeline(view):
            self.assertGreaterEqual(lane.begin, 0)
            self.assertGreaterEqual(lane.width, 3)
            self.assertLessEqual(lane.begin + lane.width, 1000)

    def test_curl_is_sent_the_log_and_a_line_whenever_something_changes(self) -> None:
        """curl is sent the log, and a line whenever something changes."""
        build = self.begin()
        connection = Connection(self.root, self.clock)
        connection.send("GET", f"/builds/{build.id}/events", ("Accept", "*/*"))
        build.log("\x1b[31mhello")
        self.clock.advance(1)
        build.succeed(DIGEST)
        self.clock.advance(1)
        answer = connection.response()
        self.assertEqual("text/plain; charset=utf-8", answer.header("Content-Type"))
        text = answer.body.decode("utf-8")
        for line in (
            "== shell/git:latest: building\n",
            "\\x1b[31mhello\n",
            "== shell/git:latest: succeeded after 1.0 s\n",
            f"== {DIGEST}\n",
        ):
            self.assertIn(line, text)
        self.assertNotIn("\x1b", text)

    def test_page_of_a_thousand_builds_is_rendered_in_the_pool_and_has_them_all(self) -> None:
        """A page of a thousand builds is rendered in the pool, and has them all."""
        for number in range(1000):
            self.begin(f"package{number}")
        pages = "".join(self.page(f"/builds?page={number}") for number in range(1, 21))
        ids = re.findall('<tr data-build="([0-9a-f]+)"', pages)
        self.assertEqual((1000, 1000), (len(ids), len(set(ids))))


class LookupTests(SynchronousTestCase):
    """Tests of cached lookups of packages."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.pinned = True
        self.version: str | None = None
        self.asked: list[list[str]] = []
        self.lookup = PackageSearch(
            sources=self,  # type: ignore[arg-type]  # this test plays both
            package_lookup=self,
            candidates=CandidateSearch(workers=InlineWorkers(), seconds=self.clock.seconds),
            seconds=self.clock.seconds,
        )

    async def resolve(self, tag: Tag) -> Revision:
        return Revision(
            identity={"kind": "test"}, pinned=self.pinned, label="x", version=self.version
        )

    async def fetch(self, revision: Revision) -> PackageSet:
        return PackageSet(revision=revision, path=None)  # type: ignore[arg-type]  # not used

    async def look_up(
        self, package_set: PackageSet, system: str, requests: Sequence[PackageRequest]
    ) -> Sequence[LookupResult]:
        self.asked.append([item.name for item in requests])
        return [found(item) for item in requests]

    def check(self, *names: str, system: str = "x") -> list[str]:
        wanted = [PackageRequest(name=name) for name in names]
        checked = self.successResultOf(
            Deferred.fromCoroutine(self.lookup.search("c", system, wanted))
        )
        return [answer.request.name for answer in checked.results]

    def test_names_that_are_known_are_not_evaluated_again(self) -> None:
        """Names that are known are not evaluated again; the order stays."""
        self.assertEqual(["b"], self.check("b"))
        self.assertEqual(["a", "b", "c"], self.check("a", "b", "c"))
        self.assertEqual([["b"], ["a", "c"]], self.asked)
        self.check("b", system="y")
        self.assertEqual(["b"], self.asked[-1])

    def test_results_of_an_observed_version(self) -> None:
        """Results hold for as long as no change is observed, and not after that."""
        self.pinned, self.version = False, "1"
        self.check("a")
        self.clock.advance(600)
        self.check("a")
        self.version = "2"
        self.check("a")
        self.assertEqual([["a"], ["a"]], self.asked)

    def test_results_that_may_change(self) -> None:
        """Results that may change (not pinned) are cached for seconds only."""
        self.pinned = False
        self.check("a")
        self.check("a")
        self.clock.advance(11)
        self.check("a")
        self.assertEqual([["a"], ["a"]], self.asked)
