"""
Finds the chains of references that explain why an image contains a path.

A path is in an image because a requested package refers to it, or refers to a path that does. There
are many such chains; the shortest is the most informative. Among chains of one length the one
through paths that sort first is chosen, so that the result is deterministic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from attrs import frozen

from nixery.image.closure import STORE
from nixery.inspection.report import ImageReport

__all__ = ["SearchMatches", "chain_to", "find_chains", "find_paths", "shortest_predecessors"]

NO_PREDECESSOR = -1
"""The predecessor of a requested path: there is none."""

MAX_MATCHES = 20
"""Maximum number of paths in the result of one search."""

_MIN_HASH_CHARACTERS = 6


@frozen(kw_only=True)
class SearchMatches:
    """
    The result of a search.

    :param chains: for each path that was found the numbers of the paths that lead to it, from a
        requested path to itself.
    :param total: the number of paths found, which may be more than there are chains.
    """

    chains: tuple[tuple[int, ...], ...]
    total: int


def shortest_predecessors(report: ImageReport) -> tuple[int, ...]:
    """
    Return for each path the one before it on the shortest chain from a requested path;
    :data:`NO_PREDECESSOR` for requested paths.
    :data:`NO_PREDECESSOR` for those themselves.

    A path that no chain leads to, which does not happen, counts as requested.
    """
    predecessors: list[int | None] = [None] * len(report.paths)
    roots = report.requested
    _search_breadth_first(report, roots, predecessors)
    if None in predecessors:
        referred = {number for path in report.paths for number in path.references}
        _search_breadth_first(
            report, [n for n in range(len(predecessors)) if n not in referred], predecessors
        )
    return tuple(
        NO_PREDECESSOR if predecessor is None else predecessor for predecessor in predecessors
    )


def _search_breadth_first(
    report: ImageReport, roots: Sequence[int], predecessors: list[int | None]
) -> None:
    queue: deque[int] = deque()
    for root in roots:
        if predecessors[root] is None:
            predecessors[root] = NO_PREDECESSOR
            queue.append(root)
    # Breadth first: a path is first reached by the fewest steps.
    while queue:
        number = queue.popleft()
        for reference in report.paths[number].references:
            if predecessors[reference] is None:
                predecessors[reference] = number
                queue.append(reference)


def chain_to(number: int, predecessors: Sequence[int]) -> tuple[int, ...]:
    """Return the chain to a path, from a requested one to itself."""
    chain = [number]
    while predecessors[chain[-1]] != NO_PREDECESSOR:
        chain.append(predecessors[chain[-1]])
    return tuple(reversed(chain))


def find_chains(
    report: ImageReport, predecessors: Sequence[int], query: str, max_matches: int = MAX_MATCHES
) -> SearchMatches:
    """
    Find the chains to the paths that match a text.

    :param query: as for :func:`find_paths`; empty: nothing is found.  Names that are equal to it
        come first, then those that begin with it, then the shortest.
    """
    if not query.strip():
        return SearchMatches(chains=(), total=0)
    found = find_paths(report, query)
    needle = query.strip().lower()

    def rank(number: int) -> tuple[bool, bool, int, int]:
        name = report.paths[number].name.lower()
        return name != needle, not name.startswith(needle), len(name), number

    best = sorted(found, key=rank)[:max_matches]
    return SearchMatches(
        chains=tuple(chain_to(number, predecessors) for number in best), total=len(found)
    )


def find_paths(report: ImageReport, query: str) -> list[int]:
    """
    Return the numbers of the paths that match a text, rising.

    :param query: a part of a name, in any case, or the beginning of a path with some of
        its hash; empty: all paths.
    """
    needle = query.strip().lower()
    path = needle.removeprefix(STORE + "/")
    # Shorter parts of a hash would match by chance.
    hashed = len(path) >= _MIN_HASH_CHARACTERS
    return [
        number
        for number, each in enumerate(report.paths)
        if needle in each.name.lower()
        or (hashed and each.path[len(STORE) + 1 :].lower().startswith(path))
    ]
