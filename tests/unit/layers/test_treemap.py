"""
Tests for ``nixery.layers.treemap``.
"""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.layers.treemap import squarify

falling_sizes = st.lists(st.integers(0, 10**9), max_size=30).map(
    lambda sizes: sorted(sizes, reverse=True)
)


class SquarifyTests(SynchronousTestCase):
    """Tests for :func:`squarify`."""

    @settings(max_examples=100)
    @given(falling_sizes, st.integers(1, 2000), st.integers(1, 2000))
    def test_areas_are_in_proportion_to_the_sizes_and_fill_the_rectangle(
        self, sizes: list[int], width: int, height: int
    ) -> None:
        """Areas are in proportion to the sizes, and fill the rectangle."""
        boxes = squarify(sizes, width, height)
        self.assertEqual(len(boxes), len(sizes))
        for size, box in zip(sizes, boxes, strict=True):
            expected = width * height * size / sum(sizes) if sum(sizes) else 0
            self.assertAlmostEqual(box.width * box.height, expected, delta=1e-6 * width * height)

    @settings(max_examples=100)
    @given(falling_sizes, st.integers(1, 2000), st.integers(1, 2000))
    def test_boxes_lie_inside_the_rectangle_and_beside_one_another(
        self, sizes: list[int], width: int, height: int
    ) -> None:
        """Boxes lie inside the rectangle, and beside one another."""
        small = 1e-6 * max(width, height)
        boxes = squarify(sizes, width, height)
        for box in boxes:
            self.assertGreaterEqual(box.x, 0)
            self.assertGreaterEqual(box.y, 0)
            self.assertLessEqual(box.x + box.width, width + small)
            self.assertLessEqual(box.y + box.height, height + small)
        for one, other in combinations(boxes, 2):
            across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            self.assertTrue(across <= small or down <= small)

    def test_example_of_the_paper_comes_out_as_the_paper_draws_it(self) -> None:
        """The example of the paper comes out as the paper draws it."""
        boxes = squarify([6, 6, 4, 3, 2, 2, 1], 6, 4)
        shapes = [(round(box.width, 2), round(box.height, 2)) for box in boxes]
        self.assertEqual(
            shapes,
            [(3, 2), (3, 2), (1.71, 2.33), (1.29, 2.33), (1.2, 1.67), (1.2, 1.67), (0.6, 1.67)],
        )

    def test_four_equal_sizes_divide_a_square_into_squares(self) -> None:
        """Four equal sizes divide a square into squares."""
        boxes = squarify([1, 1, 1, 1], 2, 2)
        self.assertEqual({(box.width, box.height) for box in boxes}, {(1, 1)})
