r"""
Group layers by dominators: paths that only one package needs go into its layer.

Inputs
======

- The runtime closure of an image (:class:`~nixery.image.closure.RuntimeGraph`).
- The number of store paths of the whole package set that refer to each package, as far
  as it is known.
- The maximum number of layers, and the thresholds of popularity and of closure size from
  which a path is kept apart.

Algorithm
=========

1. References between store paths form a directed graph without cycles.  A node for
   the image is put on top of it, with an edge to every path that no other path
   refers to::

             image
            /     \
         git       htop
        /   \         \
     perl   curl     ncurses
        \     |       /
         `- glibc ---'

2. The image gets further edges, to paths that are better kept apart in every image:
   the *popular* ones, which other images hold for other reasons, and those
   with a *large* closure, which would be pulled again with each small path that
   needs them.  Paths that every image contains count as popular.

3. A path *dominates* another one if every way from the image to the other leads
   through it.  The immediate dominators of all paths form a tree::

             image ----------.
            /     \           \
         git       htop      glibc
        /   \         \
     perl   curl     ncurses

   Several paths need glibc, so that nothing but the image dominates it; perl and
   curl are there because of git alone.  If curl were popular, it would be a child of the
   image, as glibc is.

4. Each subtree below the image is a group, led by the path at its top: git with perl
   and curl, htop with ncurses, and glibc.

5. If there are more groups than layers, just enough of those with the lowest ratings
   share a layer.  A group's rating is its size times its leader's popularity: the bytes
   that are pulled again needlessly when another group in a shared layer changes, times
   an estimate of how many clients pull them.

6. Layers are stacked with the most popular leaders at the bottom.  Among equals
   those come first whose leaders have the fewest paths in their closures, since
   a path's users are in no more images than the path itself; then the name
   decides.  The layer of the groups with the lowest ratings is on top: hardly any other
   image has the same one, and layers above it could not be shared.

Example
=======

The closure above, where 50,000 paths of the package set refer to glibc and little
refers to the others.  perl has 60 MB, git 40, glibc 30, curl and ncurses 3 each, htop
1.  The ratings are 30 MB times 50,000 for glibc, 103 MB for git's group, 4 MB for
htop's.

======  ===================================================
budget  layers, from the bottom to the top
======  ===================================================
3       (glibc), (htop, ncurses), (curl, git, perl)
2       (glibc), (curl, git, htop, ncurses, perl)
1       (curl, git, glibc, htop, ncurses, perl)
======  ===================================================

The idea is that of Nixery's "Improved Layering" (V. Ambo, 2019).  networkx computes
the dominators, as in K. Cooper, T. Harvey and K. Kennedy, "A Simple, Fast Dominance
Algorithm" (2001).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from attrs import frozen

from nixery.image.closure import RuntimeGraph, StorePath
from nixery.layers.plan import LayerGroup, LayerPlan, LayerSettings, Popularity

__all__ = ["by_dominators"]

_TieBreaker: TypeAlias = tuple[str, int, int, int, str]

_IMAGE = -1
"""The node of the image; the node of a path is its index in the graph's order."""


@frozen(kw_only=True)
class _Group:
    """
    A subtree of the dominator tree.

    :param popularity: the leader's.
    :param closure_count: the number of paths in the leader's closure.
    :param tie_breaker: the key that decides the order if all else is equal.
    """

    leader: StorePath
    paths: tuple[StorePath, ...]
    nar_size: int
    popularity: int
    closure_count: int
    reason: str
    tie_breaker: _TieBreaker

    @property
    def rating(self) -> int:
        return self.nar_size * self.popularity


