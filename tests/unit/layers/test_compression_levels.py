"""Tests for :mod:`nixery.layers.compression_levels`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nixery.image import manifests
from nixery.layers.compression_levels import LEVELS, Compression, default_level


class CompressionTests(SynchronousTestCase):
    """The value."""

    def test_no_two_kinds_and_levels_have_one_label(self) -> None:
        """No two kinds and levels have one label, and those of old are what they were."""
        self.assertEqual(Compression().label, "gzip-1")
        self.assertEqual(Compression(level=3).label, "gzip-3")
        self.assertEqual(Compression(kind="none").label, "none")
        every = [
            Compression(kind=kind, level=level)
            for kind, levels in LEVELS.items()
            for level in levels
        ]
        self.assertEqual(len({each.label for each in every}), len(every))

    def test_kinds_and_levels_that_do_not_exist_are_refused(self) -> None:
        """Kinds and levels that do not exist are refused."""
        self.assertRaises(ValueError, Compression, kind="lzma")
        for kind, level in (("gzip", 4), ("gzip", -1), ("zstd", 0), ("zstd", 20), ("none", 1)):
            self.assertRaises(ValueError, Compression, kind=kind, level=level)

    def test_each_kind_has_a_default_level_and_a_media_type(self) -> None:
        """Each kind has a level without being told, and a media type."""
        for kind, levels in LEVELS.items():
            self.assertIn(default_level(kind), levels)
            self.assertEqual(Compression(kind=kind).level, default_level(kind))
            self.assertTrue(manifests.layer_media_type(kind))
