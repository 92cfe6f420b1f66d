"""
Draws the picture of a closure, as data for a script and as SVG for browsers without scripts.

Both are drawn from the same layout.  The data hold all that is known of each path, each
fact once and in columns, for thousands of paths; a path refers to others by their numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from nixery.inspection.closure_layout import ClosureLayout
from nixery.inspection.report import ImageReport
from nixery.layers.svg import xml_text

__all__ = ["closure_data", "closure_svg", "layers_of_paths"]

DATA_VERSION = 1
"""The version of the data; raised when an older script cannot read them any more."""

MAX_LINES = 2500
"""Maximum number of lines; with more references, the SVG has only those of the shortest chains."""

_MIN_LABELLED_RADIUS = 12.0
"""Minimum radius of a circle whose name is shown in the SVG."""

_STYLE = """\
.closure { font: 10px system-ui, sans-serif; }
.closure .way { stroke: #8a97a5; stroke-width: .5; opacity: .6; fill: none; }
.closure circle { fill: #2b6cb0; stroke: #ffffff; stroke-width: .5; }
.closure .asked { fill: #b7791f; }
.closure text { fill: #17222d; text-anchor: middle; }
@media (prefers-color-scheme: dark) {
  .closure .way { stroke: #6b7a89; }
  .closure circle { fill: #63a6e8; stroke: #10161c; }
  .closure .asked { fill: #e0a94a; }
  .closure text { fill: #e6edf3; }
}"""


def layers_of_paths(report: ImageReport) -> list[int]:
    """
    Return for each path the number of its layer, from 0 at the bottom; -1 if it is in no layer.
    """
    layer_of = [-1] * len(report.paths)
    for index, layer in enumerate(report.layers):
        for number in layer.paths:
            layer_of[number] = index
    return layer_of


def closure_data(report: ImageReport, layout: ClosureLayout, predecessors: Sequence[int]) -> bytes:
    """
    Encode a closure and its layout as JSON.

    :param predecessors: as :func:`nixery.inspection.reference_chains.shortest_predecessors`
        returns them.
    """
    value: dict[str, object] = {
        "version": DATA_VERSION,
        "width": layout.width,
        "height": layout.height,
        "requested": report.requested,
        "path": [path.path for path in report.paths],
        "size": [path.size for path in report.paths],
        "closure": [path.closure for path in report.paths],
        "popularity": [path.popularity for path in report.paths],
        "references": [path.references for path in report.paths],
        "way": predecessors,
        "layer": layers_of_paths(report),
        "layers": [[layer.title, layer.reason] for layer in report.layers],
        "depth": layout.depth,
        "x": layout.x,
        "y": layout.y,
        "radius": layout.radius,
    }
    # Column by column: encoding holds the interpreter's lock, and other threads need it.
    columns = (
        f"{json.dumps(name)}:{json.dumps(column, separators=(',', ':'))}"
        for name, column in value.items()
    )
    return f"{{{','.join(columns)}}}".encode("ascii")


def closure_svg(
    title: str, report: ImageReport, layout: ClosureLayout, predecessors: Sequence[int]
) -> str:
    """
    Draw a closure as an SVG document.

    :param title: names the image of the closure.
    :param predecessors: as for :func:`closure_data`.
    """
    return "\n".join(_svg(title, report, layout, predecessors)) + "\n"


def _svg(
    title: str, report: ImageReport, layout: ClosureLayout, predecessors: Sequence[int]
) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {layout.width} {layout.height}"'
        ' class="closure" role="img">'
    )
    yield f"<title>{xml_text(title)}</title>"
    yield f"<style>{_STYLE}</style>"
    x, y = layout.x, layout.y
    references = [path.references for path in report.paths]
    if sum(map(len, references)) <= MAX_LINES:
        lines = [(n, target) for n, targets in enumerate(references) for target in targets]
    else:
        lines = [(predecessor, n) for n, predecessor in enumerate(predecessors) if predecessor >= 0]
    if lines:
        # One element for all lines: thousands would make browsers slow.
        path_data = "".join(f"M{x[a]} {y[a]}L{x[b]} {y[b]}" for a, b in lines)
        yield f'<path class="way" d="{path_data}"/>'
    requested = set(report.requested)
    for number, path in enumerate(report.paths):
        attribute = ' class="asked"' if number in requested else ""
        yield (
            f'<circle{attribute} cx="{x[number]}" cy="{y[number]}" r="{layout.radius[number]}">'
            f"<title>{xml_text(path.name)}</title></circle>"
        )
    for number, path in enumerate(report.paths):
        if layout.radius[number] >= _MIN_LABELLED_RADIUS:
            below = y[number] + layout.radius[number] + 9
            yield f'<text x="{x[number]}" y="{below:.1f}">{xml_text(path.name)}</text>'
    yield "</svg>"
