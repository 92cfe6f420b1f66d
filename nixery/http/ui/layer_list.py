"""Select and sort the layers that the page of an image lists."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from nixery.inspection.report import ImageReport

__all__ = ["LAYER_SORTS", "LayerQuery", "select_layers"]

LAYER_SORTS = {"position": "position", "size": "size", "sharing": "images that share them"}
"""The orders in which layers can be listed, with the words for people."""


@frozen(kw_only=True)
class LayerQuery:
    """
    A selection of an image's layers.

    :param text: a part of the title, or of the name of a path in the layer; empty: any.
    :param sort: one of :data:`LAYER_SORTS`.
    """

    text: str = ""
    sort: str = "position"


def select_layers(
    report: ImageReport, sharing: Sequence[int], query: LayerQuery
) -> tuple[int, ...]:
    """
    Return the indexes of the layers that a query selects, in its order; by position, the topmost
    comes first.

    :param sharing: for each layer, the number of other images that have it.
    """
    text = query.text.strip().lower()
    found = [
        index
        for index, layer in reversed(list(enumerate(report.layers)))
        if text in layer.title.lower()
        or any(text in report.paths[number].name.lower() for number in layer.paths)
    ]
    if query.sort == "size":
        found.sort(key=lambda index: -report.layers[index].size)
    elif query.sort == "sharing":
        found.sort(key=lambda index: -sharing[index])
    return tuple(found)
