"""Tests for :mod:`nixery.http.ui.pages` and :mod:`nixery.http.ui.assets`."""

from __future__ import annotations

import gzip
import re

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request

from nixery.http.root import Root
from nixery.http.routes import READ, Handlers, UIHandlers, make_router
from nixery.http.ui.assets import Assets
from nixery.http.ui.pages import Pages
from nixery.http.visibility import AllowAll, VisibilityRules
from nixery.limits.errors import QueueFull
from tests.support.http import Connection, make_root
from tests.support.pages import BROWSER, make_pages, site_files

HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\u202eevil\x00"


class TemplateTests(SynchronousTestCase):
    """Tests that hold for all templates."""

    def test_each_asset_that_is_named_exists(self) -> None:
        """Each asset that a template or a script names exists."""
        files = site_files()
        for name, text in files.templates.items():
            for asset in re.findall(r"asset\(['\"]([^'\"]+)['\"]\)", text):
                self.assertIn(asset, list(files.assets), name)
        for name in files.assets:
            asset = files.assets.get(name)
            assert asset is not None
            if name.endswith(".js"):
                folder = name.rpartition("/")[0]
                for other in re.findall(r"""from ["']\./([^"']+)["']""", asset.data.decode()):
                    self.assertIn(f"{folder}/{other}".lstrip("/"), list(files.assets), name)

    def test_policy_would_drop_what_stands_inline(self) -> None:
        """The policy would drop what stands inline: scripts, styles and handlers."""
        for name, text in site_files().templates.items():
            self.assertIsNone(re.search(r"\sstyle\s*=|<style|\son[a-z]+\s*=", text), name)
            for script in re.findall(r"<script[^>]*>", text):
                self.assertIn("src=", script, name)
            self.assertNotIn("| safe", text, name)

    def test_no_other_host(self) -> None:
        """Nothing is loaded from elsewhere."""
        for name, text in site_files().templates.items():
            self.assertIsNone(re.search(r"""(src|href)=["'](https?:)?//""", text), name)


class PagesTests(SynchronousTestCase):
    """Rendering, headers and failures."""

    def setUp(self) -> None:
        self.site = make_pages()

    def serve(self, pages: Pages, error: BaseException | None = None) -> Connection:
        router = make_router(Handlers(ui=UIHandlers(pages=pages)), "x86_64-linux")

        @router.route("/p/<rest:path>", methods=READ)
        @router.route("/p", methods=READ, defaults={"path": "nothing"})
        def answer(request: Request, path: str) -> bytes:
            if error is not None:
                raise error
            return pages.error(request, 404, path)

        return Connection(Root(router))

    def test_every_page_is_told_to_run_nothing_that_is_not_a_file_of_ours(self) -> None:
        """Every page is told to run nothing that is not a file of ours."""
        answer = self.serve(self.site).request("GET", "/p", BROWSER)
        policy = answer.header("Content-Security-Policy") or ""
        self.assertIn("default-src 'none'", policy)
        self.assertIn("frame-ancestors 'none'", policy)
        self.assertNotIn("unsafe", policy)
        self.assertEqual("nosniff", answer.header("X-Content-Type-Options"))
        self.assertEqual("no-referrer", answer.header("Referrer-Policy"))
        self.assertEqual("no-store", answer.header("Cache-Control"))
        self.assertEqual("Accept", answer.header("Vary"))

    def test_hostile_text_is_escaped(self) -> None:
        """Hostile text is shown as text, and cannot reverse the direction of what follows."""
        body = self.site.render(
            "error.html", title=HOSTILE, status=404, image=None, message=HOSTILE
        ).decode()
        self.assertNotIn("<script>alert", body)
        self.assertIn("&lt;script&gt;alert", body)
        for character in "\x1b\u202e\x00":
            self.assertNotIn(character, body)
        self.assertIn("\\u202e", body)

    def test_hostile_path_is_escaped(self) -> None:
        """So is what a client puts into a path."""
        answer = self.serve(self.site).request("GET", "/p/%3Cscript%3E%ff%E2%80%AE", BROWSER)
        self.assertEqual(404, answer.status)
        self.assertIn(b"&lt;script&gt;\\xff\\u202e", answer.body)

    def test_text_that_is_no_text_is_no_failure(self) -> None:
        """Text that is no text is no failure."""
        body = self.site.render("error.html", title="a", status=404, image=None, message="\ud800")
        self.assertIn(b"\\ud800", body)

    def test_others_get_a_line(self) -> None:
        """A client that is no browser gets a line of text."""
        answer = self.serve(self.site).request("GET", "/p/x", ("Accept", "*/*"))
        self.assertEqual((404, b"x\n"), (answer.status, answer.body))
        answer = self.serve(self.site).request("GET", "/p/x?format=html")
        self.assertEqual("text/html; charset=utf-8", answer.header("Content-Type"))

    def test_typed_failure_has_its_status_and_headers_another_one_reference_only(self) -> None:
        """A typed failure has its status and headers, another one a reference only."""
        connection = self.serve(self.site, QueueFull(waiting=3, retry_after=5.0))
        answer = connection.request("GET", "/p", BROWSER)
        self.assertEqual((429, "5"), (answer.status, answer.header("Retry-After")))
        answer = self.serve(self.site, RuntimeError("secret")).request("GET", "/p", BROWSER)
        self.assertEqual(500, answer.status)
        self.assertNotIn(b"secret", answer.body)
        self.assertIn(b"reference", answer.body)
        reference = answer.header("X-Request-Id")
        assert reference is not None
        self.assertIn(reference.encode("ascii"), answer.body)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_head_has_the_headers_of_get_and_no_body(self) -> None:
        """HEAD has the headers of GET and no body; all else is refused."""
        got = self.serve(self.site).request("GET", "/p", BROWSER)
        head = self.serve(self.site).request("HEAD", "/p", BROWSER)
        self.assertEqual(b"", head.body)
        self.assertEqual(got.header("Content-Length"), head.header("Content-Length"))
        answer = self.serve(self.site).request("POST", "/p", BROWSER)
        self.assertEqual((405, "GET, HEAD"), (answer.status, answer.header("Allow")))

    def test_everybody_sees_everything(self) -> None:
        """So far everybody sees everything."""
        seen: VisibilityRules = AllowAll()
        request: Request = object()  # type: ignore[assignment]  # not used
        self.assertTrue(seen.may_see(request, "shell"))


