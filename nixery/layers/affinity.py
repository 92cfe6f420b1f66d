r"""
Group layers by affinity: two paths share a layer only if nearly all closures that have
the one have the other.

Inputs
======

- The runtime closure of an image (:class:`~nixery.image.closure.RuntimeGraph`).
- The *popularity* of packages: the number of closures of the whole package set that
  contain each of them (:class:`~nixery.layers.plan.Popularity`).
- The maximum number of layers, and some sizes
  (:class:`~nixery.layers.plan.LayerSettings`, which has the numbers used here).

Algorithm
=========

1. References between store paths form a directed graph without cycles.  All that a
   path needs is in every closure that has the path, so it is at least as popular:
   walking from users to the paths that they use, popularities are raised where the data
   are incomplete or older than the image.  The paths that are in every image, with all
   that they need, have the highest popularity::

             git (60)               htop (5)
            /        \                |
     perl (8,000)  curl (2,000)       |
          |       /     |    \        |
          |  nghttp2    |  libssh2    |
          |  (2,100)    |  (2,050)    |
          |       \     |    /  \     |
          |        \    |   |  openssl|
          |         \   |   |  (9,000)|
          |          \  |   |  /      ncurses (9,500)
           '---------- glibc (50,000) -----'

2. A small path follows the most popular of its users, if that one is at least 70 % as
   popular as the path itself: hardly any closure has the path without the user then.
   Only these references are kept.  All other paths become children of the image itself,
   and so does every path of 4 MiB or more, which would be pulled again with each change
   of a small path::

                            image
        /     /      /        |       \        \        \
     git   htop   perl      curl    openssl  ncurses   glibc
                           /    \
                     nghttp2   libssh2

   If several users are equally popular, the path follows its immediate dominator, the
   last path that is on every way from the image to it.

3. A path joins the unit of its dominator, if the unit's leader is at least 70 % as
   popular as the path, and leads a unit of its own otherwise.  The paths of a unit
   depend on its leader's closure and on global data, and on nothing else in the image:
   every image that has the leader makes the same unit.

4. The units that are in every image get a tenth of the budget: the largest of them have
   layers of their own, the others share one.

5. The other units get a layer each, if there are few enough and none is under 128 KiB.
   Otherwise only the largest get one, because a layer of its own saves the most bytes for
   them.  The small ones share at most five layers with those of like popularity, counted
   in octaves.

6. Layers are stacked in the order of::

       least popularity * size * size / paths in the leader's closure

   with the highest values at the bottom, in whole octaves.  An engine reuses an unpacked
   layer only on top of the same layers, so a layer that is missing or changes makes all
   layers above it be pulled again.  So layers that many images share are placed low;
   layers that change with many other paths, because a path is rebuilt when anything in its
   closure is, are placed high; and of two layers the larger one is placed lower, because it
   is more expensive to pull again on account of the other.  Layers that are in every image
   count four octaves more.  Shared layers of small units are on top: few other images have
   the same.

Example
=======

The closure above, in a package set of 100,000 store paths, with perl of 60 MB, git of
40, glibc of 30, openssl of 7, ncurses of 3, curl of 0.6, htop of 0.4, libssh2 of 0.3
and nghttp2 of 0.2 MB.  curl's unit has 1.1 MB.  A budget of 4 is too small for all: two
layers are for the largest units, and two are left for classes of popularity, whose
boundary is 316, the square root of 100,000.

======  ===============================================================================
budget  layers, from the bottom to the top
======  ===============================================================================
94      (glibc), (perl), (openssl), (ncurses), (git), (curl, libssh2, nghttp2), (htop)
4       (perl), (git), (curl, glibc, libssh2, ncurses, nghttp2, openssl), (htop)
1       (curl, git, glibc, htop, libssh2, ncurses, nghttp2, openssl, perl)
======  ===============================================================================

Incomplete popularity data
==========================

Counts of direct references are less informative: a library may be in thousands of closures
through one user, so a path that seems to occur only with it need not.  With such counts
paths of 1 MiB or more begin a unit.  Without any data every path is a unit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from attrs import frozen

from nixery.image.closure import RuntimeGraph, StorePath
from nixery.layers.plan import (
    FULL_BUDGET,
    LayerGroup,
    LayerPlan,
    LayerSettings,
    Popularity,
    PopularityKind,
)

__all__ = ["by_affinity"]

_TieBreaker: TypeAlias = tuple[str, int, int, str]

_IMAGE = -1
"""The node of the image; the node of a path is its index in the graph's order."""

_COMMON_BONUS = 16
"""
The factor by which a layer that every image has counts more in the order than by its
popularity.  It is bounded, because some of these layers change often, and all layers above
them would be pulled again.
"""

