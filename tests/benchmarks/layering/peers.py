"""
Layering strategies of other projects, written anew from their descriptions.

Nothing here is copied code.  Where a description leaves something open, the behaviour of
the program counts, with its quirks; ties are broken by name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import networkx as nx

from tests.benchmarks.layering.workload import Closure, PackageSet, Paths, indices, union

__all__ = [
    "auto_layer",
    "first_nixery",
    "nix2container",
    "one_layer",
    "one_per_path",
    "popularity_contest",
    "size_first",
]


def one_layer(closure: Closure, _budget: int) -> Sequence[Paths]:
    """Everything in one: what images are without any layering."""
    return [closure.members]


def one_per_path(closure: Closure, _budget: int) -> Sequence[Paths]:
    """The ideal, which no engine takes: the most popular at the bottom."""
    return [1 << index for index in _popular_first(closure.packages, indices(closure.members))]


def size_first(closure: Closure, budget: int) -> Sequence[Paths]:
    """The largest paths alone, the most popular at the bottom; the rest on top."""
    packages = closure.packages
    order = sorted(
        indices(closure.members), key=lambda index: (-packages.sizes[index], packages.names[index])
    )
    if len(order) <= budget:
        return _alone(_popular_first(packages, order))
    alone, rest = order[: budget - 1], order[budget - 1 :]
    return [*_alone(_popular_first(packages, alone)), _together(rest)]


def popularity_contest(closure: Closure, budget: int) -> Sequence[Paths]:
    """
    nixpkgs' ``dockerTools.buildLayeredImage`` until 2024: the most popular paths of the
    closure alone, the rest together.  G. Christensen, "Docker Layers, Caching, and Nix"
    (2018).

    A path's popularity is what it collects when the graph is unfolded into a tree and
    counters are handed from the leaves to the root: each is one more for every step, and
    counters of one path are added where they meet.
    """
    packages = closure.packages
    handed: dict[int, Counter[int]] = {}
    used: set[int] = set()
    for index in reversed(closure.users_first):
        used.update(packages.references[index])
        handed[index] = _handed_on(packages.references[index], handed)
    total = _handed_on((root for root in closure.users_first if root not in used), handed)
    return _first_alone(
        sorted(total, key=lambda index: (-total[index], packages.names[index])), budget
    )


def _handed_on(children: Iterable[int], handed: Mapping[int, Counter[int]]) -> Counter[int]:
    total: Counter[int] = Counter()
    for child in children:
        total[child] += 1
        for index, count in handed[child].items():
            total[index] += count + 1
    return total


def nix2container(closure: Closure, budget: int) -> Sequence[Paths]:
    """
    nix2container: as the popularity contest, with the number of ways that
    lead to a path from anywhere as its popularity, and equals users first.
    """
    ways = dict.fromkeys(closure.users_first, 1)
    for index in closure.users_first:
        for reference in closure.packages.references[index]:
            ways[reference] += ways[index]
    return _first_alone(sorted(closure.users_first, key=lambda index: -ways[index]), budget)


def first_nixery(closure: Closure, budget: int) -> Sequence[Paths]:
    """
    The first Nixery, in Go.  V. Ambo, "Nixery: Improved Layering" (2019).

    The subtrees of the dominator tree below the image are layers.  Paths that 100 or
    more others refer to, and those with closures of more than 100 MB, hang on the image
    as well.  While there are too many layers, the two with the lowest ratings become
    one: the leader's popularity times the size.  Its sizes are those of closures, also
    where they are added up for a layer; a merged layer stays at the lower end, and its
    rating is the sum of the two.  Layers with high ratings are at the bottom.
    """
    packages = closure.packages
    kept_apart = set(closure.roots)
    for index in indices(closure.members):
        if packages.closure_sizes[index] > 100_000_000 or packages.direct[index] >= 100:
            kept_apart.add(index)
    layers = sorted(
        (
            max(1, packages.direct[leader])
            * sum(packages.closure_sizes[index] for index in members),
            packages.names[leader],
            _together(members),
        )
        for leader, members in _subtrees(closure, kept_apart).items()
    )
    while len(layers) > budget:
        (rating, _, members), (rating_after, name, members_after), *rest = layers
        layers = [(rating + rating_after, name, members | members_after), *rest]
    return [members for _rating, _name, members in sorted(layers, reverse=True)]


def _subtrees(closure: Closure, kept_apart: Iterable[int]) -> Mapping[int, Sequence[int]]:
    image = -1
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_edges_from((image, index) for index in kept_apart)
    for index in closure.users_first:
        graph.add_edges_from((index, item) for item in closure.packages.references[index])
    dominators = nx.immediate_dominators(graph, image)
    leaders: dict[int, int] = {}
    subtrees: dict[int, list[int]] = defaultdict(list)
    for index in closure.users_first:
        leaders[index] = leaders.get(dominators[index], index)
        subtrees[leaders[index]].append(index)
    return subtrees


def auto_layer(closure: Closure, budget: int) -> Sequence[Paths]:
    """
    nixpkgs' ``dockerTools.buildLayeredImage`` since 2024, ``auto-layer.py``.

    From the largest path to the smallest, each begins a layer, and takes along what it
    needs; what several layers' beginnings need lies with what exactly the same ones
    need, where only the nearest of them count.  This goes on while the layers fit into
    the budget.  Layers with small closures are at the bottom.
    """
    packages = closure.packages
    users: dict[int, Paths] = dict.fromkeys(indices(closure.members), 0)
    for user in users:
        for index in indices(packages.closures[user]):
            users[index] |= 1 << user
    # For each path the beginnings of layers that it belongs to.
    owners: dict[int, Paths] = dict.fromkeys(users, 0)
    for first in sorted(users, key=lambda index: (-packages.sizes[index], packages.names[index])):
        needed = packages.closures[first] & ~(1 << first)
        changed = {**owners, first: 1 << first}
        for index in indices(needed):
            # A beginning that needs the new one is farther away than the new one.
            nearest = owners[index] & ~users[first]
            changed[index] = nearest if nearest & needed else nearest | 1 << first
        if len(set(changed.values())) > budget:
            break
        owners = changed
    layers: dict[Paths, Paths] = defaultdict(int)
    for index, owner in owners.items():
        layers[owner] |= 1 << index

    def order(layer: Paths) -> tuple[int, str]:
        members = list(indices(layer))
        needed = union(packages.closures[index] for index in members)
        return packages.size(needed), packages.names[members[0]]

    return sorted(layers.values(), key=order)


def _popular_first(packages: PackageSet, paths: Iterable[int]) -> list[int]:
    return sorted(paths, key=lambda index: (-packages.transitive[index], packages.names[index]))


def _first_alone(order: Sequence[int], budget: int) -> Sequence[Paths]:
    if len(order) <= budget:
        return _alone(order)
    return [*_alone(order[: budget - 1]), _together(order[budget - 1 :])]


def _alone(paths: Iterable[int]) -> list[Paths]:
    return [1 << index for index in paths]


def _together(paths: Iterable[int]) -> Paths:
    return union(1 << index for index in paths)
