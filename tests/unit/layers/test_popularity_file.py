"""
Tests for ``nixery.layers.popularity_file``.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.image.closure import package_name
from nixery.layers.grouping import Popularity, PopularityKind
from nixery.layers.popularity_file import (
    FORMAT,
    VERSION,
    encode_popularity,
    merge_counts,
    parse_popularity,
)
from tests.support.strategies import popularities, store_names

DOCUMENT: dict[str, Any] = {
    "format": FORMAT,
    "version": VERSION,
    "source": "nixos-24.05, commit 1234567, x86_64-linux",
    "setsize": 91234,
    "transitive": {"curl": 20781, "glibc": 80312},
    "direct": {"curl": 702, "glibc": 61049},
}
"""The example in the documentation of the format."""

UPSTREAM = {"curl-8.5.0": 702, "curl-8.5.0-bin": 30, "glibc-2.39-52": 61049}
"""The example of the older format, with another output."""


class ParseTests(SynchronousTestCase):
    """Tests for :func:`parse_popularity`."""

    def refused(self, data: bytes) -> str:
        return str(self.assertRaises(UnexpectedOutput, parse_popularity, data))

    def test_format_has_all_that_popularity_data_know(self) -> None:
        """The format has all that popularity data know."""
        popularity = parse_popularity(json.dumps(DOCUMENT).encode())
        expected = Popularity(
            transitive=DOCUMENT["transitive"],
            direct=DOCUMENT["direct"],
            setsize=91234,
        )
        self.assertEqual(popularity, expected)
        self.assertEqual(popularity.source, DOCUMENT["source"])
        self.assertEqual(popularity.kind, PopularityKind.TRANSITIVE)

    def test_older_format_has_direct_counts_and_nothing_else_is_made_of_them(self) -> None:
        """The older format has direct counts, and nothing else is made of them."""
        popularity = parse_popularity(json.dumps(UPSTREAM).encode())
        self.assertEqual(popularity, Popularity(direct={"curl": 702, "glibc": 61049}))
        self.assertEqual(popularity.kind, PopularityKind.DIRECT)

    def test_package_called_format(self) -> None:
        """A package of the older format may be called as a member of the newer one."""
        popularity = parse_popularity(b'{"format": 3, "version": 4, "direct": 5}')
        self.assertEqual(popularity.direct, {"format": 3, "version": 4, "direct": 5})

    def test_members_to_come(self) -> None:
        """Members that later versions may add are ignored."""
        data = json.dumps(DOCUMENT | {"date": "2030-01-01"}).encode()
        self.assertEqual(parse_popularity(data), parse_popularity(json.dumps(DOCUMENT).encode()))

    def test_another_version_is_refused_by_its_number(self) -> None:
        """Another version is refused, by its number."""
        self.assertIn("version 7", self.refused(json.dumps(DOCUMENT | {"version": 7}).encode()))
        self.refused(json.dumps(DOCUMENT | {"format": "other"}).encode())

    def test_data_in_another_format_are_refused(self) -> None:
        """Data in another format are refused."""
        for data in (
            b"",
            b"null",
            b"[1]",
            b"{",
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"a": ' + b"9" * 10_000 + b"}",
            b"<html>not found</html>",
            b'{"a": -1}',
            b'{"a": 1.5}',
            b'{"a": true}',
            b'{"a": null}',
            b'{"a": "1"}',
            b'{"a": NaN}',
        ):
            self.refused(data)

    def test_member_that_is_missing_or_cannot_be_true_is_refused(self) -> None:
        """A member that is missing or cannot be true is refused."""
        for member, value in (
            ("setsize", None),
            ("setsize", -1),
            ("setsize", "1"),
            ("source", 1),
            ("transitive", []),
            ("transitive", {"curl": -1}),
            ("transitive", {"curl": 91235}),
            ("transitive", {"curl-8.5.0": 1}),
            ("direct", None),
            ("direct", {"curl": 91235}),
            ("direct", {"curl-8.5.0": 1}),
        ):
            self.refused(json.dumps(DOCUMENT | {member: value}).encode())
        for member in ("setsize", "transitive", "direct", "version"):
            left = {name: value for name, value in DOCUMENT.items() if name != member}
            self.refused(json.dumps(left).encode())


class EncodeTests(SynchronousTestCase):
    """Tests for :func:`encode_popularity`."""

    @settings(max_examples=60)
    @given(popularities, st.text(st.characters(codec="utf-8")))
    def test_written_data_are_read_as_they_were(self, popularity: Popularity, source: str) -> None:
        """Data that were written are read as they were."""
        given_data = Popularity(
            transitive=popularity.transitive,
            direct=popularity.direct,
            setsize=10**5,
            source=source,
        )
        read = parse_popularity(encode_popularity(given_data))
        self.assertEqual(read, given_data)
        self.assertEqual(read.source, source)
        self.assertEqual(read.digest, given_data.digest)

    def test_equal_data_have_equal_bytes_however_they_were_made(self) -> None:
        """Equal data have equal bytes, however they were made."""
        self.assertEqual(
            encode_popularity(Popularity(direct={"a": 1, "b": 2}, setsize=9)),
            encode_popularity(Popularity(direct={"b": 2, "a": 1}, setsize=9)),
        )


class MergeTests(SynchronousTestCase):
    """Tests for :func:`merge_counts`."""

    def test_versions_and_outputs(self) -> None:
        """The highest count of a package's versions and outputs is the package's."""
        counts = [("curl-8.5.0-dev", 3), ("curl-8.5.0", 20), ("curl-7.88.1", 9), ("git-2.47", 1)]
        self.assertEqual(merge_counts(counts), {"curl": 20, "git": 1})
        self.assertEqual(merge_counts(reversed(counts)), merge_counts(counts))

    @settings(max_examples=60)
    @given(st.lists(st.tuples(store_names, st.integers(0, 9))))
    def test_fits_the_format(self, counts: list[tuple[str, int]]) -> None:
        """Merged names are those that the format takes."""
        for name in merge_counts(counts):
            self.assertEqual(package_name(name), name)
