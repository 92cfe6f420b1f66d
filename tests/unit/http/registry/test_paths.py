"""Tests of the parsing of URLs to routes."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import NixeryError
from nixery.http.registry.paths import (
    Blob,
    Catalog,
    ManifestByDigest,
    ManifestByTag,
    NoRoute,
    Ping,
    Referrers,
    Route,
    Tags,
    parse_route,
)
from nixery.image.errors import InvalidDigest, InvalidName, InvalidReference
from nixery.image.names import Digest, Tag, parse_image_name

SYSTEM = "x86_64-linux"
DIGEST = Digest("sha256:" + "0123456789abcdef" * 4)
QUICK = settings(max_examples=100)

# Words of the API itself are packages like all others.
COMPONENTS = st.sampled_from(
    ["git", "manifests", "blobs", "tags", "list", "referrers", "uploads", "v2", "a.b", "x-y", "0ad"]
)
NAMES = st.lists(COMPONENTS, min_size=1, max_size=6).map("/".join)
TAGS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", fullmatch=True)


def parse(path: str | bytes) -> Route:
    return parse_route(path.encode() if isinstance(path, str) else path, SYSTEM)


class RouteTests(SynchronousTestCase):
    @QUICK
    @given(repository=NAMES, tag=TAGS)
    def test_every_name_has_every_route(self, repository: str, tag: str) -> None:
        """Routes are found from the right, whatever words the name is made of."""
        name = parse_image_name(repository, SYSTEM)
        expected: dict[str, Route] = {
            f"manifests/{tag}": ManifestByTag(name, Tag(tag)),
            f"manifests/{DIGEST}": ManifestByDigest(name, DIGEST),
            f"blobs/{DIGEST}": Blob(name, DIGEST),
            f"referrers/{DIGEST}": Referrers(name, DIGEST),
            "tags/list": Tags(name),
        }
        for rest, route in expected.items():
            self.assertEqual(route, parse(f"/v2/{repository}/{rest}"))

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
        self.assertEqual(parse(path), parse(encoded))

    @QUICK
    @given(raw=st.binary(max_size=60), prefix=st.sampled_from([b"", b"/v2/", b"/v2/a/manifests/"]))
    def test_any_bytes_have_an_answer(self, raw: bytes, prefix: bytes) -> None:
        """A path is a route or a typed failure, and nothing else."""
        for path in (prefix + raw, prefix + quote(raw).encode()):
            try:
                parse_route(path, SYSTEM)
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
            self.assertRaises(InvalidName, parse, path)
        else:
            self.assertEqual(Tags(name), parse(path))

    def test_the_ping(self) -> None:
        """It has two spellings."""
        self.assertEqual(Ping(), parse("/v2/"))
        self.assertEqual(Ping(), parse("/v2"))

    def test_the_catalog(self) -> None:
        """It is told apart from a name, which cannot begin so."""
        self.assertEqual(Catalog(), parse("/v2/_catalog"))

    def test_path_without_name_with_extra_end_or_with_another_root_is_no_route(self) -> None:
        """A path without a name, with an extra end or with another root is no route."""
        for path in (
            "",
            "/",
            "*",
            "/v1/",
            "/v2/git",
            "/v2/tags/list",
            "/v2/manifests/latest",
            "/v2/git/manifests/latest/",
            "/v2/git/manifests",
            "/v2/git/blobs/uploads/",
            "/v2/git/tags/list/",
            "/v2/git/tags/other",
            "/v3/git/tags/list",
            "//v2/git/tags/list",
        ):
            self.assertEqual(NoRoute(), parse(path), path)

    def test_escaped_slashes_separate_nothing(self) -> None:
        """They make a name invalid, and a reference too."""
        self.assertRaises(InvalidName, parse, "/v2/a%2Fb/manifests/latest")
        self.assertRaises(InvalidName, parse, "/v2/a%2fb/c/tags/list")
        self.assertRaises(InvalidReference, parse, "/v2/a/manifests/x%2Fy")
        self.assertRaises(InvalidDigest, parse, "/v2/a/blobs/" + DIGEST.replace(":", "%2F"))
        self.assertEqual(NoRoute(), parse("/v2/a%2Fmanifests/latest"))

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
            self.assertRaises(InvalidName, parse, b"/v2/" + component + b"/manifests/latest")
            self.assertRaises(InvalidName, parse, b"/v2/git/" + component + b"/manifests/latest")
        for tag in (b"%00", b"latest%0A", b"%FF", b"", b".x", b"a" * 129):
            self.assertRaises(InvalidReference, parse, b"/v2/git/manifests/" + tag)
        for digest in (
            b"",
            b"sha256:",
            b"sha512:00",
            DIGEST.upper().encode(),
            DIGEST.encode() + b"%0A",
        ):
            self.assertRaises(InvalidDigest, parse, b"/v2/git/blobs/" + digest)

    def test_the_name_comes_first(self) -> None:
        """The error is about the name if the tag or digest is invalid as well."""
        self.assertRaises(InvalidName, parse, "/v2/Git/manifests/.bad")
        self.assertRaises(InvalidName, parse, "/v2/Git/blobs/bad")

    def test_the_default_system(self) -> None:
        """It is the one that names mean which choose none."""
        route = parse_route(b"/v2/git/tags/list", "riscv64-linux")
        assert isinstance(route, Tags)
        self.assertEqual("riscv64-linux", route.name.system)
