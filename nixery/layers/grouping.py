"""
Group the store paths of a closure into layers.

Engines fetch and store images by layers, and take a hundred-odd of them; a closure
has up to thousands of store paths.  The grouping decides how much of an image its users
have already, because they pulled another one, or yesterday's.  A good grouping

- puts paths together that are used together, and separates others;
- is the same in every image that holds the same packages, on any server;
- puts the layers that many images share at the bottom: engines reuse an unpacked layer
  only on top of the same layers.

So the result depends on nothing but the closure, the popularity of its packages
among all packages, and the settings: not on the order of the input, on other
images, or on the hashes in store paths, which every update of the package set
changes.

There can be several strategies; :class:`Strategy` lists them:

``affinity``
    Paths that occur together in nearly all closures share a layer
    (:mod:`nixery.layers.affinity`).  The default: of the strategies that are compared by
    ``tests/benchmarks/layering`` it makes clients pull the least.

``dominators``
    Paths that only one package needs share its layer (:mod:`nixery.layers.dominators`), as
    in the first Nixery; for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nixery.image.closure import RuntimeGraph
from nixery.layers.affinity import by_affinity
from nixery.layers.dominators import by_dominators
from nixery.layers.plan import (
    LAYERING_VERSION,
    LayerGroup,
    LayerPlan,
    LayerSettings,
    Popularity,
    PopularityKind,
    Strategy,
)

__all__ = [
    "LAYERING_VERSION",
    "LayerGroup",
    "LayerPlan",
    "LayerSettings",
    "Popularity",
    "PopularityKind",
    "Strategy",
    "plan_layers",
]

_STRATEGIES: Mapping[Strategy, Callable[[RuntimeGraph, Popularity, LayerSettings], LayerPlan]] = {
    Strategy.AFFINITY: by_affinity,
    Strategy.DOMINATORS: by_dominators,
}


def plan_layers(graph: RuntimeGraph, popularity: Popularity, settings: LayerSettings) -> LayerPlan:
    """
    Cut a closure into layers.

    Takes some tenths of a second for thousands of paths: call it on a worker
    thread.

    :return: every path of the graph in exactly one layer, in at most
        ``settings.budget`` layers, none of them empty.
    """
    return _STRATEGIES[settings.strategy](graph, popularity, settings)
