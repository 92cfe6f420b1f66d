"""Tests for :mod:`nixery.nix.package_index`."""

from __future__ import annotations

import contextlib
import gzip
import json
import string

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.image.canonical_json import Json
from nixery.nix.package_index import (
    MAX_TEXT_CHARACTERS,
    IndexEntry,
    PackageIndex,
    decode_index,
    decode_names,
    encode_index,
    parse_entries,
    parse_names,
)

IDENTITY: dict[str, Json] = {"revision": {"commit": "c" * 40}, "system": "x86_64-linux"}

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

INDEXES = st.builds(
    PackageIndex,
    names=st.lists(TEXTS, max_size=5).map(tuple),
    entries=st.lists(
        st.builds(
            IndexEntry,
            attribute=TEXTS,
            pname=TEXTS,
            version=TEXTS,
            description=TEXTS,
            served=st.booleans(),
        ),
        max_size=5,
    ).map(tuple),
    skipped=st.integers(0, 9),
)


def index(count: int = 3) -> PackageIndex:
    entries = (
        IndexEntry(
            attribute=f"set.p{number}",
            pname=f"p{number}",
            version="1.0",
            description="Größe",
            served=number != 1,
        )
        for number in range(count)
    )
    return PackageIndex(names=("set", "other"), entries=tuple(entries), skipped=2)


class FileTests(SynchronousTestCase):
    """Tests of the format of files."""

    @given(INDEXES)
    def test_index_is_read_as_it_was_written(self, written: PackageIndex) -> None:
        """An index is read as it was written, and its names alone, too."""
        data = encode_index(written, IDENTITY)
        self.assertEqual(written, decode_index(data, IDENTITY))
        self.assertEqual(written.names, decode_names(data, IDENTITY))

    def test_same_index_is_the_same_file(self) -> None:
        """The same index is the same file, at any time."""
        self.assertEqual(encode_index(index(), IDENTITY), encode_index(index(), IDENTITY))

    def test_every_part_of_a_file_is_refused(self) -> None:
        """A file that ends early is refused, wherever it ends."""
        data = encode_index(index(), IDENTITY)
        for length in range(len(data)):
            self.assertRaises(ValueError, decode_index, data[:length], IDENTITY)

    def test_missing_lines_are_noticed(self) -> None:
        """A file without some of its packages is refused, although it is complete as an archive."""
        lines = gzip.decompress(encode_index(index(), IDENTITY)).splitlines(keepends=True)
        for count in range(len(lines)):
            data = gzip.compress(b"".join(lines[:count]))
            self.assertRaises(ValueError, decode_index, data, IDENTITY)

    def test_names_without_a_beginning_are_refused(self) -> None:
        """Names are read of nothing that has not both of the first lines."""
        for content in (b"", b"{}\n", b"[]\n[]\n", b'{"version":1}\n[]\n', b"x\ny\n"):
            self.assertRaises(ValueError, decode_names, gzip.compress(content), IDENTITY)
        self.assertRaises(ValueError, decode_names, b"not compressed", IDENTITY)

    def test_other_things_are_refused(self) -> None:
        """The file of another system is refused, and so is another version of the format."""
        data = encode_index(index(), IDENTITY)
        other = {**IDENTITY, "system": "aarch64-linux"}
        self.assertRaises(ValueError, decode_index, data, other)
        self.assertRaises(ValueError, decode_names, data, other)
        header, *rest = gzip.decompress(data).splitlines(keepends=True)
        newer = json.dumps({**json.loads(header), "version": 2}).encode() + b"\n"
        data = gzip.compress(b"".join([newer, *rest]))
        self.assertRaises(ValueError, decode_index, data, IDENTITY)
        self.assertRaises(ValueError, decode_names, data, IDENTITY)


class OutputTests(SynchronousTestCase):
    """Tests of parsing the output of ``nix/index.nix``."""

    def entries(self, *records: object) -> tuple[IndexEntry, ...]:
        return parse_entries(json.dumps(records).encode(), {"tests"})

    def test_packages_are_read(self) -> None:
        """Packages are read with what they say of themselves, each in one line."""
        self.assertEqual(
            (
                IndexEntry(
                    attribute="a.B",
                    pname="b",
                    version="1",
                    description="one two",
                    served=False,
                ),
            ),
            self.entries(["a.B", "b", "1", " one\n\ttwo\u202e\0 ", False]),
        )

    def test_long_descriptions_are_cut(self) -> None:
        """A description is cut where a line of a page ends."""
        [entry] = self.entries(["a", "a", "1", "x" * 1000, True])
        self.assertEqual("x" * MAX_TEXT_CHARACTERS, entry.description)

    def test_names_that_no_image_can_have_are_left_out(self) -> None:
        """Refused, unprintable and endless attributes are left out, of names and of packages."""
        names = ["a", "Tests", "b.tests.c", "d\n", "e" * 1000, "\ud800", "testsuite"]
        self.assertEqual(
            ["a", "?", "testsuite"],
            [entry.attribute for entry in self.entries(*([n, n, "", "", True] for n in names))],
        )
        self.assertEqual(
            ("a", "?", "testsuite"), parse_names(json.dumps(names).encode(), {"tests"})
        )

    def test_output_of_something_else_is_refused(self) -> None:
        """Output of another form is refused, with its beginning."""
        for output in (b"", b"{}", b"[", b"null", b"[" * 100_000):
            self.assertRaises(UnexpectedOutput, parse_names, output)
            self.assertRaises(UnexpectedOutput, parse_entries, output)
        records: list[object] = [{}, [], ["a"], ["a", "a", "1", None, True], ["a", "a", "1", "", 1]]
        for record in records:
            self.assertRaises(UnexpectedOutput, self.entries, record)

    @given(st.binary(max_size=50) | st.text(string.printable, max_size=50).map(str.encode))
    def test_nothing_else_is_raised(self, output: bytes) -> None:
        """Any output is parsed or refused."""
        for parse in (parse_names, parse_entries):
            with contextlib.suppress(UnexpectedOutput):
                parse(output)
