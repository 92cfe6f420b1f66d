"""
Lay out rectangles whose areas show sizes.

M. Bruls, K. Huizing and J. van Wijk, "Squarified Treemaps" (2000): rectangles lie in rows
along the shorter side of the remaining area, and a row is closed when one more rectangle
would make the worst of its proportions worse.  Long thin rectangles, which have no space for
text, become rare.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from attrs import frozen

__all__ = ["Box", "squarify"]


@frozen(kw_only=True)
class Box:
    """A rectangle; the origin is at the top left."""

    x: float
    y: float
    width: float
    height: float


def squarify(sizes: Sequence[float], width: float, height: float) -> list[Box]:
    """
    Divide a rectangle into one for each size, with areas in proportion to the sizes.

    :param sizes: falling, none of them negative.  Those of 0 get boxes without area.
    """
    total = sum(sizes)
    scale = width * height / total if total else 0
    areas = [size * scale for size in sizes]
    boxes: list[Box] = []
    free = Box(x=0, y=0, width=width, height=height)
    while len(boxes) < len(areas):
        row = _best_row(areas[len(boxes) :], min(free.width, free.height))
        placed, free = _place_row(row, free)
        boxes += placed
    return boxes


def _best_row(areas: Sequence[float], side: float) -> Sequence[float]:
    """Return the first areas that make the best row along a side."""

    def worst(count: int) -> float:
        total = sum(areas[:count])
        if not areas[count - 1] or not side:
            return float("inf")
        # The area and the side of the row give its thickness, and so all proportions.
        return max(side**2 * areas[0] / total**2, total**2 / (side**2 * areas[count - 1]))

    count = 1
    while count < len(areas) and worst(count + 1) <= worst(count):
        count += 1
    return areas[:count]


def _place_row(row: Sequence[float], free: Box) -> tuple[list[Box], Box]:
    """Return the boxes of a row along the shorter side, and the remaining area."""
    horizontal = free.width >= free.height
    side = free.height if horizontal else free.width
    thickness = sum(row) / side if side else 0
    lengths = [area / thickness if thickness else 0 for area in row]
    starts = [0, *accumulate(lengths)]
    if horizontal:
        placed = [
            Box(x=free.x, y=free.y + start, width=thickness, height=length)
            for start, length in zip(starts, lengths, strict=False)
        ]
        rest = Box(
            x=free.x + thickness,
            y=free.y,
            width=max(0, free.width - thickness),
            height=free.height,
        )
    else:
        placed = [
            Box(x=free.x + start, y=free.y, width=length, height=thickness)
            for start, length in zip(starts, lengths, strict=False)
        ]
        rest = Box(
            x=free.x,
            y=free.y + thickness,
            width=free.width,
            height=max(0, free.height - thickness),
        )
    return placed, rest
