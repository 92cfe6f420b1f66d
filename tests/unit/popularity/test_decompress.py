"""Tests for :mod:`nixery.popularity.decompress`."""

from __future__ import annotations

import gzip
import lzma

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.popularity.decompress import decompress

LIMIT = 1_000_000
TEXT = b"/nix/store/0c16bbd4h8zy0kvkdiy7pxzyqblm6vhg-curl-8.5.0-bin\n" * 100


class ExpandTests(SynchronousTestCase):
    """Tests for :func:`expand`."""

    @settings(max_examples=50)
    @given(st.binary(max_size=3000), st.binary(max_size=3000))
    def test_compressed_streams_are_decompressed_one_after_another(
        self, one: bytes, two: bytes
    ) -> None:
        """Compressed data are expanded again; streams may follow one another."""
        for compress in (gzip.compress, lzma.compress):
            self.assertEqual(one, decompress(compress(one), LIMIT))
            self.assertEqual(one + two, decompress(compress(one) + compress(two), LIMIT))

    def test_data_that_are_not_compressed_stay_as_they_are(self) -> None:
        """Data that are not compressed stay as they are."""
        self.assertEqual(TEXT, decompress(TEXT, len(TEXT)))
        self.assertEqual(b"", decompress(b"", 0))

    def test_xz_pads_files_with_zeros(self) -> None:
        """xz pads files with zeros."""
        self.assertEqual(TEXT, decompress(lzma.compress(TEXT) + bytes(8), LIMIT))

    def test_data_that_end_too_early_are_refused_wherever_they_end(self) -> None:
        """Data that end too early are refused, wherever they end."""
        for whole in (gzip.compress(TEXT), lzma.compress(TEXT)):
            for length in (*range(6, len(whole) - 1, 7), len(whole) - 1):
                self.assertRaises(UnexpectedOutput, decompress, whole[:length], LIMIT)

    def test_damage_is_noticed(self) -> None:
        """Damage is noticed."""
        for whole in (gzip.compress(TEXT), lzma.compress(TEXT)):
            damaged = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
            self.assertRaises(UnexpectedOutput, decompress, damaged, LIMIT)
            self.assertRaises(UnexpectedOutput, decompress, whole + b"more", LIMIT)

    def test_bound_holds_for_what_comes_out_over_all_streams(self) -> None:
        """The bound holds for what comes out, over all streams."""
        for compress in (gzip.compress, lzma.compress, bytes):
            whole = compress(TEXT)
            self.assertEqual(TEXT, decompress(whole, len(TEXT)))
            error = self.assertRaises(UnexpectedOutput, decompress, whole, len(TEXT) - 1)
            self.assertIn("large" if whole != TEXT else "more than", error.message)
        self.assertRaises(UnexpectedOutput, decompress, gzip.compress(TEXT) * 2, len(TEXT) + 5)

    def test_kilobytes_that_stand_for_gigabytes_are_never_unpacked_as_a_whole(self) -> None:
        """Kilobytes that stand for gigabytes are never unpacked as a whole."""
        bomb = gzip.compress(bytes(50_000_000))
        self.assertRaises(UnexpectedOutput, decompress, bomb, 1000)