class AssetsTests(SynchronousTestCase):
    """Tests of the assets under ``/static``."""

    def setUp(self) -> None:
        self.assets = Assets({"a.css": b"x" * 4096, "b/c.js": b"y"})
        pages = make_pages()
        self.root = make_root(ui=UIHandlers(pages=pages, assets=self.assets))

    def ask(self, path: str, *headers: tuple[str, str]) -> tuple[int, str | None, bytes]:
        answer = Connection(self.root).request("GET", path, *headers)
        return answer.status, answer.header("Cache-Control"), answer.body

    def test_asset_under_its_digest_never_changes(self) -> None:
        """An asset under its digest never changes; another digest is not kept."""
        status, cached, body = self.ask(self.assets.url("b/c.js"))
        self.assertEqual((200, b"y"), (status, body))
        self.assertIn("immutable", cached or "")
        self.assertEqual((200, "no-cache", b"y"), self.ask("/static/old/b/c.js"))
        other = Assets({"a.css": b"x" * 4096, "b/c.js": b"z"})
        self.assertNotEqual(self.assets.url("a.css"), other.url("a.css"))

    def test_robots_may_follow_the_sites_pages_and_no_names(self) -> None:
        """Robots may read the documentation, and follow no path that is the name of an image."""
        root = make_root(ui=UIHandlers(pages=make_pages(), assets=site_files().assets))
        answer = Connection(root).request("GET", "/robots.txt")
        self.assertEqual("text/plain; charset=utf-8", answer.header("Content-Type"))
        lines = answer.body.decode().splitlines()
        self.assertIn("Disallow: /", lines)
        allowed = [line.removeprefix("Allow: ") for line in lines if line.startswith("Allow: ")]
        for path in ("/git", "/images/git:latest", "/api/packages", "/search", "/builds/x"):
            for rule in allowed:
                exact = rule.endswith("$")
                matches = path == rule[:-1] if exact else path.startswith(rule)
                self.assertFalse(matches, (path, rule))
        self.assertIn("/docs/", allowed)

    def test_client_that_accepts_gzip_gets_it_where_it_gains_something(self) -> None:
        """A client that accepts gzip gets it, where it gains something."""
        answer = Connection(self.root).request(
            "GET", self.assets.url("a.css"), ("Accept-Encoding", "gzip, br")
        )
        self.assertEqual("gzip", answer.header("Content-Encoding"))
        self.assertEqual(b"x" * 4096, gzip.decompress(answer.body))
        self.assertEqual("Accept-Encoding", answer.header("Vary"))

    def test_client_that_has_the_asset_gets_no_second_copy(self) -> None:
        """A client that has the asset gets no second copy."""
        asset = self.assets.get("a.css")
        assert asset is not None
        status, _, body = self.ask("/static/old/a.css", ("If-None-Match", asset.etag.decode()))
        self.assertEqual((304, b""), (status, body))

    def test_no_path_leads_out_of_it_and_unknown_names_are_errors_of_the_page(self) -> None:
        """No path leads out of it, and unknown names are errors of the page."""
        for path in ("/static", "/static/", "/static/x", "/static/x/../a", "/static/x/%2e%2e/a"):
            self.assertEqual(404, self.ask(path)[0], path)
        self.assertRaises(KeyError, self.assets.url, "none.css")