def by_dominators(
    graph: RuntimeGraph, popularity: Popularity, settings: LayerSettings
) -> LayerPlan:
    """
    Cut a closure into layers as this module describes.

    :return: every path in exactly one layer, in at most ``settings.budget`` layers.
    """
    groups = sorted(
        _make_groups(graph, popularity, settings),
        key=lambda group: (group.rating, group.tie_breaker),
    )
    surplus = len(groups) - settings.budget
    merged, kept = (groups[: surplus + 1], groups[surplus + 1 :]) if surplus > 0 else ([], groups)
    kept.sort(key=lambda group: (-group.popularity, group.closure_count, group.tie_breaker))
    layers = [
        LayerGroup(
            paths=group.paths, leader=group.leader, nar_size=group.nar_size, reason=group.reason
        )
        for group in kept
    ]
    if merged:
        layers.append(_merge_groups(merged))
    return LayerPlan(layers=tuple(layers))


def _make_groups(
    graph: RuntimeGraph, popularity: Popularity, settings: LayerSettings
) -> Iterable[_Group]:
    sizes = graph.closure_sizes()
    roots = frozenset(graph.roots())
    reasons: dict[StorePath, str] = {}
    for path in graph.paths:
        references = popularity.direct_count_of(path)
        if settings.is_common(path):
            reasons[path] = "in every image"
        elif references >= settings.popularity_threshold:
            reasons[path] = f"popular: {references} references"
        elif sizes[path].nar_size >= settings.size_threshold:
            reasons[path] = f"large: {sizes[path].nar_size / 1e6:.0f} MB with all that it needs"
        elif path in roots:
            reasons[path] = "needed by nothing else in the image"
    for leader, members in _subtrees(graph, reasons).items():
        info = graph.paths[leader]
        yield _Group(
            leader=leader,
            paths=tuple(members),
            nar_size=sum(graph.paths[path].nar_size for path in members),
            popularity=(
                popularity.max_count
                if settings.is_common(leader)
                else popularity.direct_count_of(leader)
            ),
            closure_count=sizes[leader].paths,
            reason=reasons.get(leader, "needed by several layers"),
            # Paths of one name are ordered by their sizes; the hash decides only between
            # paths that are equal in all of these.
            tie_breaker=(
                leader.name,
                info.nar_size,
                sizes[leader].paths,
                sizes[leader].nar_size,
                leader.hash,
            ),
        )


def _subtrees(
    graph: RuntimeGraph, separate: Iterable[StorePath]
) -> dict[StorePath, list[StorePath]]:
    """
    Return the subtrees below the image in the dominator tree, by their topmost paths,
    each in the graph's order.

    :param separate: the paths that have an edge from the image; every path can be reached
        from one of them.
    """
    # Imported late: it is a fifth of the daemon's import time, and not needed at startup.
    import networkx as nx  # noqa: PLC0415

    # Integers are hashed much faster than store paths.
    index_of = {path: index for index, path in enumerate(graph.paths)}
    references: nx.DiGraph[int] = nx.DiGraph()
    references.add_node(_IMAGE)
    references.add_edges_from((_IMAGE, index_of[path]) for path in separate)
    references.add_edges_from(
        (index_of[path], index_of[reference])
        for path, info in graph.paths.items()
        for reference in info.references
    )
    dominators = nx.immediate_dominators(references, _IMAGE)
    leaders: dict[int, StorePath] = {}
    # In this order a dominator comes before the paths that it dominates, as does every user.
    for path in reversed(graph.references_first):
        dominator = dominators[index_of[path]]
        leaders[index_of[path]] = path if dominator == _IMAGE else leaders[dominator]
    subtrees: dict[StorePath, list[StorePath]] = {}
    for path in graph.paths:
        subtrees.setdefault(leaders[index_of[path]], []).append(path)
    return subtrees


def _merge_groups(groups: Sequence[_Group]) -> LayerGroup:
    """Merge groups into one layer; ``groups`` are in the order of their ratings."""
    return LayerGroup(
        paths=tuple(
            sorted(
                (path for group in groups for path in group.paths),
                key=lambda path: path.sort_key,
            )
        ),
        leader=groups[-1].leader,
        nar_size=sum(group.nar_size for group in groups),
        reason=f"the rest: {len(groups)} groups that would not fit into the budget",
    )
