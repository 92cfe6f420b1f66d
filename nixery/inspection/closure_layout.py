"""
Places the paths of a closure in its picture.

The requested paths are at the top, and each path lies below all that refer to it: its depth is the
length of the longest chain of references that leads to it. Paths that many others depend on, such
as glibc, are therefore at the bottom. Within a depth paths are ordered by the mean place of their
neighbours above, then of those below, some times in turn, which keeps lines short: the barycentre
method of K. Sugiyama, S. Tagawa and M. Toda, "Methods for Visual Understanding of Hierarchical
System Structures" (1981), without the dummy nodes that long lines would need, of which a closure
has far too many.

A depth with many paths takes several lines, filled column by column, so that the picture
has the proportions of a page.  Areas are in proportion to the sizes of paths, above a
smallest one that can still be pointed at.

The work grows with the number of paths and references, and the same closure gives the
same picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from attrs import frozen

from nixery.inspection.report import ImageReport

__all__ = ["ClosureLayout", "layout_closure"]

SWEEPS = 3
"""Number of passes, downwards and upwards, that improve the order within depths."""

MIN_RADIUS = 3.0
MAX_RADIUS = 26.0
"""The smallest and the largest radius of a circle."""

_GAP = 3.0
_BAND_GAP = 20.0
"""Free space between two paths, and between two depths."""

_ASPECT_RATIO = 2.8
"""Ratio of width to height, about."""

_MIN_WIDTH = 480.0


@frozen(kw_only=True)
class ClosureLayout:
    """
    The picture of a closure; the origin is at the top left.

    :param depth: the depth of each path, from 0.
    :param x: the x coordinate of each path's centre.
    :param y: the y coordinate of each path's centre.
    :param radius: the radius of each path's circle.
    :param visited: the number of paths and references visited to order them.
    """

    width: float
    height: float
    depth: tuple[int, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    radius: tuple[float, ...]
    visited: int


def layout_closure(report: ImageReport) -> ClosureLayout:
    """Compute a position for every path of a closure."""
    references = [path.references for path in report.paths]
    referrers: list[list[int]] = [[] for _ in references]
    for number, targets in enumerate(references):
        for target in targets:
            referrers[target].append(number)
    depth = _compute_depths(references, referrers)
    bands: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for number, level in enumerate(depth):
        bands[level].append(number)
    visited = 0
    for _ in range(SWEEPS):
        visited += _order_bands(bands, referrers)
        visited += _order_bands(bands[::-1], references)
    # One more pass from the top: the paths that refer to a path determine its position.
    visited += _order_bands(bands, referrers)
    radius = _compute_radii([path.size for path in report.paths])
    width = _compute_width(radius)
    x, y, height = _place_bands(bands, radius, width)
    return ClosureLayout(
        width=width,
        height=height,
        depth=tuple(depth),
        x=tuple(x),
        y=tuple(y),
        radius=tuple(radius),
        visited=visited,
    )


def _compute_depths(
    references: Sequence[Sequence[int]], referrers: Sequence[Sequence[int]]
) -> list[int]:
    """Return the length of the longest chain to each path."""
    depth = [0] * len(references)
    pending = [len(each) for each in referrers]
    ready = [number for number, count in enumerate(pending) if count == 0]
    for number in ready:
        for target in references[number]:
            depth[target] = max(depth[target], depth[number] + 1)
            pending[target] -= 1
            if pending[target] == 0:
                # The loop reaches it: the list is a queue.
                ready.append(target)
    return depth


def _order_bands(bands: Sequence[list[int]], neighbours: Sequence[Sequence[int]]) -> int:
    """
    Order each band, the first one first, by the places of neighbours in other bands.

    :return: the number of paths and neighbours visited.
    """
    visited = 0
    position: dict[int, float] = {}
    for band in bands:
        for index, number in enumerate(band):
            position[number] = (index + 0.5) / len(band)
    for band in bands:
        barycentres = {}
        for number in band:
            adjacent = neighbours[number]
            visited += 1 + len(adjacent)
            barycentres[number] = (
                sum(position[each] for each in adjacent) / len(adjacent)
                if adjacent
                else position[number]
            )
        band.sort(key=lambda number: (barycentres[number], number))
        for index, number in enumerate(band):
            position[number] = (index + 0.5) / len(band)
    return visited


def _compute_radii(sizes: Sequence[int]) -> list[float]:
    largest = max(sizes, default=0) or 1
    return [round(max(MIN_RADIUS, MAX_RADIUS * math.sqrt(size / largest)), 1) for size in sizes]


def _compute_width(radius: Sequence[float]) -> float:
    """Return a width that gives about the wanted proportions."""
    area = sum((2 * each + _GAP) ** 2 for each in radius)
    # Lines are as high as their largest circle, and bands have room between them.
    return max(_MIN_WIDTH, round(math.sqrt(1.6 * area * _ASPECT_RATIO)))


def _place_bands(
    bands: Sequence[Sequence[int]], radius: Sequence[float], width: float
) -> tuple[list[float], list[float], float]:
    x, y = [0.0] * len(radius), [0.0] * len(radius)
    top = _BAND_GAP
    for band in bands:
        needed = sum(2 * radius[number] + _GAP for number in band)
        lines = max(1, math.ceil(needed / (width - 2 * _BAND_GAP)))
        columns = [band[start : start + lines] for start in range(0, len(band), lines)]
        widths = [max(2 * radius[number] + _GAP for number in column) for column in columns]
        # A column is as wide as its largest circle, and there may be too many of them.
        scale = min(1.0, (width - 2 * _BAND_GAP) / sum(widths))
        left = (width - sum(widths) * scale) / 2
        heights = [
            max(2 * radius[number] + _GAP for number in band[line::lines]) for line in range(lines)
        ]
        for column, column_width in zip(columns, widths, strict=True):
            bottom = top
            for number, line in zip(column, heights, strict=False):
                x[number] = round(left + column_width * scale / 2, 1)
                y[number] = round(bottom + line / 2, 1)
                bottom += line
            left += column_width * scale
        top += sum(heights) + _BAND_GAP
    return x, y, round(top, 1)
