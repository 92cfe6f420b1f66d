"""Tests of the parsing of request headers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.http.headers import accepted_types, etag, is_unchanged, requested_ranges
from nixery.http.registry.errors import RangeNotSatisfiable, RangesRefused
from nixery.image.names import Digest
from nixery.storage.interface import ByteRange

DIGEST = Digest("sha256:" + "0123456789abcdef" * 4)
OTHER = Digest("sha256:" + "f" * 64)
QUICK = settings(max_examples=100)


def ask(value: bytes, size: int, if_range: bytes | None = None) -> ByteRange | None:
    """Return the range of a header that asks for one at most."""
    ranges = requested_ranges([value], if_range, DIGEST, size)
    return ranges[0] if ranges else None


class RangeTests(SynchronousTestCase):
    @QUICK
    @given(
        data=st.binary(min_size=1, max_size=50), first=st.integers(0, 60), more=st.integers(0, 60)
    )
    def test_a_closed_range_is_a_slice(self, data: bytes, first: int, more: int) -> None:
        """``first-last`` is the slice that includes its last byte, cut at the end."""
        last = first + more
        if first >= len(data):
            with self.assertRaises(RangeNotSatisfiable) as caught:
                ask(b"bytes=%d-%d" % (first, last), len(data))
            self.assertEqual(len(data), caught.exception.size)
        else:
            part = ask(b"bytes=%d-%d" % (first, last), len(data))
            assert part is not None
            self.assertEqual(data[first : last + 1], data[part.start : part.stop])
            self.assertTrue(0 <= part.start < part.stop <= len(data))

    @QUICK
    @given(data=st.binary(min_size=1, max_size=50), first=st.integers(0, 60))
    def test_an_open_range_is_what_is_left(self, data: bytes, first: int) -> None:
        """``first-`` goes to the end."""
        if first >= len(data):
            self.assertRaises(RangeNotSatisfiable, ask, b"bytes=%d-" % first, len(data))
        else:
            self.assertEqual(
                ByteRange(start=first, stop=len(data)), ask(b"bytes=%d-" % first, len(data))
            )

    @QUICK
    @given(data=st.binary(min_size=1, max_size=50), length=st.integers(0, 60))
    def test_a_suffix_counts_from_the_end(self, data: bytes, length: int) -> None:
        """``-length`` is the last ``length`` bytes, or all of fewer; none is none."""
        if length == 0:
            self.assertRaises(RangeNotSatisfiable, ask, b"bytes=-0", len(data))
        else:
            part = ask(b"bytes=-%d" % length, len(data))
            assert part is not None
            self.assertEqual(data[-length:], data[part.start : part.stop])

    @QUICK
    @given(value=st.binary(max_size=30), size=st.integers(0, 100))
    def test_no_header_breaks_it(self, value: bytes, size: int) -> None:
        """Any value is ranges within the blob, or ignored, or unsatisfiable, or refused."""
        for each in (value, b"bytes=" + value):
            try:
                ranges = requested_ranges([each], None, DIGEST, size)
            except (RangeNotSatisfiable, RangesRefused):
                continue
            for part in ranges:
                self.assertTrue(0 <= part.start < part.stop <= size)
            self.assertLessEqual(sum(part.stop - part.start for part in ranges), size)

    def test_what_makes_no_sense_is_ignored(self) -> None:
        """Such a header is as good as none."""
        for value in (
            b"",
            b"bytes",
            b"bytes=",
            b"bytes=-",
            b"bytes=5-3",
            b"bytes=a-b",
            b"bytes=1",
            b"bytes=--1",
            b"bytes=+1-2",
            b"bytes=\xb2-\xb3",
            b"items=0-1",
            b"bytes=0-1,5-3",
            b"bytes=0-1,x",
        ):
            self.assertIsNone(ask(value, 10), value)
        self.assertEqual((), requested_ranges([b"bytes=0-1", b"bytes=2-3"], None, DIGEST, 10))

    def test_several_ranges_keep_their_order(self) -> None:
        """Several ranges come in the order asked, neither joined nor cut."""
        self.assertEqual(
            [(6, 10), (0, 2), (2, 4), (4, 5)],
            [
                (part.start, part.stop)
                for part in requested_ranges([b"bytes=-4, 0-1,2-3", b"4-4"], None, DIGEST, 10)
            ],
        )

    def test_case_and_long_numbers(self) -> None:
        """The unit may be capitalised; an end far away is the end."""
        self.assertEqual(ByteRange(start=1, stop=10), ask(b"Bytes=1-" + b"9" * 900, 10))
        for digits in (900, 5000):
            self.assertRaises(RangeNotSatisfiable, ask, b"bytes=" + b"9" * digits + b"-", 10)
            self.assertEqual(ByteRange(start=1, stop=3), ask(b"bytes=%b1-2" % (b"0" * digits), 10))

    def test_an_empty_blob_has_no_ranges(self) -> None:
        """It is sent whole to those who ask for its beginning."""
        self.assertIsNone(ask(b"bytes=0-", 0))
        self.assertIsNone(ask(b"bytes=-5", 0))

    def test_only_the_exact_entity_tag_lets_a_range_through(self) -> None:
        """Only the exact entity tag lets a range through; all else means the whole blob."""
        self.assertIsNotNone(ask(b"bytes=0-1", 10, etag(DIGEST)))
        for value in (
            etag(OTHER),
            b"W/" + etag(DIGEST),
            DIGEST.encode(),
            b"Mon, 23 Nov 2026 10:00:00 GMT",
        ):
            self.assertIsNone(ask(b"bytes=0-1", 10, value), value)
            self.assertIsNone(ask(b"bytes=50-", 10, value), value)


class ConditionTests(SynchronousTestCase):
    def test_tag_matches_alone_in_list_in_second_header_weak_bare_and_as_star(self) -> None:
        """A tag matches alone, in a list, in a second header, weak, bare, and as a star."""
        tag = etag(DIGEST)
        for values in (
            [tag],
            [b"W/" + tag],
            [b'"x", ' + tag + b' , "y"'],
            [b'"x"', tag],
            [b"*"],
            [DIGEST.encode()],
        ):
            self.assertTrue(is_unchanged(values, DIGEST), values)

    def test_other_tags_nothing_and_fragments_of_the_tag_do_not_match(self) -> None:
        """Other tags, nothing, and fragments of the tag do not match."""
        for values in ([], [b""], [etag(OTHER)], [b'"sha256:0123"'], [b"W/"], [b",,"]):
            self.assertFalse(is_unchanged(values, DIGEST), values)


class AcceptTests(SynchronousTestCase):
    def test_all_headers_count(self) -> None:
        """Types come from lists and from several headers; parameters and case do not matter."""
        self.assertEqual(
            {"application/a", "application/b", "*/*"},
            accepted_types([b"application/A;q=0.5, Application/b ; x=y", b"", b" */*;q=0.1"]),
        )

    def test_weights_that_are_none(self) -> None:
        """A weight that makes no sense does not refuse a type."""
        self.assertEqual(
            {"a/b", "c/d", "e/f", "g/h"},
            accepted_types([b"a/b;q=x, c/d;q=2, e/f;q=1e-3, g/h;q="]),
        )
        self.assertEqual(frozenset(), accepted_types([b"a/b; q = 0"]))

    def test_type_with_the_weight_0_is_not_accepted(self) -> None:
        """A type with the weight 0 is not accepted; any other weight accepts."""
        self.assertEqual(
            {"c/d", "e/f"}, accepted_types([b"a/b;q=0, c/d;q=0.001", b"g/h; Q=0.000,e/f;q=1"])
        )

    @QUICK
    @given(types=st.permutations(["a/b", "c/d", "e/f", "*/*"]), cut=st.integers(0, 4))
    def test_order_is_nothing(self, types: list[str], cut: int) -> None:
        """Neither order nor distribution over headers changes what is accepted."""
        headers = [", ".join(part).encode() for part in (types[:cut], types[cut:])]
        self.assertEqual({"a/b", "c/d", "e/f", "*/*"}, accepted_types(headers))

    @QUICK
    @given(value=st.binary(max_size=40))
    def test_no_header_breaks_it(self, value: bytes) -> None:
        """Any bytes are some set of types."""
        self.assertNotIn("", accepted_types([value]))
