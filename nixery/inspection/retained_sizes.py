"""
Tell how much each path of a closure keeps in the image: its own bytes, and those of all paths that
are there because of it alone.

A path *dominates* another one if every chain of references from the requested packages leads
through it.  The immediate dominators form a tree (K. D. Cooper, T. J. Harvey and K. Kennedy, "A
Simple, Fast Dominance Algorithm", 2001), and the *retained size* of a path is the size of its
subtree: the bytes that the image would not have without the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from attrs import frozen

from nixery.inspection.report import ImageReport

__all__ = ["RetainedPath", "find_dominators", "retained_tree"]

MAX_TREE_PATHS = 200
"""The number of paths in a tree: those that retain most."""

MAX_DEPTH = 12
"""The most levels of a tree; browsers flatten elements that lie too deep, and phones are narrow."""

_IMAGE = -1


@frozen(kw_only=True)
class RetainedPath:
    """
    A path, and what is there because of it alone.

    :param number: its number in the report.
    :param retained: the bytes of its subtree.
    :param count: the paths of its subtree, itself included.
    :param children: those below it that retain most, the largest first.
    :param omitted: the number of paths below it that are in none of the children.
    :param omitted_size: their bytes.
    """

    number: int
    retained: int
    count: int
    children: tuple[RetainedPath, ...]
    omitted: int
    omitted_size: int


def find_dominators(report: ImageReport) -> tuple[int, ...]:
    """Return the immediate dominator of each path; -1 if only the image as a whole needs it."""
    # Imported late: it is a fifth of the daemon's import time, and not needed at startup.
    import networkx as nx  # noqa: PLC0415

    references: nx.DiGraph[int] = nx.DiGraph()
    references.add_node(_IMAGE)
    referred = {number for path in report.paths for number in path.references}
    requested = set(report.requested)
    for number, path in enumerate(report.paths):
        references.add_edges_from((number, each) for each in path.references)
        if number in requested or number not in referred:
            references.add_edge(_IMAGE, number)
    dominators = nx.immediate_dominators(references, _IMAGE)
    return tuple(dominators[number] for number in range(len(report.paths)))


def retained_tree(report: ImageReport, dominators: Sequence[int]) -> RetainedPath:
    """
    Return the paths that retain most as a tree; its root, number -1, is the image.

    :param dominators: as :func:`find_dominators` returns them.
    """
    sizes = [path.size for path in report.paths]
    counts = [1] * len(sizes)
    children: dict[int, list[int]] = {}
    for number, dominator in enumerate(dominators):
        children.setdefault(dominator, []).append(number)
    order = [_IMAGE]
    for number in order:
        # The loop reaches what is added: the list is a queue.
        order += children.get(number, ())
    for number in reversed(order[1:]):
        if (dominator := dominators[number]) != _IMAGE:
            sizes[dominator] += sizes[number]
            counts[dominator] += counts[number]
    shown = _largest(children, sizes)

    def make(number: int) -> RetainedPath:
        below = sorted(
            (each for each in children.get(number, ()) if each in shown),
            key=lambda each: (-sizes[each], each),
        )
        made = tuple(make(each) for each in below)
        own = 0 if number == _IMAGE else report.paths[number].size
        retained = sum(path.size for path in report.paths) if number == _IMAGE else sizes[number]
        count = len(sizes) if number == _IMAGE else counts[number]
        return RetainedPath(
            number=number,
            retained=retained,
            count=count,
            children=made,
            omitted=count - (number != _IMAGE) - sum(each.count for each in made),
            omitted_size=retained - own - sum(each.retained for each in made),
        )

    return make(_IMAGE)


def _largest(children: dict[int, list[int]], sizes: Sequence[int]) -> set[int]:
    """Return the paths that retain most; the dominator of each is among them."""
    # A path retains no more than its dominator, so that it comes behind it.
    waiting = [(-sizes[number], 1, number) for number in children.get(_IMAGE, ())]
    heapify(waiting)
    shown: set[int] = set()
    while waiting and len(shown) < MAX_TREE_PATHS:
        _, depth, number = heappop(waiting)
        shown.add(number)
        if depth < MAX_DEPTH:
            for each in children.get(number, ()):
                heappush(waiting, (-sizes[each], depth + 1, each))
    return shown
