"""
Draw an image's layers: their sizes, their contents, and the reasons for them.

They are drawn from values, as SVG for browsers and as text for terminals; other modules
look up the image and the other images that have the same layers.

In the SVG each layer is a rectangle, whose area is proportional to the bytes that a
client downloads for it (:mod:`nixery.layers.treemap`).  Colours follow the reader's preference
for light or dark, by style sheet alone: the file contains no script and loads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from textwrap import wrap

from attrs import evolve, field, frozen

from nixery.layers.plan import LayerGroup
from nixery.layers.treemap import Box, squarify
from nixery.runtime.sizes import format_size

__all__ = ["DrawnLayer", "draw_svg", "draw_text", "xml_text"]

WIDTH = 960
HEIGHT = 540
_HEADER = 48
NARROW_WIDTH = 360
NARROW_HEIGHT = 600
_FONT = 13
# An upper estimate of the average width of a character in a sans-serif font.
_ADVANCE = 0.6 * _FONT
_LINE = 1.3 * _FONT
_MARGIN = 4
_TITLE_PATHS = 40
_BAR = 24
_INDENT = " " * 26

_ILLEGAL = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""
Characters that XML 1.0 cannot express (section 2.2), that a terminal may interpret, or that
would break a line of a table.
"""

_STYLE = """\
.layers { color: #222; font: 13px system-ui, sans-serif; }
.layers rect { stroke: currentColor; stroke-width: 1; }
.layers text { fill: currentColor; }
.layers .own rect { fill: #f5d9a8; }
.layers .shared rect { fill: #b5d8c0; }
@media (prefers-color-scheme: dark) {
  .layers { color: #eee; }
  .layers .own rect { fill: #6b4f1d; }
  .layers .shared rect { fill: #24523a; }
}"""
"""All rules are below a class, because in a page they would apply to the whole page."""


def _replace_illegal(text: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)


def _replace_illegal_in_all(strings: Iterable[str]) -> tuple[str, ...]:
    return tuple(_replace_illegal(text) for text in strings)


@frozen(kw_only=True)
class DrawnLayer:
    """
    A layer as the drawing shows it.

    :param title: the name of its leader or a few words.
    :param size: the compressed size, which a client downloads, in bytes.
    :param nar_size: the unpacked size, in bytes; 0 if it is not known.
    :param reason: the reason for the layer.
    :param paths: the names of the store paths in it.
    :param shared_with: the other images that have the same layer.
    """

    title: str = field(converter=_replace_illegal)
    size: int
    nar_size: int
    reason: str = field(converter=_replace_illegal)
    paths: tuple[str, ...] = field(default=(), converter=_replace_illegal_in_all)
    shared_with: tuple[str, ...] = field(default=(), converter=_replace_illegal_in_all)

    @classmethod
    def from_group(
        cls, group: LayerGroup, *, size: int, shared_with: Iterable[str] = ()
    ) -> DrawnLayer:
        """Make one from a layer of a plan; the parameters are those of the class."""
        return cls(
            title=group.leader.name,
            size=size,
            nar_size=group.nar_size,
            reason=group.reason,
            paths=tuple(path.name for path in group.paths),
            shared_with=tuple(shared_with),
        )

    @property
    def caption(self) -> str:
        """The title, and the number of other paths."""
        others = len(self.paths) - 1
        return f"{self.title} + {others}" if others > 0 else self.title

    @property
    def sharing(self) -> str:
        """A phrase that names other images with the same layer."""
        if not self.shared_with:
            return "in no other image"
        return "also in " + _join_some(self.shared_with, 5)


def draw_svg(
    image: str,
    layers: Sequence[DrawnLayer],
    *,
    anchor: str | None = None,
    styled: bool = True,
    narrow: bool = False,
) -> str:
    """
    Draw an image's layers as SVG.

    :param image: its name.
    :param layers: from the bottom to the top.
    :param anchor: makes each rectangle a link to the element whose id is this and the
        layer's number: ``layer-`` links to ``#layer-1``.
    :param styled: true to include the style sheet.  If it is left out, the page's own style
        sheet has to define the classes, and the page has a heading and a legend of its own.
    :param narrow: true for a narrow screen, on which the text of the wide drawing could not be
        read.
    :return: a whole document, which can also be embedded in a page unchanged.
    """
    image = _replace_illegal(image)
    width, height = (NARROW_WIDTH, NARROW_HEIGHT) if narrow else (WIDTH, HEIGHT)
    header = _HEADER if styled else 0
    root = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
    # A drawing with links must not have the role of an image.
    role = 'role="img"' if anchor is None else 'role="group"'
    label = xml_text(f"The layers of {image}")
    parts = [
        f'<svg {root} class="layers{" narrow" if narrow else ""}" {role} aria-label="{label}">',
        f"<title>{label}</title>",
        *([f"<style>{_STYLE}</style>"] if styled else []),
        *(_heading(image, layers) if styled else ()),
    ]
    # The layout needs the largest first; the numbers are the layers' positions in the image.
    numbered = sorted(enumerate(layers, start=1), key=lambda item: (-item[1].size, item[0]))
    boxes = squarify([layer.size for _number, layer in numbered], width, height - header)
    for (number, layer), box in zip(numbered, boxes, strict=True):
        parts += _rectangle(number, layer, evolve(box, y=box.y + header), anchor)
    return "\n".join([*parts, "</svg>"]) + "\n"


