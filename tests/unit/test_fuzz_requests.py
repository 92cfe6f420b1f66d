"""Tests that no request causes an internal error, a file, a process or a forged log line."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.fuzz_app import PASSWORD, USER, World, audited, basic
from tests.fuzz.targets import REQUESTS, world
from tests.support.garbage import set_garbage_apart

DIGEST = "sha256:" + "0" * 64

segments = st.one_of(
    st.sampled_from(
        [
            "hello",
            "shell",
            "..",
            ".",
            "",
            "%2e%2e",
            "..%2f..%2fetc",
            "%00",
            "%c0%ae",
            "%ff",
            "a%0d",
            "%0aX: y",
            "hello:latest",
            "latest",
            "attr--2e2e",
            "attr--24287829",
            "$(id)",
            "`id`",
            "a" * 300,
            "HELLO",
            "-",
            "%e2%80%ae",
            "${x}",
            "sha256-" + "0" * 64,
            "_catalog",
        ]
    ),
    st.text(max_size=8).map(lambda text: quote(text, safe="")),
    st.binary(max_size=8).map(quote),
)
"""Parts of paths, as they are sent."""

digests = st.one_of(
    st.just(DIGEST),
    st.sampled_from([DIGEST.upper(), DIGEST[:-1], DIGEST + "0", "md5:" + "0" * 32, "sha256:", ":"]),
    segments,
)

paths = st.one_of(
    st.builds(
        lambda names, kind, last: "/v2/" + "/".join([*names, kind, last]),
        st.lists(segments, min_size=1, max_size=4),
        st.sampled_from(["manifests", "blobs", "tags", "referrers", "uploads"]),
        st.one_of(digests, st.just("list")),
    ),
    st.builds(
        lambda first, rest: "/" + "/".join([first, *rest]),
        st.sampled_from(
            [
                "v2",
                "",
                "api",
                "builds",
                "images",
                "docs",
                "static",
                "token",
                "openapi.json",
                "healthz",
                "readyz",
                "metrics",
                "favicon.ico",
                "robots.txt",
                "search",
                "hello",
            ]
        ),
        st.lists(segments, max_size=4),
    ),
    st.builds(
        lambda start, names, end: start + "/".join(names) + end,
        st.sampled_from(["/images/", "/"]),
        st.lists(segments, min_size=1, max_size=4),
        st.sampled_from(["", ":latest", ":latest/build", ":v1/paths"]),
    ),
)

queries = st.lists(
    st.builds(
        lambda name, value: f"{name}={value}",
        st.sampled_from(
            [
                "n",
                "last",
                "names",
                "packages",
                "q",
                "page",
                "layer",
                "sort",
                "why",
                "format",
                "scope",
                "artifactType",
                "ns",
                "",
            ]
        ),
        st.one_of(segments, st.sampled_from(["-1", "0", "9" * 40, "1e9", "%F0%9F%98%80"])),
    ),
    max_size=3,
).map(lambda items: "?" + "&".join(items) if items else "")

ranges = st.one_of(
    st.builds(
        lambda first, last: f"bytes={first}-{last}",
        st.one_of(st.integers(-3, 9), st.just(""), st.just("9" * 5000)),
        st.one_of(st.integers(-3, 9), st.just(""), st.just("9" * 5000)),
    ),
    st.sampled_from(["bytes=", "bytes=0-1,3-4," + "1-2," * 500, "lines=1-2", "bytes=\u0661-"]),
)

values = st.one_of(
    ranges.map(str.encode),
    st.binary(max_size=12),
    st.sampled_from(
        [
            b"application/json;q=0, " * 300,
            b"text/html",
            b"text/event-stream",
            b"gzip",
            b"*",
            b'W/"' + DIGEST.encode() + b'"',
            basic(USER, PASSWORD),
            basic(USER, "wrong"),
            basic("\x1b[31m\r\n", "x"),
            b"Basic ====",
            b"Basic",
            b"Bearer " + b"e30." * 100,
            b"a:b@c:99999999999",
            b"127.0.0.1, ::1, \xff",
        ]
    ),
)

headers = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"Accept",
                b"Authorization",
                b"Range",
                b"If-Range",
                b"If-None-Match",
                b"Host",
                b"User-Agent",
                b"Last-Event-ID",
                b"Accept-Encoding",
                b"X-Forwarded-For",
                b"Content-Length",
                b"Transfer-Encoding",
                b"Content-Type",
                b"Cookie",
                b"Expect",
            ]
        ),
        values,
    ),
    max_size=4,
)

methods = st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "get"])


def request(method: str, target: str, lines: list[tuple[bytes, bytes]]) -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: a\r\n".encode()
    return head + b"".join(b"%s: %s\r\n" % line for line in lines) + b"\r\n"


requests = st.builds(
    lambda method, path, query, lines: request(method, path + query, lines),
    methods,
    paths,
    queries,
    headers,
)
"""Requests whose framing is well, mostly."""


def spoilt(seed: bytes, start: int, length: int, piece: bytes) -> bytes:
    at = start % (len(seed) + 1)
    return seed[:at] + piece + seed[at + length :]


bytes_sent = st.one_of(
    st.builds(
        spoilt,
        st.sampled_from(REQUESTS),
        st.integers(0, 400),
        st.integers(0, 12),
        st.one_of(st.binary(max_size=8), st.sampled_from([b"\r\n", b"\n", b"\0", b" ", b"/../"])),
    ),
    st.binary(max_size=200),
)
"""Requests with a piece replaced, and no requests at all."""


def _fail(_tracker: object) -> bytes:
    raise ZeroDivisionError


class RequestTests(SynchronousTestCase):
    """Each is judged by what :meth:`tests.fuzz.fuzz_app.World.check` looks at."""

    def setUp(self) -> None:
        set_garbage_apart(self)
        # What one test leaves behind may be what trips the next one.
        self.worlds = [world(gated=False), world(gated=True)]

    def check(self, data: bytes) -> None:
        for each in self.worlds:
            each.check(data)

    def test_inputs_that_the_fuzzers_begin_from_are_answered(self) -> None:
        """The inputs that the fuzzers begin from are answered."""
        for data in REQUESTS:
            with self.subTest(data=data):
                for each in self.worlds:
                    self.assertTrue(each.check(data))

    def test_requests_of_any_path_with_any_headers_and_credentials(self) -> None:
        """Requests of any path, with any headers and credentials."""
        settings(max_examples=60)(given(requests)(self.check))()

    def test_anything_at_all_on_a_connection(self) -> None:
        """Anything at all on a connection."""
        settings(max_examples=60)(given(bytes_sent)(self.check))()

    def test_images_are_made(self) -> None:
        """The world does make images: it is not all refusals that are looked at."""
        for each, given_headers in zip(
            self.worlds, ([], [(b"Authorization", basic(USER, PASSWORD))]), strict=True
        ):
            data = request("GET", "/v2/shell/hello/manifests/latest", given_headers)
            with self.subTest(gated=each.gated):
                self.assertEqual([404], each.check(data))
                data = request("GET", "/v2/hello/manifests/latest", given_headers)
                self.assertEqual([200], each.check(data))

    def test_file_elsewhere_and_a_failure_of_ours_are_noticed(self) -> None:
        """A file elsewhere, and a failure of ours, are noticed."""
        [each, _] = self.worlds
        with self.assertRaises(AssertionError), audited([each.directory]):
            Path("/dev/null").read_bytes()
        beside = each.directory.with_name("beside")
        with self.assertRaises(AssertionError), audited([each.directory]):
            beside.symlink_to(each.directory)
        beside.unlink()
        with audited([each.directory]):
            (each.directory / "within").symlink_to("/dev/null")  # which touches nothing there
        (each.directory / "within").unlink()
        self.patch(type(each.book), "overview", _fail)
        with self.assertRaises(AssertionError):
            each.check(request("GET", "/builds", []))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


class WorkTests(SynchronousTestCase):
    """Tests that the cost of a request is bounded by its length."""

    def calls(self, one: World, data: bytes) -> int:
        """Count the calls of functions that an exchange takes."""
        count = 0

        def called(_frame: object, event: str, _argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(called)
        try:
            one.check(data)
        finally:
            sys.setprofile(None)
        return count

    def test_twice_as_much_of_anything_is_at_most_about_twice_the_work(self) -> None:
        """Twice as much of anything is at most about twice the work."""
        one = world(gated=False)
        for make in (
            lambda n: request("GET", "/v2/" + "a/" * n + "manifests/latest", []),
            lambda n: request("GET", "/v2/" + "%2e" * n + "/manifests/latest", []),
            lambda n: request("GET", "/api/packages?names=" + "a+" * n, []),
            lambda n: request("GET", "/api/estimate/" + "a/" * n + "a?with=" + "a/" * n, []),
            lambda n: request("GET", "/images?q=" + "%C3%A4" * n, []),
            lambda n: request("GET", "/docs/" + "../" * n, []),
            lambda n: request("GET", "/v2/hello/manifests/latest", [(b"Accept", b"a/b," * n)]),
            lambda n: request("GET", "/v2/hello/manifests/latest", [(b"If-None-Match", b"a," * n)]),
            lambda n: request("GET", "/v2/", [(b"Cookie", b"a=b;" * n)]),
        ):
            one.check(make(100))
            small, large = self.calls(one, make(500)), self.calls(one, make(1000))
            with self.subTest(data=make(3)):
                self.assertLess(large, 2.5 * small + 2000)
