"""Tests for ``buildpages`` and ``eventstream`` of :mod:`nixery.http`, over the real server."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request

from nixery.builds.build_output import MAX_LOG_LINES
from nixery.builds.progress import Build
from nixery.builds.tracker import BuildTracker
from nixery.http.routes import UIHandlers
from nixery.http.server import make_site
from nixery.http.ui import build_log, build_pages, build_streams, pages
from nixery.http.ui.build_list import BUILDS_PER_PAGE
from nixery.http.ui.build_pages import MAX_STREAMS_PER_CLIENT, BuildPages
from nixery.http.ui.build_streams import BUILDS_AT_ONCE, Builds
from nixery.http.ui.sse import KEEP_ALIVE_SECONDS
from nixery.image.names import Digest, Tag, parse_image_name
from nixery.nix.errors import BuildFailed
from nixery.nix.progress import Phase
from nixery.process.errors import CommandOutput
from nixery.testing.fakes import FakeWallClock
from tests.support.http import Connection, make_root
from tests.support.pages import make_pages

DIGEST = Digest("sha256:" + "0" * 64)
LATEST = Tag("latest")


def plain_log(first: int, *lines: str) -> dict[str, Any]:
    """The event of lines that no derivation has printed, at the begin of a build."""
    return {
        "first": first,
        "lines": list(lines),
        "seconds": [0.0] * len(lines),
        "origins": [0] * len(lines),
        "derivations": [],
    }


def unchunked(body: bytes) -> bytes:
    """The content of a chunked body."""
    content = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        content, body = content + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return content


class Stream:
    """A client that reads a stream of events."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.head, _, self._rest = self._take().partition(b"\r\n\r\n")
        self.comments: list[str] = []
        self.last_id: str | None = None
        self.ended = False

    def _take(self) -> bytes:
        data = self.connection.received()
        self.connection.transport.clear()
        return data

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """The events that have come since the last call, by type."""
        data, self._rest = self._rest + self._take(), b""
        text = b""
        while data:
            size, _, data = data.partition(b"\r\n")
            length = int(size, 16)
            self.ended = self.ended or length == 0
            text += data[:length]
            data = data[length + 2 :]
        found = []
        for block in text.decode("ascii").split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            if "" in fields:
                self.comments.append(fields[""])
            elif "data" in fields:
                self.last_id = fields["id"]
                found.append((fields["event"], json.loads(fields["data"])))
        return found

    def types(self) -> list[str]:
        return [kind for kind, _ in self.events()]


class PagesTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.book = BuildTracker(clock=self.clock, wall_clock=FakeWallClock(self.clock))
        # mypy checks here that the tracker has all that the pages ask for.
        checked: Builds = self.book
        self.pages = BuildPages(checked, self.clock, make_pages())
        root = make_root(ui=UIHandlers(pages=make_pages(), builds=self.pages))
        self.site = make_site(root, self.clock)

    def begin(self, repository: str = "shell/git") -> Build:
        build = self.book.begin(parse_image_name(repository, "x86_64-linux"), LATEST)
        build.phase(Phase.BUILDING)
        return build

    def connect(self, *, slow: bool = False) -> Connection:
        return Connection(self.site, self.clock, slow=slow)

    def listen(self, path: str, *headers: tuple[str, str], slow: bool = False) -> Stream:
        connection = self.connect(slow=slow)
        connection.send("GET", path, ("Accept", "text/event-stream"), *headers)
        return Stream(connection)

    def get(self, path: str) -> dict[str, Any]:
        answer = self.connect().request("GET", path)
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.header("Content-Type"), "application/json")
        self.assertEqual(answer.header("Cache-Control"), "no-store")
        value = json.loads(answer.body)
        assert isinstance(value, dict)
        return value

    def html(self, path: str) -> str:
        answer = self.connect().request("GET", path, ("Accept", "text/html"))
        self.assertEqual(answer.status, 200)
        return answer.body.decode("utf-8")

    def nothing_left(self) -> None:
        """No timer, no listener and no stream is left."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.pages.open_streams, 0)
        self.assertEqual(self.book._notifier._listeners, {})


class PageTests(PagesTestCase):
    """Builds as JSON."""

    def test_overview_lists_running_builds_first_without_logs(self) -> None:
        """All builds, those that run first, without their logs."""
        self.begin("a").succeed(DIGEST)
        self.begin("b")
        for path in ("/builds", "/builds/", "/builds?x=1"):
            builds = self.get(path)["builds"]
            self.assertEqual([each["image"] for each in builds], ["b", "a"])
            self.assertEqual([each["state"] for each in builds], ["running", "succeeded"])
            self.assertNotIn("log", builds[0])

    def test_filters_choose_builds_by_state_and_name(self) -> None:
        """Builds are filtered by their state and by a part of the name; unknown states are none."""
        self.begin("shell/git").succeed(DIGEST)
        output = CommandOutput(argv=("nix",), status=1, stderr="no")
        self.begin("htop").fail(BuildFailed(derivation="/nix/store/x.drv", log=(), output=output))
        self.begin("shell/htop")
        for query, images in {
            "state=running": ["shell/htop"],
            "state=failed": ["htop"],
            "state=done": ["shell/git"],
            "q=HTOP": ["shell/htop", "htop"],
            "q=htop&state=failed": ["htop"],
            "q=%3Alatest&state=done": ["shell/git"],
            "state=other&page=9": ["shell/htop", "htop", "shell/git"],
            "q=nothing": [],
        }.items():
            with self.subTest(query):
                found = [each["image"] for each in self.get(f"/builds?{query}")["builds"]]
                self.assertEqual(images, found)

    def test_page_shows_a_part_of_the_builds_and_leads_to_the_others(self) -> None:
        """Pages have 50 builds each; links to other pages keep the filter."""
        for number in range(BUILDS_PER_PAGE + 1):
            self.begin(f"a{number}").succeed(DIGEST)
        first = self.html("/builds?q=a")
        self.assertEqual(BUILDS_PER_PAGE, first.count("<tr data-build="))
        self.assertIn('rel="next" href="/builds?state=&amp;q=a&amp;page=2"', first)
        self.assertNotIn('rel="prev"', first)
        self.assertNotIn("builds.js", first)
        for page in ("2", "9", "999999"):
            last = self.html(f"/builds?q=a&page={page}")
            self.assertEqual(1, last.count("<tr data-build="))
            self.assertIn("a0:latest", last)
            self.assertIn('rel="prev"', last)
            self.assertNotIn('rel="next"', last)
        self.assertIn("builds.js", self.html("/builds"))
        self.assertNotIn("builds.js", self.html("/builds?page=2"))
        self.assertEqual(BUILDS_PER_PAGE + 1, len(self.get("/builds?page=2")["builds"]))

    def test_filter_is_shown_as_text_and_says_when_nothing_matches(self) -> None:
        """The filter is in the form again, escaped; the page says that nothing matches."""
        self.begin("a")
        page = self.html("/builds?state=failed&q=%22%3E%3Cb%3E")
        self.assertIn('value="&#34;&gt;&lt;b&gt;"', page)
        self.assertIn('<option value="failed" selected>', page)
        self.assertIn('<p id="no-builds">No running or recent build matches.', page)

    def test_build_is_told_with_all_there_is(self) -> None:
        """One build, with all that there is to tell."""
        build = self.begin()
        build.derivation("/nix/store/x.drv")
        build.count(Phase.BUILDING, 1, 3, "builds")
        build.log("one", "/nix/store/x.drv")
        build.log("\x1b[31mtwo")
        self.clock.advance(1.5)
        derivation = {
            "number": 1,
            "path": "/nix/store/x.drv",
            "name": "/nix/store/x.drv",
            "state": "building",
            "begun": 0.0,
            "ended": None,
            "lines": 1,
        }
        self.assertEqual(
            self.get(f"/builds/{build.id}"),
            {
                "id": build.id,
                "image": "shell/git",
                "tag": "latest",
                "also": [],
                "system": "x86_64-linux",
                "state": "running",
                "doing": "building, 1 of 3 builds",
                "position": None,
                "clients": 0,
                "attempts": 1,
                "begun": "2027-01-15T08:00:00.000+00:00",
                "ended": None,
                "elapsed": 1.5,
                "stages": [
                    {
                        "phase": "building",
                        "begun": "2027-01-15T08:00:00.000+00:00",
                        "ended": None,
                    }
                ],
                "counts": [{"phase": "building", "unit": "builds", "done": 1, "expected": 3}],
                "derivation": "/nix/store/x.drv",
                "running": [
                    {
                        "derivation": "/nix/store/x.drv",
                        "package": "/nix/store/x.drv",
                        "begun": "2027-01-15T08:00:00.000+00:00",
                        "phase": None,
                    }
                ],
                "follows": None,
                "digest": None,
                "problem": None,
                "log_lines": 2,
                "derivations": [derivation],
                "log": {
                    "first": 0,
                    "lines": ["one", "\x1b[31mtwo"],
                    "seconds": [0.0, 0.0],
                    "origins": [1, 0],
                    "derivations": [derivation],
                },
            },
        )
        # What could act on a terminal is escaped.
        answer = self.connect().request("GET", f"/builds/{build.id}")
        self.assertNotIn(b"\x1b", answer.body)

    def two_derivations(self) -> Build:
        """A build of which one derivation was built and the other has failed after it."""
        build = self.begin()
        build.derivation("/nix/store/aaa-good-1.drv")
        build.derivation("/nix/store/bbb-<bad>-2.drv")
        for number in range(1200):
            build.log(f"good {number}", "/nix/store/aaa-good-1.drv")
        self.clock.advance(65.25)
        build.log("<b>no</b>", "/nix/store/bbb-<bad>-2.drv")
        build.derivation_ended("/nix/store/aaa-good-1.drv", True)
        build.derivation_ended("/nix/store/bbb-<bad>-2.drv", False)
        return build

    def test_lines_are_folded_by_derivation_and_what_failed_comes_first(self) -> None:
        """A fold has the lines of one derivation; that of the failed one is first and open."""
        build = self.two_derivations()
        output = CommandOutput(argv=("x",), status=1)
        build.fail(BuildFailed(derivation="/nix/store/bbb-<bad>-2.drv", log=("no",), output=output))
        page = self.html(f"/builds/{build.id}")
        bad, good = page.index('data-state="failed" open'), page.index('data-state="built">')
        self.assertLess(bad, good)
        self.assertIn("<bdi>&lt;bad&gt;-2</bdi>", page)
        self.assertIn(
            '<span id="L1201" class="line"><a href="?after=1000#L1201">1201</a>'
            '<time title="2027-01-15 08:01:05 UTC">1:05.2</time>&lt;b&gt;no&lt;/b&gt;\n</span>',
            page,
        )
        self.assertIn("Lines 202 to 1201 of 1201", page)

    def test_line_has_an_address_that_stays(self) -> None:
        """The address of a line names a page that has it, also when the log has grown."""
        build = self.two_derivations()
        page = self.html(f"/builds/{build.id}?after=1000")
        self.assertIn("Lines 1001 to 1201 of 1201", page)
        for number in range(1001, 1202):
            self.assertIn(f'id="L{number}"', page)
        self.assertIn('rel="prev" href="?after=0#log-title"', page)
        self.assertNotIn('rel="next"', page)
        # Without a file, the oldest lines are gone; the page begins with the first that is kept.
        page = self.html(f"/builds/{build.id}?after=0")
        self.assertIn("Lines 202 to 1201 of 1201", page)
        self.assertIn(
            "These lines are not kept any more", self.html(f"/builds/{build.id}?after=5000")
        )

    def test_log_is_sent_as_text(self) -> None:
        """The log of a build, or of one of its derivations, is plain text."""
        build = self.two_derivations()
        answer = self.connect().request("GET", f"/builds/{build.id}/log", ("Accept", "text/html"))
        self.assertEqual(answer.header("Content-Type"), "text/plain; charset=utf-8")
        self.assertEqual(answer.header("X-Content-Type-Options"), "nosniff")
        whole = unchunked(answer.body)
        lines = whole.decode().splitlines()
        self.assertEqual(lines[0], "[201 lines were not kept]")
        self.assertEqual(lines[1], "good 201")
        self.assertEqual(len(lines), 1 + MAX_LOG_LINES)
        for number, expected in (("2", b"<b>no</b>\n"), ("3", b""), ("x", whole)):
            path = f"/builds/{build.id}/log?derivation={number}"
            self.assertEqual(unchunked(self.connect().request("GET", path).body), expected)
        self.assertEqual(self.connect().request("HEAD", f"/builds/{build.id}/log").body, b"")
        self.assertEqual(self.connect().request("GET", "/builds/x/log").status, 404)

    def test_log_waits_for_a_client_that_takes_nothing(self) -> None:
        """No more of a log is read than the client takes."""
        build = self.begin()
        for number in range(MAX_LOG_LINES):
            build.log(f"{number} " + "x" * 200)
        self.patch(build_log, "LINES_AT_ONCE", 10)
        client = self.connect(slow=True)
        client.send("GET", f"/builds/{build.id}/log")
        first = client.received()
        self.assertLess(len(first), MAX_LOG_LINES * 100)
        for _ in range(MAX_LOG_LINES):
            if client.received().endswith(b"0\r\n\r\n"):
                break
            client.resume()
        self.assertEqual(client.received().count(b"x" * 200), MAX_LOG_LINES)

    def test_build_that_failed_says_why(self) -> None:
        """A build that failed says why."""
        build = self.begin()
        output = CommandOutput(argv=("secret",), status=1, stderr="secret")
        build.fail(BuildFailed(derivation="/nix/store/x.drv", log=("no",), output=output))
        page = self.get(f"/builds/{build.id}")
        self.assertEqual(page["state"], "failed")
        self.assertEqual(page["problem"]["derivation"], "/nix/store/x.drv")
        self.assertEqual(page["problem"]["retry_at"], None)
        self.assertEqual(page["problem"]["log"], ["no"])
        self.assertNotIn("secret", json.dumps(page))

    def test_failed_build_names_the_package_what_to_do_and_when_it_is_tried_again(self) -> None:
        """The page begins with the package, and says what to do; the message comes after that."""
        build = self.begin()
        derivation = f"/nix/store/{'0' * 32}-git-2.47.0.drv"
        output = CommandOutput(argv=("nix",), status=1)
        build.fail(BuildFailed(derivation=derivation, log=("no",), output=output), 60)
        problem = self.get(f"/builds/{build.id}")["problem"]
        self.assertEqual(
            ("git 2.47.0", "git 2.47.0 failed to build", "2027-01-15T08:01:00.000+00:00"),
            (problem["package"], problem["title"], problem["retry_at"]),
        )
        self.assertEqual("a-package-does-not-build", problem["topic"])
        page = self.html(f"/builds/{build.id}")
        places = [
            page.index(text)
            for text in (
                "<bdi>git 2.47.0 failed to build</bdi>",
                problem["advice"],
                'The first pull after <time data-exact datetime="2027-01-15T08:01:00+00:00"',
                f"{derivation} failed to build",
            )
        ]
        self.assertEqual(sorted(places), places)
        now = FakeWallClock(self.clock)
        self.patch(pages, "SystemWallClock", lambda: now)
        self.assertIn("The first pull after", self.html(f"/builds/{build.id}"))
        self.clock.advance(61)
        self.assertIn("The next pull tries again.", self.html(f"/builds/{build.id}"))
        other = self.begin("other")
        other.fail(BuildFailed(derivation=derivation, log=(), output=output))
        self.assertIn("The next pull tries again.", self.html(f"/builds/{other.id}"))
        self.assertIn("git 2.47.0 failed to build", self.html("/builds"))

    def test_running_build_says_what_is_built_and_for_how_long(self) -> None:
        """One derivation is named, with its time; of several the progress is shown, too."""
        build = self.begin()
        derivation = f"/nix/store/{'0' * 32}-git-2.47.0.drv"
        build.count(Phase.BUILDING, 0, 1, "builds")
        build.derivation(derivation)
        build.derivation_phase(derivation, "checkPhase")
        self.clock.advance(125)
        page = self.html(f"/builds/{build.id}")
        running = '<bdi>git 2.47.0</bdi></strong> for <span class="since">2 min 05 s</span>'
        self.assertIn(running, page)
        self.assertIn("<bdi>checkPhase</bdi>", page)
        self.assertIn("building git 2.47.0</span>", page)
        self.assertNotIn("0 of 1", page)
        self.assertIn("building git 2.47.0", self.html("/builds"))
        connection = self.connect()
        connection.send("GET", f"/builds/{build.id}/events")
        self.assertIn(b"latest: building git 2.47.0\n", connection.received())
        build.count(Phase.BUILDING, 1, 14, "builds")
        build.derivation(derivation.replace("git", "perl-git"))
        page = self.html(f"/builds/{build.id}")
        self.assertIn("building: 1 of 14 builds", page)
        self.assertEqual(2, page.count('<li class="wrap">'))
        connection = self.connect()
        connection.send("GET", f"/builds/{build.id}/events")
        self.assertIn(b"building, 1 of 14 builds: perl-git 2.47.0\n", connection.received())
        build.derivation_ended(derivation, True)
        [running] = self.get(f"/builds/{build.id}")["running"]
        self.assertEqual("perl-git 2.47.0", running["package"])

    def test_row_has_the_other_names_the_clients_and_the_attempts(self) -> None:
        """A row, its page and its lines for a terminal say who waits, and by which names."""
        first = self.book.begin(parse_image_name("git", "x86_64-linux"), LATEST, "key")
        first.phase(Phase.BUILDING)
        for number in range(5):
            name = parse_image_name("git", "x86_64-linux")
            self.book.begin(name, Tag(f"v{number}"), "key")
        with self.book.clients.waiting(first.name, LATEST):
            with self.book.clients.waiting(first.name, Tag("v1")):
                [data] = self.get("/builds")["builds"]
                for path in ("/builds", f"/builds/{first.id}"):
                    page = self.html(path)
                    self.assertIn("also <bdi>git:v0, git:v1, git:v2</bdi> and 2 more", page)
                    self.assertIn("2 clients waiting", page)
                connection = self.connect()
                connection.send("GET", f"/builds/{first.id}/events")
                self.assertIn(b"building; 2 clients waiting\n", connection.received())
            self.assertIn("1 client waiting", self.html("/builds"))
        self.assertEqual((2, 5), (data["clients"], len(data["also"])))
        self.assertEqual(1, len(self.get("/builds?q=v4")["builds"]))

    def test_other_paths_are_404_whatever_they_are_made_of(self) -> None:
        """Other paths are 404, whatever they are made of."""
        build = self.begin()
        for path in (
            "/builds/x",
            "/builds/x/events",
            f"/builds/{build.id}/",
            f"/builds/{build.id}/x",
            "/builds/events/",
            "/builds/%ff",
            "/builds//events",
        ):
            answer = self.connect().request("GET", path)
            self.assertEqual(answer.status, 404, path)
            self.assertIn("error", json.loads(answer.body))

    def test_head_answers_without_a_body_and_opens_no_stream(self) -> None:
        """HEAD answers without a body, and opens no stream."""
        self.begin()
        for path in ("/builds", "/builds/events", "/builds/x"):
            self.assertEqual(self.connect().request("HEAD", path).body, b"")
        self.nothing_left_but_idle()

    def nothing_left_but_idle(self) -> None:
        self.assertEqual(self.pages.open_streams, 0)
        self.assertEqual(self.book._notifier._listeners, {})

    def test_nothing_can_be_written(self) -> None:
        """Nothing can be written."""
        answer = self.connect().request("POST", "/builds")
        self.assertEqual((answer.status, answer.header("Allow")), (405, "GET, HEAD"))

    def test_page_of_builds_is_a_404_if_pages_are_switched_off(self) -> None:
        """The page of builds is a 404 if pages are switched off."""
        root = make_root()
        self.assertEqual(Connection(root).request("GET", "/builds").status, 404)


class OverviewStreamTests(PagesTestCase):
    """The events of all builds."""

    def test_from_the_beginning(self) -> None:
        """All builds first, then what changes, at most twice a second."""
        self.begin("a")
        stream = self.listen("/builds/events")
        self.assertEqual(stream.status, 200)
        self.assertIn(b"Content-Type: text/event-stream\r\n", stream.head + b"\r\n")
        self.assertIn(b"Cache-Control: no-store", stream.head)
        self.assertIn(b"X-Accel-Buffering: no", stream.head)
        [(kind, data)] = stream.events()
        self.assertEqual((kind, [each["image"] for each in data["builds"]]), ("builds", ["a"]))
        build = self.begin("b")
        self.clock.advance(0)
        [(kind, data)] = stream.events()
        self.assertEqual((kind, data["image"]), ("build", "b"))
        for number in range(1000):
            build.count(Phase.BUILDING, number, 1000, "builds")
        self.clock.advance(0.25)
        self.assertEqual(stream.events(), [])
        self.clock.advance(0.25)
        [(kind, data)] = stream.events()
        self.assertEqual(data["counts"][0]["done"], 999)

    def test_nothing_is_an_overview_too(self) -> None:
        """Nothing is an overview too."""
        stream = self.listen("/builds/events")
        self.assertEqual(stream.events(), [("builds", {"builds": []})])

    def test_long_list_comes_in_parts_between_which_others_have_their_turn(self) -> None:
        """
        A long list comes in parts, between which others have their turn; a client that
        leaves with a part of it begins anew, and one that has all of it goes on.
        """
        images = [f"image-{number}" for number in range(12 * BUILDS_AT_ONCE)]
        for image in images:
            self.begin(image)
        stream = self.listen("/builds/events")
        self.assertLess(len(parts := stream.events()), 12)
        self.assertEqual("builds", self.back(stream).types()[0])
        for _ in range(3):
            self.clock.advance(0)
            parts += stream.events()
        self.assertEqual(["builds", *["more"] * 11], [kind for kind, _ in parts])
        seen = [each["image"] for _, data in parts for each in data["builds"]]
        self.assertEqual(images[::-1], seen)
        self.clock.advance(1)
        self.assertEqual([], stream.events())
        self.assertEqual([], self.back(stream).types())

    def back(self, stream: Stream) -> Stream:
        """The client of a stream comes back."""
        assert stream.last_id is not None
        return self.listen("/builds/events", ("Last-Event-ID", stream.last_id))

    def test_build_that_is_told_of_no_more_is_gone(self) -> None:
        """A build that is told of no more is gone."""
        build = self.begin("a")
        build._logged_phases = {Phase.EVALUATING}
        stream = self.listen("/builds/events")
        stream.events()
        build.succeed(DIGEST)
        self.clock.advance(1)
        self.assertEqual(stream.events(), [("removed", {"id": build.id})])

    def test_client_that_comes_back_gets_what_it_has_missed(self) -> None:
        """A client that comes back gets what it has missed."""
        self.begin("a")
        stream = self.listen("/builds/events")
        stream.events()
        stream.connection.disconnect()
        self.begin("b")
        assert stream.last_id is not None
        stream = self.listen("/builds/events", ("Last-Event-ID", stream.last_id))
        self.assertEqual([data["image"] for _, data in stream.events()], ["b"])
        # Nothing new, and then nothing is sent.
        assert stream.last_id is not None
        stream = self.listen("/builds/events", ("Last-Event-ID", stream.last_id))
        self.assertEqual(stream.events(), [])

    def test_coming_back_to_another_process(self) -> None:
        """Positions of an earlier process, and nonsense, begin anew."""
        self.begin("a")
        for last in ("00000000-1", "x", "-", "1-2-3", "1" * 5000):
            stream = self.listen("/builds/events", ("Last-Event-ID", last))
            self.assertEqual(stream.types(), ["builds"], last)

    def test_in_silence_a_comment_is_sent_now_and_then(self) -> None:
        """In silence, a comment is sent now and then."""
        stream = self.listen("/builds/events")
        stream.events()
        self.clock.advance(KEEP_ALIVE_SECONDS - 1)
        self.begin("a")
        self.clock.advance(1)
        self.assertEqual(stream.types(), ["build"])
        self.assertEqual(stream.comments, [])
        for _ in range(3):
            self.clock.advance(KEEP_ALIVE_SECONDS)
        self.assertEqual(stream.types(), [])
        self.assertEqual(stream.comments, ["still here"] * 3)

    def test_client_that_leaves_leaves_nothing_behind(self) -> None:
        """A client that leaves leaves nothing behind."""
        streams = [self.listen("/builds/events") for _ in range(3)]
        self.assertEqual(self.pages.open_streams, 3)
        self.begin("a")
        for stream in streams:
            stream.connection.disconnect()
        self.nothing_left()

    def test_only_so_many_streams_are_open_at_once(self) -> None:
        """Only so many streams are open at once."""
        self.patch(build_pages, "MAX_STREAMS", 2)
        streams = [self.listen("/builds/events") for _ in range(2)]
        answer = self.connect().request("GET", "/builds/events")
        self.assertEqual(answer.status, 503)
        self.assertEqual(answer.header("Retry-After"), "30")
        streams[0].connection.disconnect()
        self.assertEqual(self.listen("/builds/events").status, 200)

    def test_client_has_only_so_many_streams_and_others_have_theirs(self) -> None:
        """One address is refused its seventeenth; another one is not."""
        streams = [self.listen("/builds/events") for _ in range(MAX_STREAMS_PER_CLIENT)]
        answer = self.connect().request("GET", "/builds/events")
        self.assertEqual((answer.status, answer.header("Retry-After")), (429, "30"))
        other = Connection(self.site, self.clock, peer="192.0.2.2")
        other.send("GET", "/builds/events", ("Accept", "text/event-stream"))
        self.assertEqual(Stream(other).status, 200)
        streams[0].connection.disconnect()
        self.assertEqual(self.listen("/builds/events").status, 200)


class Reader:
    """Visibility rules of one reader, who may see fewer images later."""

    def __init__(self) -> None:
        self.hidden: set[str] = set()

    def may_see(self, _request: Request, image: str) -> bool:
        return image not in self.hidden


class NarrowedTests(PagesTestCase):
    """Streams of a reader who may see less than others, or than before."""

    def setUp(self) -> None:
        super().setUp()
        self.reader = Reader()
        self.pages = BuildPages(self.book, self.clock, make_pages(), visibility=self.reader)
        root = make_root(ui=UIHandlers(pages=make_pages(), builds=self.pages))
        self.site = make_site(root, self.clock)

    def end_unkept(self, build: Build) -> None:
        """End a build that is not kept."""
        build._logged_phases = {Phase.EVALUATING}
        build.succeed(DIGEST)
        self.clock.advance(1)

    def test_stream_of_a_build_ends_when_its_reader_may_not_see_it_any_more(self) -> None:
        """Nothing that comes after is sent, and the stream is not left open in silence."""
        build = self.begin()
        talking, silent = (self.listen(f"/builds/{build.id}/events") for _ in range(2))
        for stream in (talking, silent):
            self.assertEqual(stream.types(), ["build"])
        self.reader.hidden.add("shell/git")
        build.log("secret")
        self.clock.advance(1)
        self.assertEqual(talking.events(), [])
        self.assertTrue(talking.ended)
        quiet = self.begin("quiet")
        stream = self.listen(f"/builds/{quiet.id}/events")
        stream.events()
        self.reader.hidden.add("quiet")
        self.clock.advance(KEEP_ALIVE_SECONDS)
        self.assertEqual(stream.events(), [])
        self.assertTrue(stream.ended)

    def test_end_of_a_build_that_was_not_told_of_is_not_told_either(self) -> None:
        """Neither to the reader of a stream, nor to one that comes back."""
        self.reader.hidden.add("secret")
        shown, hidden = self.begin("shown"), self.begin("secret")
        stream = self.listen("/builds/events")
        [(_, data)] = stream.events()
        self.assertEqual([each["image"] for each in data["builds"]], ["shown"])
        last = stream.last_id
        self.end_unkept(hidden)
        self.end_unkept(shown)
        self.assertEqual(stream.events(), [("removed", {"id": shown.id})])
        assert last is not None
        returned = self.listen("/builds/events", ("Last-Event-ID", last))
        self.assertEqual(returned.events(), [("removed", {"id": shown.id})])

    def test_build_that_may_not_be_seen_any_more_is_taken_off_the_list(self) -> None:
        """Its next change tells the reader that it is gone, once."""
        build = self.begin("a")
        stream = self.listen("/builds/events")
        stream.events()
        self.reader.hidden.add("a")
        build.phase(Phase.PACKING)
        self.clock.advance(1)
        self.assertEqual(stream.events(), [("removed", {"id": build.id})])
        build.phase(Phase.STORING)
        self.clock.advance(1)
        self.assertEqual(stream.events(), [])


class BuildStreamTests(PagesTestCase):
    """The events of one build."""

    def setUp(self) -> None:
        super().setUp()
        self.build = self.begin()
        self.path = f"/builds/{self.build.id}/events"

    def test_from_the_beginning(self) -> None:
        """The build, its log so far, and what comes, at most ten times a second."""
        self.build.log("one")
        stream = self.listen(self.path)
        [(first, data), (second, log)] = stream.events()
        self.assertEqual((first, second), ("build", "log"))
        self.assertEqual(data["image"], "shell/git")
        self.assertEqual(log, plain_log(0, "one"))
        self.build.log("two")
        self.build.log("three")
        self.clock.advance(0)
        self.assertEqual(stream.events(), [("log", plain_log(1, "two", "three"))])
        self.build.log("four")
        self.clock.advance(0.0625)
        self.assertEqual(stream.events(), [])
        self.clock.advance(0.0625)
        self.assertEqual(stream.types(), ["log"])

    def test_stream_ends_when_the_build_does_and_says_how(self) -> None:
        """The stream ends when the build does, and says how."""
        stream = self.listen(self.path)
        stream.events()
        self.build.log("last words")
        self.build.succeed(DIGEST)
        self.clock.advance(1)
        [(first, _), (second, data)] = stream.events()
        self.assertEqual((first, second), ("log", "build"))
        self.assertEqual((data["state"], data["digest"]), ("succeeded", DIGEST))
        self.assertTrue(stream.ended)
        stream.connection.disconnect()
        self.nothing_left()

    def test_build_that_has_ended_is_told_from_beginning_to_end(self) -> None:
        """A build that has ended is told from beginning to end."""
        self.build.log("one")
        self.build.succeed(DIGEST)
        stream = self.listen(self.path)
        self.assertEqual(stream.types(), ["log", "build"])
        self.assertTrue(stream.ended)
        # Browsers come back when a stream ends; now they are told not to.
        assert stream.last_id is not None
        answer = self.connect().request("GET", self.path, ("Last-Event-ID", stream.last_id))
        self.assertEqual((answer.status, answer.body), (204, b""))

    def test_client_that_comes_back_gets_lines_that_it_has_missed_and_no_others(self) -> None:
        """A client that comes back gets the lines that it has missed, and no others."""
        self.build.log("one")
        stream = self.listen(self.path)
        stream.events()
        stream.connection.disconnect()
        self.build.log("two")
        self.build.succeed(DIGEST)
        assert stream.last_id is not None
        stream = self.listen(self.path, ("Last-Event-ID", stream.last_id))
        (log, build) = stream.events()
        self.assertEqual(log, ("log", plain_log(1, "two")))
        self.assertEqual(build[1]["state"], "succeeded")

    def test_stream_of_a_build_that_is_not_kept_ends_with_it(self) -> None:
        """The stream of a build that is not kept ends with it."""
        self.build._logged_phases = {Phase.EVALUATING}
        stream = self.listen(self.path)
        stream.events()
        self.build.succeed(DIGEST)
        self.clock.advance(1)
        self.assertEqual(stream.events(), [])
        self.assertTrue(stream.ended)

    def test_hundred_thousand_lines_at_once_are_one_telling(self) -> None:
        """
        A hundred thousand lines at once are one telling: those that are kept, in
        events of bearable size.
        """
        stream = self.listen(self.path)
        stream.events()
        for number in range(100_000):
            self.build.log(f"line {number}")
        self.assertEqual(len(self.clock.getDelayedCalls()), 2)
        self.clock.advance(0)
        events = [data for kind, data in stream.events() if kind == "log"]
        self.assertEqual(events[0]["first"], 100_000 - MAX_LOG_LINES)
        self.assertEqual(sum(len(data["lines"]) for data in events), MAX_LOG_LINES)
        self.assertTrue(all(len(data["lines"]) <= build_streams.LINES_AT_ONCE for data in events))
        self.assertEqual(events[-1]["lines"][-1], "line 99999")

    def test_nothing_is_queued_for_a_client_that_takes_nothing(self) -> None:
        """Nothing is queued for a client that takes nothing; later it gets the newest."""
        stream = self.listen(self.path, slow=True)
        self.assertEqual(stream.events(), [])
        for number in range(50_000):
            self.build.log(f"line {number}")
            if number % 1000 == 0:
                self.clock.advance(1)
        self.build.phase(Phase.PACKING)
        self.clock.advance(100)
        self.assertEqual(stream.events(), [])
        self.assertEqual(stream.comments, [])
        kinds = []
        for _ in range(20):
            stream.connection.resume()
            kinds += stream.events()
        self.assertEqual(kinds[0][0], "build")
        self.assertEqual(kinds[0][1]["stages"][-1]["phase"], "packing")
        self.assertEqual(kinds[1][1]["first"], 50_000 - MAX_LOG_LINES)
        self.assertEqual(len(kinds), 1 + MAX_LOG_LINES // build_streams.LINES_AT_ONCE)

    def test_a_slow_client_sees_the_state(self) -> None:
        """Lines that never cease do not hide the state from it."""
        stream = self.listen(self.path, slow=True)
        kinds = []
        for _ in range(6):
            for number in range(MAX_LOG_LINES):
                self.build.log(f"line {number}")
            self.build.count(Phase.BUILDING, 1, 2, "builds")
            stream.connection.resume()
            kinds += stream.types()
        self.assertIn("build", kinds)
        self.assertGreater(kinds.count("build"), 2)

    def test_slow_clients_that_leave(self) -> None:
        """One that leaves while it is slow leaves nothing behind either."""
        stream = self.listen(self.path, slow=True)
        self.build.log("one")
        stream.connection.disconnect()
        self.nothing_left()
        self.build.succeed(DIGEST)
        self.nothing_left()