def draw_text(
    image: str, layers: Sequence[DrawnLayer], *, width: int = 100, max_paths: int | None = 6
) -> str:
    """
    Describe an image's layers as text, the bottom-most first.

    :param image: its name.
    :param layers: from the bottom to the top.
    :param width: of a line, in characters; descriptions of layers are wrapped to it.
    :param max_paths: the number of store paths named for each layer; ``None``: all.
    """
    largest = max((layer.size for layer in layers), default=0)
    lines = [f"{_replace_illegal(image)}: {_summary(layers)}"]
    if layers:
        lines += ["", "  no  download  unpacked  # also in other images, - only in this image"]
    for number, layer in enumerate(layers, start=1):
        bar_length = round(_BAR * layer.size / largest) if largest else 0
        bar = ("#" if layer.shared_with else "-") * bar_length
        lines.append(
            f"{number:4}{format_size(layer.size):>10}{format_size(layer.nar_size):>10}"
            f"  {bar:{_BAR}}  {layer.caption}"
        )
        details = [f"{layer.reason}; {layer.sharing}"]
        if len(layer.paths) > 1:
            details.append(_join_some(layer.paths, max_paths))
        for detail in details:
            # Names are not broken, because people copy them.
            lines += wrap(
                detail,
                max(width, 2 * len(_INDENT)),
                initial_indent=_INDENT,
                subsequent_indent=_INDENT,
                break_long_words=False,
                break_on_hyphens=False,
            )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _rectangle(
    number: int, layer: DrawnLayer, box: Box, anchor: str | None = None
) -> Iterator[str]:
    kind = "shared" if layer.shared_with else "own"
    if anchor is None:
        yield f'<g class="{kind}">'
    else:
        label = f"Layer {number}: {layer.caption}, {format_size(layer.size)}, {layer.sharing}"
        yield (
            f'<a href="#{xml_text(anchor)}{number}" class="{kind}" aria-label="{xml_text(label)}">'
        )
    tooltip = [
        f"Layer {number}: {layer.caption}",
        format_size(layer.size)
        + (f", {format_size(layer.nar_size)} unpacked" if layer.nar_size else ""),
        f"{layer.reason}; {layer.sharing}",
        *layer.paths[:_TITLE_PATHS],
    ]
    if len(layer.paths) > _TITLE_PATHS:
        tooltip.append(f"and {len(layer.paths) - _TITLE_PATHS} more")
    yield f"<title>{chr(10).join(map(xml_text, tooltip))}</title>"
    yield (
        f'<rect x="{box.x:.2f}" y="{box.y:.2f}" width="{box.width:.2f}" height="{box.height:.2f}"/>'
    )
    lines = [f"{number}. {layer.caption}", format_size(layer.size), layer.reason]
    max_lines = int((box.height - 2 * _MARGIN) / _LINE)
    for line_number, line in enumerate(lines[: max(0, max_lines)]):
        text = _shorten(line, box.width - 2 * _MARGIN)
        if text:
            yield (
                f'<text x="{box.x + _MARGIN:.2f}"'
                f' y="{box.y + _MARGIN + (line_number + 0.8) * _LINE:.2f}">'
                f"{xml_text(text)}</text>"
            )
    yield "</g>" if anchor is None else "</a>"


def _heading(image: str, layers: Sequence[DrawnLayer]) -> Iterator[str]:
    yield f'<text x="0" y="16" font-weight="bold">{xml_text(_shorten(image, WIDTH - 310))}</text>'
    yield f'<text x="0" y="36">{xml_text(_shorten(_summary(layers), WIDTH))}</text>'
    for x, kind, text in (
        (WIDTH - 290, "shared", "also in other images"),
        (WIDTH - 140, "own", "only in this image"),
    ):
        yield f'<g class="{kind}"><rect x="{x}" y="6" width="12" height="12"/></g>'
        yield f'<text x="{x + 18}" y="16" font-size="11">{text}</text>'


def _summary(layers: Sequence[DrawnLayer]) -> str:
    shared = [layer for layer in layers if layer.shared_with]
    return (
        f"{len(layers)} {'layer' if len(layers) == 1 else 'layers'},"
        f" {format_size(sum(layer.size for layer in layers))} to download,"
        f" {format_size(sum(layer.nar_size for layer in layers))} unpacked"
    ) + (
        f"; {format_size(sum(layer.size for layer in shared))} in {len(shared)} of them"
        " also in other images"
        if shared
        else ""
    )


def _join_some(names: Sequence[str], limit: int | None) -> str:
    if limit is None or len(names) <= limit:
        return ", ".join(names)
    return ", ".join(names[:limit]) + f" and {len(names) - limit} more"


def _shorten(text: str, width: float) -> str:
    """Shorten the text to the width; return nothing if too little of it would be left."""
    max_characters = int(width / _ADVANCE)
    if len(text) <= max_characters:
        return text
    return text[: max_characters - 1] + "…" if max_characters >= 4 else ""


def xml_text(text: str) -> str:
    """Escape a text for SVG, also for an attribute."""
    return escape(_replace_illegal(text), quote=True)
