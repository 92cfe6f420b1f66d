"""
The authorization matrix: one table of who may have what, for one server with all of its parts.

Each row is asked for in several ways (methods, ranges, conditions, media types) by each client.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import bcrypt
from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from nixery.access.passwords import Passwords
from nixery.access.throttle import FORGET_AFTER_SECONDS
from nixery.image.manifests import digest_of
from nixery.image.names import escape_attribute
from nixery.image.patterns import parse_patterns
from nixery.testing.fakes import FakePackage
from tests.fuzz.fuzz_app import World, answers_in, basic

IMAGES: Mapping[str, Sequence[str]] = {
    "hello": ("alice", "bob", "token"),
    "sesame": ("bob", "carol"),
    "hello/sesame": ("bob",),
}
"""Images, and the clients that can pull each of them."""

NO_LOGIN = ("nobody", "stranger")
"""Clients who prove nothing: without credentials, and with a wrong password."""

CLIENTS = (*NO_LOGIN, "alice", "bob", "carol", "token")
"""
Alice may have hello, Carol sesame, and Bob everything.  ``token`` is Alice's for ``hello`` as it is
spelled, and no other name.
"""

USERS = ("alice", "bob", "carol", "token")

GET, HEAD = "GET", "HEAD"

Ask = tuple[str, str]
"""A method, and a header with its value or an empty text."""

BLOB_WAYS: Sequence[Ask] = (
    (GET, ""),
    (HEAD, ""),
    (GET, "Range: bytes=0-1"),
    (GET, "If-None-Match: *"),
    (HEAD, "If-None-Match: *"),
)

PAGE_WAYS: Sequence[Ask] = (
    (GET, ""),
    (HEAD, ""),
    (GET, "Accept: text/html"),
    (GET, "Accept: application/json"),
)

BROWSER_WAYS: Sequence[Ask] = ((GET, "Accept: text/html"), (HEAD, "Accept: text/html"))

STREAM_WAYS: Sequence[Ask] = (
    (GET, "Accept: text/event-stream"),
    (GET, ""),
    (HEAD, "Accept: text/event-stream"),
    (GET, "Last-Event-ID: 1-1"),
)


@frozen
class Row:
    """A path, the ways to ask for it, and the clients that may have it."""

    path: str
    ways: Sequence[Ask]
    may: Sequence[str]


def spellings(name: str) -> Iterator[str]:
    """Yield names that request one package and nothing that not every image has."""
    escaped = escape_attribute(name)
    percent = f"%{ord(name[0]):02x}{name[1:]}"
    yield from (name, f"{name}/{name}", f"cacert/{name}", f"{name}/cacert", escaped, percent)
    yield from (f"{escaped}/{name}", f"{name}/{escaped}", f"cacert/{escaped}", f"arm64/{name}")
    yield from (f"{name}/cacert/{name}", f"arm64/{escaped}", f"cacert/{percent}/cacert")


class MatrixTests(SynchronousTestCase):
    """Tests of every part of the server with every client."""

    def setUp(self) -> None:
        self.world = World(Path(self.mktemp()), gated=True)
        self.world.nix.packages = [
            *self.world.nix.packages,
            FakePackage(attribute="sesame", files={"bin/sesame": b"open"}, references=("glibc",)),
            FakePackage(attribute="cacert", files={"etc/ca": b"certificates"}),
        ]
        self.world.controller.replace_users(
            Passwords(
                hashes={
                    user: bcrypt.hashpw(user.encode(), bcrypt.gensalt(4))
                    for user in ("alice", "bob", "carol")
                }
            ),
            {"alice": parse_patterns(["hello"]), "carol": parse_patterns(["sesame"])},
        )
        self.manifests = {
            name: json.loads(self.ask("bob", GET, f"/v2/{name}/manifests/latest")[1])
            for name in IMAGES
        }
        self.digests = {
            name: digest_of(self.ask("bob", GET, f"/v2/{name}/manifests/latest")[1])
            for name in IMAGES
        }

    def credentials(self, client: str) -> list[bytes]:
        match client:
            case "nobody":
                return []
            case "stranger":
                # Otherwise it would only be told that it has tried too often.
                self.world.clock.advance(FORGET_AFTER_SECONDS + 1)
                return [b"Authorization: " + basic("mallory", "open sesame")]
            case "token":
                issued = self.world.controller.issue_tokens("alice", ["repository:hello:pull"])
                return [b"Authorization: Bearer " + issued.token.encode()]
        return [b"Authorization: " + basic(client, client)]

    def ask(self, client: str, method: str, path: str, header: str = "") -> tuple[int, bytes]:
        """Send a request; return the status and the body."""
        lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: reg.example"]
        lines += self.credentials(client) + ([header.encode()] if header else [])
        received = self.world.exchange(b"\r\n".join([*lines, b"", b""]))
        [(status, body)] = answers_in(received, [method])
        return status, body

    def registry_rows(self) -> Iterator[Row]:
        """Yield the rows of the registry API."""
        for name in ("hello", "sesame"):
            for spelling in spellings(name):
                may = IMAGES[name]
                if spelling not in ("hello", "%68ello"):
                    may = [client for client in may if client != "token"]
                yield Row(f"/v2/{spelling}/manifests/latest", BLOB_WAYS, may)
        for name, may in IMAGES.items():
            manifest = self.manifests[name]
            yield Row(f"/v2/{name}/tags/list", BLOB_WAYS[:2], may)
            for blob in (manifest["config"], *manifest["layers"]):
                yield Row(f"/v2/{name}/blobs/{blob['digest']}", BLOB_WAYS, may)
            yield Row(f"/v2/{name}/blobs/sha256:{'0' * 64}", BLOB_WAYS, ())
            yield Row(f"/v2/{name}/manifests/sha256:{'0' * 64}", BLOB_WAYS, ())
        for name, may in IMAGES.items():
            yield from self.referrer_rows(name, may)
        # What only the other image has, under the name that the client may have.
        for name, other in (("hello", "sesame"), ("sesame", "hello")):
            own = {layer["digest"] for layer in self.manifests[name]["layers"]}
            for blob in (self.manifests[other]["config"], *self.manifests[other]["layers"]):
                if blob["digest"] not in own:
                    yield Row(f"/v2/{name}/blobs/{blob['digest']}", BLOB_WAYS, ("bob",))

    def referrer_rows(self, name: str, may: Sequence[str]) -> Iterator[Row]:
        """Yield the rows of what refers to the manifest of an image: of that, and by that name."""
        image = self.digests[name]
        yield Row(f"/v2/{name}/referrers/{image}", BLOB_WAYS[:2], may)
        for suffix in ("", ".sig", ".att"):
            yield Row(f"/v2/{name}/manifests/{image.replace(':', '-')}{suffix}", BLOB_WAYS, may)
        index = json.loads(self.ask("bob", GET, f"/v2/{name}/referrers/{image}")[1])
        document, *_, bundle = index["manifests"]
        signatures = f"/v2/{name}/manifests/{image.replace(':', '-')}.sig"
        body = self.ask("bob", GET, signatures)[1]
        for digest in (document["digest"], bundle["digest"], digest_of(body)):
            yield Row(f"/v2/{name}/manifests/{digest}", BLOB_WAYS, may)
            manifest = json.loads(self.ask("bob", GET, f"/v2/{name}/manifests/{digest}")[1])
            for blob in (manifest["config"], *manifest["layers"]):
                yield Row(f"/v2/{name}/blobs/{blob['digest']}", BLOB_WAYS, may)
            # Bob may have everything, by whatever name.
            other = "hello" if name != "hello" else "sesame"
            yield Row(f"/v2/{other}/manifests/{digest}", BLOB_WAYS, ("bob",))
            [blob] = manifest["layers"]
            yield Row(f"/v2/{other}/blobs/{blob['digest']}", BLOB_WAYS, ("bob",))

    def page_rows(self) -> Iterator[Row]:
        """Yield the rows of pages, their data and their streams."""
        for path in ("/", "/builds", "/images", "/metrics", "/?packages=hello"):
            yield Row(path, PAGE_WAYS, USERS)
        for path in ("/search?q=hello", "/api/search?q=hello"):
            yield Row(path, PAGE_WAYS, USERS)
        yield Row("/builds/events", STREAM_WAYS, USERS)
        for path in ("/healthz", "/docs/", "/favicon.ico", "/robots.txt"):
            yield Row(path, PAGE_WAYS, CLIENTS)
        yield Row("/keys/nixery.pub", PAGE_WAYS, CLIENTS)
        builds = {build.image: build.id for build in self.world.book.overview()}
        for name, may in IMAGES.items():
            for part in ("", "/paths", "/graph.json", "/graph.svg", "/sbom.cdx.json", "?why=glibc"):
                yield Row(f"/images/{name}:latest{part}", PAGE_WAYS, may)
            yield Row(f"/builds/{builds[name]}", PAGE_WAYS, may)
            yield Row(f"/builds/{builds[name]}/events", STREAM_WAYS[:3], may)
            yield Row(f"/builds/{builds[name]}/log", PAGE_WAYS, may)
            yield Row(f"/api/packages?names={name}", PAGE_WAYS, may)
            # An image that was never pulled, whose name is not the one of the token.
            users = [client for client in may if client != "token"]
            yield Row(f"/images/{name}/cacert:latest", BROWSER_WAYS, users)
            yield Row(f"/api/estimate/{name}", PAGE_WAYS, may)
            yield Row(f"/api/estimate/{name}?with={name}", PAGE_WAYS, may)
        # Bob may have both.
        yield Row("/api/estimate/hello?with=sesame", PAGE_WAYS, ("bob",))

    def check(self, rows: Iterator[Row]) -> int:
        """Ask for each row in each way by each client; return the number of requests."""
        number = 0
        for row in rows:
            for method, header in row.ways:
                for client in CLIENTS:
                    number += 1
                    status, body = self.ask(client, method, row.path, header)
                    case = (client, method, row.path, header, status)
                    if client in row.may:
                        self.assertIn(status, (200, 206, 304), case)
                        continue
                    refused = (401,) if client in NO_LOGIN else (401, 403, 404)
                    self.assertIn(status, refused, case)
                    self.assertNotIn(b"/nix/store", body, case)
        return number

    def test_browser_without_a_login_gets_a_page_that_says_how(self) -> None:
        """A browser that has not logged in gets a page which says how, others a line of text."""
        status, body = self.ask("nobody", GET, "/builds", "Accept: text/html")
        self.assertEqual(401, status)
        self.assertIn(b'id="log-in"', body)
        self.assertIn(b'href="/docs/"', body)
        status, body = self.ask("nobody", GET, "/builds")
        self.assertEqual((401, 1), (status, body.count(b"\n")))

    def test_button_builds_for_those_who_may_have_the_image(self) -> None:
        """The button begins a build for a client that may have the image, and for no other."""
        for name, may in IMAGES.items():
            path = f"/images/{name}/cacert:latest/build"
            for client in CLIENTS:
                builds = len(self.world.nix.evaluations)
                status, _ = self.ask(client, "POST", path, "Content-Length: 0")
                case = (client, path, status)
                if client in may and client != "token":
                    self.assertEqual(303, status, case)
                    continue
                self.assertIn(status, (401,) if client in NO_LOGIN else (401, 403), case)
                self.assertEqual(builds, len(self.world.nix.evaluations), case)
            foreign = self.ask("bob", "POST", path, "Origin: http://attacker.example")
            self.assertEqual(403, foreign[0])

    def test_names_as_paths_lead_browsers_to_the_page_after_a_login(self) -> None:
        """The name of an image as a path is redirected to its page, for users alone."""
        for client in CLIENTS:
            status, _ = self.ask(client, GET, "/hello", "Accept: text/html")
            self.assertEqual(302 if client in USERS else 401, status, client)

    def test_every_part_is_for_those_who_may_have_it(self) -> None:
        """A client that may have something gets it in every way, and no other in any."""
        self.assertGreater(self.check(self.registry_rows()), 800)
        self.assertGreater(self.check(self.page_rows()), 500)

    def test_lists_have_what_their_reader_may_have(self) -> None:
        """Names of other images are in no list, box or page, for a person or a program."""
        for path in ("/images", "/builds", "/"):
            for header in ("Accept: text/html", "Accept: application/json"):
                for client, knows in (("alice", False), ("bob", True), ("carol", True)):
                    _, body = self.ask(client, GET, path, header)
                    self.assertEqual(knows, b"sesame" in body, (path, header, client))

    def test_whoever_was_removed_gets_nothing_more(self) -> None:
        """From the next request on, with password and token alike."""
        self.assertEqual(200, self.ask("alice", GET, "/v2/hello/manifests/latest")[0])
        self.assertEqual(200, self.ask("token", GET, "/v2/hello/manifests/latest")[0])
        old = self.credentials("token")[0].decode()
        hashes = {"bob": bcrypt.hashpw(b"bob", bcrypt.gensalt(4))}
        self.world.controller.replace_users(Passwords(hashes=hashes), {})
        for path in ("/v2/hello/manifests/latest", "/images/hello:latest", "/builds"):
            self.assertEqual(401, self.ask("nobody", GET, path, old)[0], path)
            self.assertIn(self.ask("alice", GET, path)[0], (401, 429), path)
