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

__all__ = ["FoundPath", "chain_to", "find_chains", "find_paths", "shortest_ways"]

NOWHERE = -1
"""The predecessor of a requested path: there is none."""

MAX_MATCHES = 20
"""Maximum number of paths in the result of one search."""

_LEAST_HASH = 6


@frozen(kw_only=True)
class FoundPath:
    """
    The result of a search.

    :param chains: for each path that was found the numbers of the paths that lead to it, from a
        requested path to itself.
    :param total: the number of paths found, which may be more than there are chains.
    """

    chains: tuple[tuple[int, ...], ...]
    total: int


def shortest_ways(report: ImageReport) -> tuple[int, ...]:
    """
    Return for each path the one before it on the shortest chain from a requested path;
    :data:`NOWHERE` for requested paths.
    :data:`NOWHERE` for those themselves.

    A path that no chain leads to, which does not happen, counts as requested.
    """
    ways: list[int | None] = [None] * len(report.paths)
    roots = report.requested
    _spread(report, roots, ways)
    if None in ways:
        referred = {number for path in report.paths for number in path.references}
        _spread(report, [n for n in range(len(ways)) if n not in referred], ways)
    return tuple(NOWHERE if way is None else way for way in ways)


def _spread(report: ImageReport, roots: Sequence[int], ways: list[int | None]) -> None:
    waiting: deque[int] = deque()
    for root in roots:
        if ways[root] is None:
            ways[root] = NOWHERE
            waiting.append(root)
    # Breadth first: a path is first reached by the fewest steps.
    while waiting:
        number = waiting.popleft()
        for reference in report.paths[number].references:
            if ways[reference] is None:
                ways[reference] = number
                waiting.append(reference)


def chain_to(number: int, ways: Sequence[int]) -> tuple[int, ...]:
    """Return the chain to a path, from a requested one to itself."""
    chain = [number]
    while ways[chain[-1]] != NOWHERE:
        chain.append(ways[chain[-1]])
    return tuple(reversed(chain))


def find_chains(
    report: ImageReport, ways: Sequence[int], text: str, most: int = MAX_MATCHES
) -> FoundPath:
    """
    Find the chains to the paths that match a text.

    :param text: as for :func:`find_paths`; empty: nothing is found.  Names that are equal to it
        come first, then those that begin with it, then the shortest.
    """
    if not text.strip():
        return FoundPath(chains=(), total=0)
    found = find_paths(report, text)
    wanted = text.strip().lower()

    def rank(number: int) -> tuple[bool, bool, int, int]:
        name = report.paths[number].name.lower()
        return name != wanted, not name.startswith(wanted), len(name), number

    best = sorted(found, key=rank)[:most]
    return FoundPath(chains=tuple(chain_to(number, ways) for number in best), total=len(found))


def find_paths(report: ImageReport, text: str) -> list[int]:
    """
    Return the numbers of the paths that match a text, rising.

    :param text: a part of a name, in any case, or the beginning of a path with some of
        its hash; empty: all paths.
    """
    wanted = text.strip().lower()
    path = wanted.removeprefix(STORE + "/")
    # Shorter parts of a hash would match by chance.
    hashed = len(path) >= _LEAST_HASH
    return [
        number
        for number, each in enumerate(report.paths)
        if wanted in each.name.lower()
        or (hashed and each.path[len(STORE) + 1 :].lower().startswith(path))
    ]
