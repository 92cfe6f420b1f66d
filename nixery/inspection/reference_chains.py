"""
Why an image contains something: the chains of references that lead there.

A path is in an image because a package that was asked for refers to it, or refers to
something that does.  There are many such chains; the shortest is the one that says most.
Among chains of one length the one through paths that sort first is chosen, so that the
same question has the same answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from attrs import frozen

from nixery.image.closure import STORE
from nixery.inspection.report import ImageReport

__all__ = ["FoundPath", "chain_to", "find_chains", "find_paths", "shortest_ways"]

NOWHERE = -1
"""What stands for the way to a path that was asked for: nothing leads there."""

MOST_FOUND = 20
"""How many paths one question is answered for."""

_LEAST_HASH = 6


@frozen(kw_only=True)
class FoundPath:
    """
    What a search has found.

    :param chains: for each path that was found the numbers of the paths that lead to it,
        from one that was asked for to itself.
    :param total: how many were found, which may be more than there are chains.
    """

    chains: tuple[tuple[int, ...], ...]
    total: int


def shortest_ways(report: ImageReport) -> tuple[int, ...]:
    """
    For each path the one before it on the shortest chain from a path that was asked for;
    :data:`NOWHERE` for those themselves.

    What no chain leads to, which does not happen, counts as asked for.
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
    # Breadth first: what is reached first is reached by the fewest steps.
    while waiting:
        number = waiting.popleft()
        for reference in report.paths[number].references:
            if ways[reference] is None:
                ways[reference] = number
                waiting.append(reference)


def chain_to(number: int, ways: Sequence[int]) -> tuple[int, ...]:
    """The chain to a path, from one that was asked for to itself."""
    chain = [number]
    while ways[chain[-1]] != NOWHERE:
        chain.append(ways[chain[-1]])
    return tuple(reversed(chain))


def find_chains(
    report: ImageReport, ways: Sequence[int], text: str, most: int = MOST_FOUND
) -> FoundPath:
    """
    Why an image contains what is called so.

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
    The numbers of the paths that are called so, rising.

    :param text: a part of a name, in any case, or the beginning of a path with some of
        its hash; empty: all paths.
    """
    wanted = text.strip().lower()
    path = wanted.removeprefix(STORE + "/")
    # Shorter parts of a hash would be found by chance.
    hashed = len(path) >= _LEAST_HASH
    return [
        number
        for number, each in enumerate(report.paths)
        if wanted in each.name.lower()
        or (hashed and each.path[len(STORE) + 1 :].lower().startswith(path))
    ]
