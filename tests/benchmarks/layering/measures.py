"""
The measures, and their computation.

Every node keeps all that it ever pulled.  A layer is the set of its members; its content
changes in each week in which one of them is rebuilt.  Bytes are added up over all
clients and all models of updates.

pull
    What is fetched, if a layer that is there is not fetched again: by a deployer every
    distinct layer of its images once, and again in each week it changed; by the CI node,
    with each request, the layers whose present content it does not have.
chain
    The same, if a layer is there only together with all the layers below it, as for
    engines that reuse unpacked layers.
partial
    What clients of partial pulls fetch, who take single files from layers that are there: between
    two bounds, because the data do not tell the contents of paths.  At most, every file of a path
    that was rebuilt is new; at least, only those of paths that were rebuilt for a change of their
    own are.  The tables of each layer that pull fetches are added to both.
storage
    All distinct contents of all layers of all images over the year.
leaf
    What is pulled again when one package is added to an image, without what the package
    brings, as a fraction of the image.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import TypeAlias

from attrs import evolve, frozen

from tests.benchmarks.layering.workload import Clients, Closure, Data, Paths, indices, union

__all__ = ["LEAF_PATHS", "TABLES", "Costs", "Leaf", "Strategy", "costs", "leaf", "own_changes"]

Strategy: TypeAlias = Callable[[Closure, int], Sequence[Paths]]
"""Cuts a closure into at most so many layers, from the bottom to the top."""

LEAF_PATHS = 20
"""A package that brings more paths than this is no leaf."""

TABLES = 0.016
"""
The size of a layer's tables, as a fraction of its size: 0.71 MB of an image of 43.3 MB with 5,400
files, packed by zstd.
"""

TINY = 100_000
"""A layer of fewer bytes costs more requests than it saves bytes."""


@frozen(kw_only=True)
class Costs:
    """
    The costs of a strategy.

    :param pull: bytes.
    :param chain: bytes.
    :param storage: bytes.
    :param layers: per image, on the average.
    :param tiny: the same of layers under 100 kB.
    :param most: the largest number of layers of an image.
    """

    pull: int
    chain: int
    storage: int
    layers: float
    tiny: float
    most: int


@frozen(kw_only=True)
class _Changing:
    """
    Something that is pulled as a whole.

    :param weeks: for each model the weeks in which its content changes, as bits.
    """

    size: int
    weeks: tuple[int, ...]

    @property
    def contents(self) -> int:
        """The bytes of all its contents in the year."""
        return self.size * sum(1 + weeks.bit_count() for weeks in self.weeks)


def costs(plans: Sequence[Sequence[Paths]], clients: Clients, data: Data) -> Costs:
    """
    Compute the costs of pulling images that are cut into these layers.

    :param plans: for each image its layers, from the bottom to the top.
    """
    layers = _layers(plans, data)
    stacks, parts = _stacked(plans, layers)
    return Costs(
        pull=_pulled(plans, layers, clients),
        chain=_pulled(stacks, parts, clients),
        storage=sum(layer.contents for layer in layers.values()),
        layers=mean(len(plan) for plan in plans),
        tiny=mean(sum(layers[layer].size < TINY for layer in plan) for plan in plans),
        most=max(len(plan) for plan in plans),
    )


def own_changes(data: Data) -> Data:
    """The same workload, in which paths are rebuilt for changes of their own alone."""
    references = data.packages.references
    histories = {
        model: [
            weeks & ~union(history[item] for item in references[index])
            for index, weeks in enumerate(history)
        ]
        for model, history in data.histories.items()
    }
    return evolve(data, histories=histories)


def _layers(plans: Iterable[Sequence[Paths]], data: Data) -> dict[Paths, _Changing]:
    layers = {}
    for layer in {layer for plan in plans for layer in plan}:
        members = list(indices(layer))
        layers[layer] = _Changing(
            size=sum(data.packages.sizes[index] for index in members),
            weeks=tuple(
                union(history[index] for index in members) for history in data.histories.values()
            ),
        )
    return layers


def _stacked(
    plans: Iterable[Sequence[Paths]], layers: Mapping[Paths, _Changing]
) -> tuple[Sequence[Sequence[int]], Mapping[int, _Changing]]:
    """
    The plans with numbers instead of layers, equal where all that is below is equal as
    well, and what changes with each number: the content of what is below is part of it.
    """
    numbers: dict[tuple[int, Paths], int] = {}
    parts: dict[int, _Changing] = {}
    stacks = []
    for plan in plans:
        stack: list[int] = []
        for layer in plan:
            below = stack[-1] if stack else -1
            number = numbers.setdefault((below, layer), len(numbers))
            if number not in parts:
                weeks = layers[layer].weeks
                if stack:
                    under = parts[below].weeks
                    weeks = tuple(one | other for one, other in zip(weeks, under, strict=True))
                parts[number] = _Changing(size=layers[layer].size, weeks=weeks)
            stack.append(number)
        stacks.append(stack)
    return stacks, parts


def _pulled(
    plans: Sequence[Sequence[int]], known: Mapping[int, _Changing], clients: Clients
) -> int:
    pulled = 0
    for images in clients.deployers:
        kept = {layer for image in images for layer in plans[image]}
        pulled += sum(known[layer].contents for layer in kept)
    models = range(len(next(iter(known.values())).weeks))
    for model in models:
        present: set[tuple[int, int]] = set()
        for week, image in clients.requests:
            so_far = (2 << week) - 1
            for layer in plans[image]:
                changing = known[layer]
                content = layer, (changing.weeks[model] & so_far).bit_length()
                if content not in present:
                    present.add(content)
                    pulled += changing.size
    return pulled


@frozen(kw_only=True)
class Leaf:
    """
    The share of an image that is pulled again needlessly when a package is added.

    :param leaves: on the average over packages that bring few paths.
    :param packages: on the average over all packages.
    """

    leaves: float
    packages: float


def leaf(strategy: Strategy, budget: int, clients: Clients, data: Data, samples: int) -> Leaf:
    """
    Measure the waste.

    :param samples: how many pairs of an image and a package are tried; always the same.
    """
    packages = data.packages
    choose = random.Random("leaf")
    waste: list[tuple[int, float]] = []
    while len(waste) < samples:
        image = choose.choice(clients.images)
        package = choose.choice(data.programs)
        before, after = packages.closure(image), packages.closure([*image, package])
        new = after.members & ~before.members
        if not new:
            continue
        there = set(strategy(before, budget))
        fetched = sum(
            packages.size(layer) for layer in strategy(after, budget) if layer not in there
        )
        waste.append(
            (new.bit_count(), (fetched - packages.size(new)) / packages.size(before.members))
        )
    return Leaf(
        leaves=mean(share for count, share in waste if count <= LEAF_PATHS),
        packages=mean(share for _count, share in waste),
    )
