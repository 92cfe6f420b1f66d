"""Tests for :mod:`nixery.inspection.pull_sizes`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.layer_cache import LayerRecord
from nixery.builds.planned_layers import PlannedLayer
from nixery.image.manifests import digest_of
from nixery.inspection.estimate import Accuracy
from nixery.inspection.pull_sizes import (
    DEFAULT_RATIOS,
    exact_size,
    least_size,
    planned_size,
    shared_size,
)
from nixery.layers.compression_levels import LEVELS

MIB = 2**20


def layer(unpacked: int, size: int | None = None) -> PlannedLayer:
    """Make a layer that is stored if it has a compressed size."""
    record = None
    if size is not None:
        digest = digest_of(b"%d" % size)
        record = LayerRecord(digest=digest, size=size, diff_id=digest, uncompressed_size=unpacked)
    return PlannedLayer(unpacked_size=unpacked, record=record)


class SizeTests(SynchronousTestCase):
    """Tests of sizes of layers that are stored or not."""

    def test_stored_layers_have_their_sizes(self) -> None:
        """If all layers are stored, the size is exact."""
        found = planned_size([layer(10 * MIB, 4 * MIB), layer(MIB, 100)], "gzip")
        self.assertEqual(exact_size([4 * MIB, 100]), found)

    def test_other_layers_are_compressed_as_the_stored_ones(self) -> None:
        """The compression of stored layers is that of the others, if there is enough of it."""
        found = planned_size([layer(10 * MIB, 2 * MIB), layer(5 * MIB)], "gzip")
        self.assertEqual((2, 3 * MIB), (found.layers, found.size))
        self.assertIs(Accuracy.ESTIMATE, found.accuracy)
        few = planned_size([layer(1000, 900), layer(5 * MIB)], "gzip")
        self.assertEqual(900 + round(5 * MIB * DEFAULT_RATIOS["gzip"]), few.size)

    def test_only_stored_layers_are_shared(self) -> None:
        """A layer that is not stored is not one that the client has."""
        layers = [layer(10, 7), layer(10, 8), layer(10)]
        held = frozenset({digest_of(b"7"), digest_of(b"9")})
        self.assertEqual(exact_size([7]), shared_size(layers, held))

    def test_known_part_is_a_lower_bound(self) -> None:
        """A part of the closure gives a lower bound, without a number of layers."""
        found = least_size(1000, "none")
        self.assertEqual((None, Accuracy.LOWER_BOUND), (found.layers, found.accuracy))
        self.assertEqual(round(1000 * DEFAULT_RATIOS["none"]), found.size)

    def test_every_compression_has_a_ratio(self) -> None:
        """Each kind of compression that can be configured has a usual ratio."""
        self.assertEqual(LEVELS.keys(), DEFAULT_RATIOS.keys())
