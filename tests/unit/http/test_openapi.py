"""The description of all routes and the routes themselves are the same."""

from __future__ import annotations

import json
import re
from functools import cache
from http.client import HTTPResponse
from pathlib import Path
from socket import socketpair
from typing import Any

import yaml
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.http.openapi import read_description
from nixery.http.ui.image_link import SITE_SEGMENTS
from nixery.http.ui.image_pages import DOCUMENTS
from nixery.nix.errors import NixDiskFull
from nixery.runtime.data_files import web_directory
from tests.fuzz.fuzz_app import PASSWORD, USER, World, answers_in, basic

DIGEST = "sha256:" + "0" * 64

REFUSED = {"/api/packages", "/v2/_catalog"}
"""Paths that need more than a request to be answered well."""

UNDESCRIBED = {"/v2/{}", "/docs"}
"""Routes to what there is not, and a redirect."""

EXAMPLES = {
    "name": "shell/git",
    "reference": "latest",
    "digest": DIGEST,
    "image": "hello:latest",
    "id": "x",
    "page": "",
    "file": "site.css",
}


@cache
def description() -> Any:
    return json.loads(read_description(web_directory()))


def filled(path: str) -> str:
    """A path with examples in the places of its parameters."""
    for name, value in EXAMPLES.items():
        path = path.replace(f"{{{name}}}", value)
    return path


class DescriptionTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.world = World(directory, gated=True)
        self.paths = description()["paths"]

    def get(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: ".encode()
        data = self.world.exchange(head + basic(USER, PASSWORD) + b"\r\n\r\n")
        [answer] = answers_in(data, [method])
        return answer

    def test_all_routes_are_described_and_nothing_else(self) -> None:
        """Each route is described, with its methods, and nothing else is."""
        routes: dict[str, set[str]] = {}
        for rule in self.world.router.url_map.iter_rules():
            path = re.sub(r"<[^>]*>", "{}", rule.rule).rstrip("/")
            if path not in UNDESCRIBED:
                methods = {method.lower() for method in rule.methods or ()}
                routes.setdefault(path, set()).update(methods)
        described = {
            re.sub(r"{[^}]*}", "{}", path).rstrip("/"): {*operations} - {"parameters"}
            for path, operations in self.paths.items()
        }
        # Parts of an image, which are one route.
        for part in ("paths", "graph.json", "graph.svg", *DOCUMENTS):
            self.assertEqual(routes["/images/{}/{}"], described.pop(f"/images/{{}}/{part}"))
        del routes["/images/{}/{}"]
        self.assertEqual(described, routes)

    def test_described_paths_answer_as_described(self) -> None:
        """Each path that is described answers as described, to GET and HEAD."""
        for path, operations in self.paths.items():
            for method in ("get", "head"):
                if method not in operations:
                    continue
                with self.subTest(path=path, method=method):
                    status, _ = self.get(filled(path), method.upper())
                    self.assertIn(str(status), operations[method]["responses"])
                    if "/{" not in path and path not in REFUSED:
                        self.assertEqual(200, status)

    def test_first_segments_of_routes_are_the_sites_own(self) -> None:
        """No path of the site is taken for the name of an image when its part is switched off."""
        segments = self.world.router.first_segments - {b""}
        self.assertEqual(set(SITE_SEGMENTS), set(segments))

    def test_path_that_is_not_described_is_a_404(self) -> None:
        """A path that is not described is a 404."""
        for path in (
            "/api",
            "/api/x",
            "/builds/x/y",
            "/v2/x",
            "/x",
            "/favicon.ico/x",
            "/metrics/x",
        ):
            with self.subTest(path=path):
                self.assertEqual(404, self.get(path)[0])

    def answer(self, path: str, *headers: str) -> HTTPResponse:
        """The answer to a GET, as :mod:`http.client` reads it."""
        credentials = basic(USER, PASSWORD).decode()
        head = [f"GET {path} HTTP/1.1", "Host: a", f"Authorization: {credentials}", *headers]
        data = self.world.exchange("\r\n".join([*head, "", ""]).encode())
        ours, theirs = socketpair()
        with ours, theirs:
            theirs.sendall(data)
            response = HTTPResponse(ours)
            response.begin()
            self.addCleanup(response.close)
        return response

    def assert_described(self, response: HTTPResponse, path: str) -> None:
        """A response has the content type that its status has in the description."""
        described = self.paths[path]["get"]["responses"][str(response.status)]
        if "$ref" in described:
            described = description()["components"]["responses"][described["$ref"].split("/")[-1]]
        content_type = response.headers.get_content_type()
        self.assertIn(content_type, described["content"])

    def test_several_parts_of_a_blob_are_described(self) -> None:
        """The type of several parts of a blob is described."""
        manifest = json.load(self.answer("/v2/hello/manifests/latest"))
        path = f"/v2/hello/blobs/{manifest['config']['digest']}"
        response = self.answer(path, "Range: bytes=0-9,20-29")
        self.assertEqual(206, response.status)
        self.assertEqual("multipart/byteranges", response.headers.get_content_type())
        self.assert_described(response, "/v2/{name}/blobs/{digest}")

    def test_full_disk_is_described(self) -> None:
        """A pull that finds the disk full gets a status that is described by itself."""

        def fail() -> Deferred[None]:
            return defer.fail(NixDiskFull(reason="No space left on device"))

        self.world.nix.before_realise = fail
        response = self.answer("/v2/hello/manifests/latest")
        self.assertEqual(507, response.status)
        self.assertIsNotNone(response.headers["Retry-After"])
        self.assert_described(response, "/v2/{name}/manifests/{reference}")

    def test_description_is_served_in_json(self) -> None:
        """It is served in JSON, as it was written in YAML."""
        status, body = self.get("/openapi.json")
        self.assertEqual(200, status)
        self.assertEqual(description(), json.loads(body))
        text = (web_directory() / "openapi.yaml").read_text("utf-8")
        self.assertEqual(yaml.safe_load(text), json.loads(body))

    def test_each_reference_leads_to_something(self) -> None:
        """Each reference leads to something, and each thing is referred to."""
        whole = description()
        found: set[str] = set()

        def walk(value: Any) -> None:
            if isinstance(value, dict):
                if "$ref" in value:
                    found.add(value["$ref"])
                for each in value.values():
                    walk(each)
            elif isinstance(value, list):
                for each in value:
                    walk(each)

        walk(whole)
        there = {
            f"#/components/{kind}/{name}"
            for kind, members in whole["components"].items()
            for name in members
            if kind != "securitySchemes"
        }
        self.assertEqual(there, found)

    def test_programs_know_each_operation_by_a_name_of_its_own(self) -> None:
        """Programs know each operation by a name of its own."""
        names = [
            operation["operationId"]
            for operations in self.paths.values()
            for method, operation in operations.items()
            if method != "parameters"
        ]
        self.assertEqual(sorted(set(names)), sorted(names))
