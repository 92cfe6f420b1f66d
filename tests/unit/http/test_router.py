"""Tests of routing: which path leads to which handler, with which values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from werkzeug.exceptions import MethodNotAllowed, NotFound

from nixery.errors import NixeryError
from nixery.http.registry.api import Registry
from nixery.http.router import Router
from nixery.http.routes import Handlers, make_router
from nixery.http.server import split_path
from nixery.image.errors import InvalidDigest, InvalidName, InvalidReference
from nixery.image.names import Digest, Tag, parse_image_name
from nixery.testing.fakes import InlineWorkers
from nixery.testing.memory_storage import MemoryStorage
from tests.support.http import FakeImages

SYSTEM = "x86_64-linux"
DIGEST = Digest("sha256:" + "0123456789abcdef" * 4)
QUICK = settings(max_examples=100)

# Words of the API itself are packages like all others.
COMPONENTS = st.sampled_from(
    ["git", "manifests", "blobs", "tags", "list", "referrers", "uploads", "v2", "a.b", "x-y", "0ad"]
)
NAMES = st.lists(COMPONENTS, min_size=1, max_size=6).map("/".join)
TAGS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", fullmatch=True)


def make_registry_router(system: str = SYSTEM) -> Router:
    registry = Registry(FakeImages(), MemoryStorage(), InlineWorkers(), Clock())
    return make_router(Handlers(registry=registry), system)


ROUTER = make_registry_router()

Route = tuple[str, Mapping[str, Any]]
"""The name of a handler and the values in the path."""


def find_handler(path: str | bytes, method: str = "GET", router: Router = ROUTER) -> Route:
    """Match a path as Klein does."""
    segments = split_path(path.encode() if isinstance(path, str) else path)
    bound = router.url_map.bind(
        "localhost", path_info="/" + b"/".join(segments).decode("utf-8"), default_method=method
    )
    rule, values = bound.match(return_rule=True)
    return rule.endpoint, values


class RouteTests(SynchronousTestCase):
    @QUICK
    @given(repository=NAMES, tag=TAGS)
    def test_every_name_has_every_route(self, repository: str, tag: str) -> None:
        """Routes are found from the right, whatever words the name is made of."""
        name = parse_image_name(repository, SYSTEM)
        expected: dict[str, Route] = {
            f"manifests/{tag}": ("manifest", {"name": name, "reference": Tag(tag)}),
            f"manifests/{DIGEST}": ("manifest", {"name": name, "reference": DIGEST}),
            f"blobs/{DIGEST}": ("blob", {"name": name, "digest": DIGEST}),
            f"referrers/{DIGEST}": ("referrers", {"name": name, "digest": DIGEST}),
            "tags/list": ("tags", {"name": name}),
        }
        for rest, route in expected.items():
            self.assertEqual(route, find_handler(f"/v2/{repository}/{rest}"))

    @QUICK
    @given(repository=NAMES, tag=TAGS, data=st.data())
    def test_character_may_be_percent_encoded_but_for_the_slashes_that_separate(
        self, repository: str, tag: str, data: st.DataObject
    ) -> None:
        """A character may be percent-encoded, but for the slashes that separate."""
        path = f"/v2/{repository}/manifests/{tag}"
        encoded = "".join(
            f"%{ord(character):02X}" if character != "/" and data.draw(st.booleans()) else character
            for character in path
        )
        self.assertEqual(find_handler(path), find_handler(encoded))

    @QUICK
    @given(raw=st.binary(max_size=60), prefix=st.sampled_from([b"", b"/v2/", b"/v2/a/manifests/"]))
    def test_any_bytes_have_an_answer(self, raw: bytes, prefix: bytes) -> None:
        """A path is a route or a typed failure, and nothing else."""
        for path in (prefix + raw, prefix + quote(raw).encode()):
            try:
                find_handler(path)
            except NotFound:
                pass
            except NixeryError as error:
                self.assertIsInstance(error, (InvalidName, InvalidDigest, InvalidReference))

    @QUICK
    @given(text=st.text(min_size=1, max_size=20))
    def test_names_are_what_the_grammar_says(self, text: str) -> None:
        """A name in a path is taken exactly if it is a name, slashes in escapes apart."""
        assume("/" not in text)
        path = f"/v2/{quote(text, safe='')}/tags/list"
        try:
            name = parse_image_name(text, SYSTEM)
        except InvalidName:
            self.assertRaises(InvalidName, find_handler, path)
        else:
            self.assertEqual(("tags", {"name": name}), find_handler(path))

    def test_ping_has_two_spellings(self) -> None:
        """It has two spellings."""
        self.assertEqual(("ping", {}), find_handler("/v2/"))
        self.assertEqual(("ping", {}), find_handler("/v2"))

    def test_catalog_is_told_apart_from_names(self) -> None:
        """It is told apart from a name, which cannot begin so."""
        self.assertEqual(("catalog", {}), find_handler("/v2/_catalog"))

    def test_path_without_name_or_with_extra_end_is_no_route(self) -> None:
        """A path without a name or with an extra end is no route of the API."""
        for path in (
            "/v2/git",
            "/v2/tags/list",
            "/v2/manifests/latest",
            "/v2/git/manifests/latest/",
            "/v2/git/manifests",
            "/v2/git/blobs/uploads/",
            "/v2/git/tags/list/",
            "/v2/git/tags/other",
            "/v2//",
            "/v2/_catalog/",
        ):
            self.assertEqual("unknown", find_handler(path)[0], path)

    def test_path_with_another_root_is_no_route_at_all(self) -> None:
        """A path with another root, and a target that is no path, is no route at all."""
        for path in (
            "",
            "/",
            "*",
            "/v1/",
            "/v3/git/tags/list",
            "//v2/git/tags/list",
            "/%2Fv2/",
            "http://registry/v2/",
            "xv2/",
        ):
            self.assertRaises(NotFound, find_handler, path)

    def test_only_get_and_head_have_routes(self) -> None:
        """Only GET and HEAD have routes, in upper case: methods are case-sensitive."""
        path = f"/v2/git/blobs/{DIGEST}"
        self.assertEqual(find_handler(path), find_handler(path, "HEAD"))
        for method in ("POST", "PUT", "DELETE", "get", "Head", "-"):
            error = self.assertRaises(MethodNotAllowed, find_handler, path, method)
            self.assertEqual({"GET", "HEAD"}, set(error.valid_methods or ()))

    def test_path_too_long_to_be_remembered_is_matched(self) -> None:
        """A path that is too long to be remembered is matched as any other."""
        name = "/".join(["x"] * 100)
        self.assertEqual("tags", find_handler(f"/v2/{name}/tags/list")[0])
        self.assertRaises(InvalidName, find_handler, f"/v2/{'x' * 8000}/tags/list")

    def test_escaped_slashes_separate_nothing(self) -> None:
        """They make a name invalid, and a reference too."""
        self.assertRaises(InvalidName, find_handler, "/v2/a%2Fb/manifests/latest")
        self.assertRaises(InvalidName, find_handler, "/v2/a%2fb/c/tags/list")
        self.assertRaises(InvalidReference, find_handler, "/v2/a/manifests/x%2Fy")
        self.assertRaises(InvalidDigest, find_handler, "/v2/a/blobs/" + DIGEST.replace(":", "%2F"))
        self.assertEqual("unknown", find_handler("/v2/a%2Fmanifests/latest")[0])

    def test_bytes_that_no_name_has(self) -> None:
        """NUL, line ends, what is not UTF-8, and backslashes that look like it."""
        for component in (
            b"%00",
            b"a%0A",
            b"%0Aa",
            b"%FF",
            b"\xff",
            b"\\xff",
            b"%zz",
            b"",
            b"..",
            b"%2E%2E",
        ):
            for name in (component, b"git/" + component):
                self.assertRaises(InvalidName, find_handler, b"/v2/" + name + b"/manifests/latest")
        for tag in (b"%00", b"latest%0A", b"%FF", b"", b".x", b"a" * 129):
            self.assertRaises(InvalidReference, find_handler, b"/v2/git/manifests/" + tag)
        for digest in (
            b"",
            b"sha256:",
            b"sha512:00",
            DIGEST.upper().encode(),
            DIGEST.encode() + b"%0A",
        ):
            self.assertRaises(InvalidDigest, find_handler, b"/v2/git/blobs/" + digest)

    def test_the_name_comes_first(self) -> None:
        """The error is about the name if the tag or digest is invalid as well."""
        self.assertRaises(InvalidName, find_handler, "/v2/Git/manifests/.bad")
        self.assertRaises(InvalidName, find_handler, "/v2/Git/blobs/bad")

    def test_the_default_system(self) -> None:
        """It is the one that names mean which choose none."""
        _, values = find_handler("/v2/git/tags/list", router=make_registry_router("riscv64-linux"))
        self.assertEqual("riscv64-linux", values["name"].system)