_DIRECT_DIVISOR = 4
"""
The divisor of the size below which paths may join a unit, if only direct references were
counted.  In the benchmark, pulls cost 1.06, 1.25, 1.18 and 1.64 times the ideal with
it, 1.10, 1.34, 1.16 and 1.57 times without it, and 1.08, 1.27, 1.22 and 1.72 times
without any units (small and large images, each in 94 and in 40 layers).
"""


@frozen(kw_only=True)
class _Unit:
    """
    Paths that share a layer in every image that has them.

    :param paths: sorted.
    :param popularity: the leader's.
    :param min_popularity: the least popularity among the paths, not raised for paths that are in
        every image.
    :param closure_count: the number of paths in the leader's closure, which has all of the
        unit.
    :param common: true if every image has it.
    :param tie_breaker: the key that decides the order if all else is equal.
    """

    leader: StorePath
    paths: tuple[StorePath, ...]
    nar_size: int
    popularity: int
    min_popularity: int
    closure_count: int
    common: bool
    tie_breaker: _TieBreaker

    @property
    def octave(self) -> int:
        """The rank in the order of layers; units with higher ranks are placed lower."""
        popularity = self.min_popularity * (_COMMON_BONUS if self.common else 1)
        # In octaves, since a rebuild changes sizes a little, which must not reorder layers;
        # and in integers, which are equal on all machines.
        return (popularity * self.nar_size**2 // self.closure_count).bit_length()


def by_affinity(graph: RuntimeGraph, popularity: Popularity, settings: LayerSettings) -> LayerPlan:
    """
    Cut a closure into layers as this module describes.

    :return: every path in exactly one layer, in at most ``settings.budget`` layers.
    """
    units = sorted(
        _make_units(graph, popularity, settings),
        key=lambda unit: (-unit.nar_size, unit.tie_breaker),
    )
    if settings.budget == 1:
        layers = (
            [_shared_layer(units, "all that there is: the budget is one layer")] if units else []
        )
        return LayerPlan(layers=tuple(layers))
    alone, common_rest = _split_common([unit for unit in units if unit.common], settings)
    remaining = settings.budget - len(alone) - bool(common_rest)
    others = [unit for unit in units if not unit.common]
    largest, small = _split_largest(others, remaining, settings)
    shared = [_shared_layer(common_rest, "small, and in every image")] if common_rest else []
    shared += _group_by_popularity(
        small, min(settings.classes, _max_classes(remaining)), popularity.max_count
    )
    ordered = sorted([*alone, *largest], key=lambda unit: (-unit.octave, unit.tie_breaker))
    return LayerPlan(layers=(*(_single_layer(unit) for unit in ordered), *shared))


def _make_units(
    graph: RuntimeGraph, popularity: Popularity, settings: LayerSettings
) -> Iterable[_Unit]:
    raised = _raise_to_users(graph, {path: popularity.count_of(path) for path in graph.paths})
    common = _common_paths(graph, settings)
    counts = {
        path: popularity.max_count if path in common else raised[path] for path in graph.paths
    }
    closures = graph.closure_counts()
    for leader, paths in _group_by_leader(graph, counts, popularity.kind, common, settings).items():
        size = graph.paths[leader].nar_size
        closure = closures[leader]
        yield _Unit(
            leader=leader,
            paths=tuple(paths),
            nar_size=sum(graph.paths[path].nar_size for path in paths),
            popularity=counts[leader],
            min_popularity=min(raised[path] for path in paths),
            closure_count=closure,
            common=leader in common,
            # Paths of one name are ordered by their sizes; the hash decides only between
            # paths that are equal in all of these.
            tie_breaker=(leader.name, size, closure, leader.hash),
        )


def _raise_to_users(graph: RuntimeGraph, counts: Mapping[StorePath, int]) -> dict[StorePath, int]:
    """Raise the counts so that no path's count is less than any of its users'."""
    raised = dict(counts)
    for path in reversed(graph.references_first):
        for reference in graph.paths[path].references:
            raised[reference] = max(raised[reference], raised[path])
    return raised


def _common_paths(graph: RuntimeGraph, settings: LayerSettings) -> frozenset[StorePath]:
    """Return the paths that are in every image, with all that they refer to."""
    common = {path for path in graph.paths if settings.is_common(path)}
    for path in reversed(graph.references_first):
        if path in common:
            common.update(graph.paths[path].references)
    return frozenset(common)


def _group_by_leader(
    graph: RuntimeGraph,
    counts: Mapping[StorePath, int],
    kind: PopularityKind,
    common: frozenset[StorePath],
    settings: LayerSettings,
) -> dict[StorePath, list[StorePath]]:
    """Return the units by their leaders, the paths of each in the graph's order."""

    def follows(path: StorePath, user: StorePath) -> bool:
        # A path that every image has must not follow a user that some images do not have,
        # however popular that user is.
        if path in common and user not in common:
            return False
        return 100 * counts[user] >= settings.affinity * counts[path]

    limit = settings.unit_size * FULL_BUDGET // settings.budget
    if kind is PopularityKind.DIRECT:
        limit //= _DIRECT_DIVISOR
    users: dict[StorePath, list[StorePath]] = defaultdict(list)
    if kind is not PopularityKind.NONE:
        for path, info in graph.paths.items():
            for reference in info.references:
                if graph.paths[reference].nar_size < limit and follows(reference, path):
                    users[reference].append(path)
    # Imported late: it is a fifth of the daemon's import time, and not needed at startup.
    import networkx as nx  # noqa: PLC0415

    # Integers are hashed much faster than store paths.
    index_of = {path: index for index, path in enumerate(graph.paths)}
    kept: nx.DiGraph[int] = nx.DiGraph()
    kept.add_node(_IMAGE)
    for path in graph.paths:
        highest = max((counts[user] for user in users[path]), default=0)
        kept.add_edges_from(
            (index_of[user], index_of[path]) for user in users[path] if counts[user] == highest
        )
        if not highest:
            kept.add_edge(_IMAGE, index_of[path])
    dominators = nx.immediate_dominators(kept, _IMAGE)
    leaders: dict[int, StorePath] = {}
    # In this order a dominator comes before the paths that it dominates, as does every user.
    for path in reversed(graph.references_first):
        leader = leaders.get(dominators[index_of[path]], path)
        # Compared with the leader, not with the dominator: over many steps the popularity
        # could drift far from the leader's.
        leaders[index_of[path]] = leader if follows(path, leader) else path
    units: dict[StorePath, list[StorePath]] = {}
    for path in graph.paths:
        units.setdefault(leaders[index_of[path]], []).append(path)
    return units


def _split_common(
    units: Sequence[_Unit], settings: LayerSettings
) -> tuple[Sequence[_Unit], Sequence[_Unit]]:
    """
    Split the units that are in every image into those that get layers of their own, and
    those that share one.

    :param units: by falling size.
    """
    # At least one layer is left for all other units.
    slots = max(1, min(settings.budget * settings.common_share // 100, settings.budget - 1))
    alone = sum(unit.nar_size >= settings.minimum_size for unit in units)
    if alone < len(units) or alone > slots:
        alone = min(alone, slots - 1)
    return units[:alone], units[alone:]


def _split_largest(
    units: Sequence[_Unit], slots: int, settings: LayerSettings
) -> tuple[Sequence[_Unit], Sequence[_Unit]]:
    """
    Split the units into those that get layers of their own, and those that share layers.

    :param units: by falling size.
    :param slots: the maximum number of layers.
    """
    alone = sum(unit.nar_size >= settings.minimum_size for unit in units)
    if alone < len(units) or alone > slots:
        # A layer is reserved for each class, even if some classes turn out empty: the empty
        # ones differ between images, which should agree on the rest.
        alone = min(alone, slots - min(settings.classes, _max_classes(slots)))
    return units[:alone], units[alone:]


def _max_classes(slots: int) -> int:
    """Return the most layers that small units may share: half of them, rounded up."""
    return (slots + 1) // 2


def _group_by_popularity(
    units: Sequence[_Unit], classes: int, max_popularity: int
) -> list[LayerGroup]:
    """
    Return layers that are shared by units of like popularity, the most popular first.

    :param max_popularity: the popularity of paths that are in every image.
    """
    members: dict[int, list[_Unit]] = defaultdict(list)
    for unit in units:
        # The integer part of classes * log(popularity) / log(most), without rounding.
        members[
            max(
                number
                for number in range(classes)
                if max_popularity**number <= unit.popularity**classes
            )
        ].append(unit)
    return [
        _shared_layer(
            members[number], f"small, and of like popularity: class {number + 1} of {classes}"
        )
        for number in sorted(members, reverse=True)
    ]


def _single_layer(unit: _Unit) -> LayerGroup:
    if unit.common:
        reason = "in every image"
    elif len(unit.paths) == 1:
        reason = "large enough for a layer of its own"
    else:
        reason = f"{unit.leader.name} with what few have without it"
    return LayerGroup(paths=unit.paths, leader=unit.leader, nar_size=unit.nar_size, reason=reason)


def _shared_layer(units: Sequence[_Unit], reason: str) -> LayerGroup:
    """Return a layer of several units; its leader is that of the first, the largest."""
    return LayerGroup(
        paths=tuple(
            sorted((path for unit in units for path in unit.paths), key=lambda path: path.sort_key)
        ),
        leader=units[0].leader,
        nar_size=sum(unit.nar_size for unit in units),
        reason=reason,
    )
