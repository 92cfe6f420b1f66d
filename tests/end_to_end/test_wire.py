"""
The API over real connections: what every URL of an image answers.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

from tests.end_to_end.case import EndToEndCase, demo_registry, watched_registry
from tests.end_to_end.images import digest_of
from tests.end_to_end.wire import DOCKER_MANIFEST, OCI_MANIFEST, Answer

UNKNOWN = "sha256:" + "0" * 64


class WireTests(EndToEndCase):
    """Requests to a running registry."""

    def urls(self, name: str) -> Iterator[str]:
        """Every URL of an image."""
        http = watched_registry().registry
        yield f"/v2/{name}/tags/list"
        yield f"/v2/{name}/manifests/latest"
        for kind in (OCI_MANIFEST, DOCKER_MANIFEST):
            manifest = http.manifest(name, accept=kind)
            digest = manifest.headers["docker-content-digest"]
            yield f"/v2/{name}/manifests/{digest}"
            yield f"/v2/{name}/referrers/{digest}"
            for descriptor in (manifest.json()["config"], *manifest.json()["layers"]):
                yield f"/v2/{name}/blobs/{descriptor['digest']}"

    def test_head_equals_get(self) -> None:
        """HEAD answers what GET answers, without the body, at all URLs."""
        http = watched_registry().registry
        urls = ["/v2/", *self.urls("plain"), f"/v2/plain/blobs/{UNKNOWN}", "/v2/nothing/here"]
        for url in urls:
            get, head = http.get(url), http.head(url)
            self.assertEqual(head.status, get.status, url)
            self.assertEqual(head.body, b"", url)
            self.assertEqual(_lasting(head), _lasting(get), url)
            self.assertEqual(int(head.headers["content-length"]), len(get.body), url)

    def test_absolute_targets_are_answered_as_their_paths_are(self) -> None:
        """A target that is a URL, as clients send it to proxies, is answered as its path is."""
        http = watched_registry().registry
        for url in ("/v2/", *self.urls("plain"), "/v2/nothing/here", "/healthz"):
            absolute = http.get(f"http://any.example{url}")
            self.assertEqual(absolute.status, http.get(url).status, url)

    def test_content_that_is_named_by_a_digest_has_this_digest(self) -> None:
        """Content that is named by a digest has this digest, and is announced with it."""
        http = watched_registry().registry
        for url in self.urls("plain"):
            answer = http.get(url, accept_encoding="gzip, zstd, deflate")
            self.assertEqual(answer.status, 200, url)
            self.assertNotIn("content-encoding", answer.headers, url)
            if "/manifests/" in url or "/blobs/" in url:
                self.assertEqual(answer.headers["docker-content-digest"], digest_of(answer.body))
                tag = answer.headers["etag"]
                self.assertEqual(http.get(url, if_none_match=tag).status, 304, url)

    def test_parts_of_a_blob_are_parts_of_it_and_none_lies_outside(self) -> None:
        """Parts of a blob are parts of it, and none lies outside."""
        http = watched_registry().registry
        (url,) = [url for url in set(self.urls("large")) if self._is_large(url)]
        whole = http.get(url).body
        size = len(whole)
        for range_, start, stop in (
            ("bytes=0-0", 0, 1),
            ("bytes=100-", 100, size),
            (f"bytes=1000000-{size + 5}", 1_000_000, size),
            ("bytes=70000-7000000", 70_000, 7_000_001),
            ("bytes=-4096", size - 4096, size),
        ):
            part = http.get(url, range=range_)
            self.assertEqual(part.status, 206, range_)
            self.assertEqual(part.headers["content-range"], f"bytes {start}-{stop - 1}/{size}")
            self.assertEqual(digest_of(part.body), digest_of(whole[start:stop]), range_)
        outside = http.get(url, range=f"bytes={size}-")
        self.assertEqual(outside.status, 416)
        self.assertEqual(outside.headers["content-range"], f"bytes */{size}")

    def test_request_that_cannot_be_answered_says_why_in_specifications_words(self) -> None:
        """A request that cannot be answered says why, in the specification's words."""
        http = demo_registry().registry
        for path, status, code, words in (
            ("helo/manifests/latest", 404, "MANIFEST_UNKNOWN", ("helo", "hello")),
            ("git/helo/htpo/manifests/latest", 404, "MANIFEST_UNKNOWN", ("helo", "htpo")),
            ("hello/manifests/stable", 404, "MANIFEST_UNKNOWN", ("stable", "latest")),
            (f"hello/manifests/{UNKNOWN}", 404, "MANIFEST_UNKNOWN", (UNKNOWN,)),
            (f"hello/blobs/{UNKNOWN}", 404, "BLOB_UNKNOWN", (UNKNOWN,)),
            ("Hello/manifests/latest", 400, "NAME_INVALID", ("Hello",)),
            ("hello/manifests/sha256:1", 400, "DIGEST_INVALID", ("sha256:1",)),
            ("unrar/manifests/latest", 422, "MANIFEST_INVALID", ("unrar", "unfree")),
            ("antique/manifests/latest", 422, "MANIFEST_INVALID", ("antique", "broken")),
            ("writetext/manifests/latest", 422, "MANIFEST_INVALID", ("writeText", "function")),
            ("twin/manifests/latest", 422, "MANIFEST_INVALID", ("TWIN", "Twin")),
        ):
            answer = http.get(f"/v2/{path}")
            self.assertEqual(answer.status, status, f"{path}: {answer.body[:300]!r}")
            self.assertEqual(answer.headers["content-type"], "application/json")
            self.assertEqual(answer.error["code"], code, path)
            for word in words:
                self.assertIn(word, answer.message)

    def test_order_does_not_matter(self) -> None:
        """The same packages in another order, or twice, are the same image."""
        http = watched_registry().registry
        digests = {
            http.manifest(name).headers["docker-content-digest"]
            for name in ("plain/large", "large/plain", "plain/large/plain")
        }
        self.assertEqual(len(digests), 1)

    def test_tls_client_at_a_plain_port_learns_at_once_that_there_is_none(self) -> None:
        """
        A client that tries TLS first learns at once that there is none, rather than
        by waiting.
        """
        port = watched_registry().registry.port
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
            self.assertRaises(ssl.SSLError) as refused,
        ):
            ssl.create_default_context().wrap_socket(connection, server_hostname="localhost")
        self.assertEqual(refused.exception.reason, "WRONG_VERSION_NUMBER")

    def test_pushes_are_refused(self) -> None:
        """Pushes are refused."""
        http = watched_registry().registry
        for method, path in (
            ("PUT", "manifests/latest"),
            ("POST", "blobs/uploads/"),
            ("DELETE", f"blobs/{UNKNOWN}"),
        ):
            answer = http.request(method, f"/v2/plain/{path}")
            self.assertEqual((answer.status, answer.error["code"]), (405, "UNSUPPORTED"))

    def _is_large(self, url: str) -> bool:
        head = watched_registry().registry.head(url)
        return "/blobs/" in url and int(head.headers["content-length"]) > 1_000_000


def _lasting(answer: Answer) -> dict[str, str]:
    """The headers that depend neither on the moment nor on the request's number."""
    passing = {"date", "x-request-id"}
    return {name: value for name, value in answer.headers.items() if name not in passing}
