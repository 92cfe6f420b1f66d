"""
Counts how popular store paths are within a package set.

Popularity data (``nixery.layers.popularity_file``) tell how many store paths of a set refer to a
package, and how many have it in their closure.  The first number is a simple sum.
For the second, the closure of every path would have to be walked, which for nixpkgs
means some 100,000 walks of some hundred steps each: :func:`users_in_closure` does
thousands of these walks at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain, compress

from nixery.errors import UnexpectedOutput
from nixery.layers.plan import Popularity
from nixery.layers.popularity_file import merge_counts

__all__ = ["References", "count_popularity", "users_in_closure"]

References = Mapping[str, Collection[str]]
"""
The references of store paths, by their base names, ``<hash>-<name>``.

References to paths that are not among the keys are ignored, as are those of a path to
itself.
"""

CHUNK_SIZE = 16384
"""
Number of users per chunk.  Larger chunks mean fewer rounds with larger integers; above this
value, a set of 100,000 paths takes hardly less time, and more memory.
"""

_NAME_START = 33


def count_popularity(references: References, source: str) -> Popularity:
    """
    Compute the popularity data of a set of store paths.

    :param references: the references of every path of the set.
    :param source: where they come from, for people.
    :raises UnexpectedOutput: the references have a cycle.
    """
    names = list(references)
    numbers = {name: number for number, name in enumerate(names)}
    uses = [
        [numbers[other] for other in set(references[name]) if other in numbers and other != name]
        for name in names
    ]
    direct = [0] * len(names)
    for used in chain.from_iterable(uses):
        direct[used] += 1
    order = _sort_users_first(names, uses)
    transitive = users_in_closure(uses, order)
    packages = [name[_NAME_START:] for name in names]
    return Popularity(
        transitive=merge_counts(zip(packages, transitive, strict=True)),
        # A path without users adds no information.
        direct=merge_counts(compress(zip(packages, direct, strict=True), direct)),
        setsize=len(names),
        source=source,
    )


def users_in_closure(
    uses: Sequence[Sequence[int]], users_first: Sequence[int], chunk: int = CHUNK_SIZE
) -> list[int]:
    r"""
    Count for each node of a graph the nodes that reach it, itself included.

    A set of nodes is a bit set in one large integer.  Users are taken in chunks, a bit
    for each, and their bits are passed down the graph; the bits that arrive at a node are
    counted::

        chunk 1: a, b            a  01        b  10
                                  \          /  \
                                   c  11 (+2)    d  10 (+1)
                                    \          /
        chunk 2: c, d, e              e  11 (+2), in chunk 2 +3

    A node's bits are dropped as soon as they have been passed on, so that a chunk takes
    the memory of the graph's frontier only; and since every user comes before all that it
    uses, each chunk's walk begins at the first node of the chunk.

    :param uses: for each node the nodes that it uses, each once.
    :param users_first: all nodes, each before all that it uses.
    :param chunk: the number of users per chunk.
    """
    position = {node: position for position, node in enumerate(users_first)}
    successors = [[position[used] for used in uses[node]] for node in users_first]
    counts = [0] * len(uses)
    for start in range(0, len(successors), chunk):
        bit_sets = [0] * len(successors)
        for bit, node in enumerate(range(start, min(start + chunk, len(successors)))):
            bit_sets[node] = 1 << bit
        for node in range(start, len(successors)):
            bits = bit_sets[node]
            if bits:
                bit_sets[node] = 0
                counts[users_first[node]] += bits.bit_count()
                for used in successors[node]:
                    bit_sets[used] |= bits
    return counts


def _sort_users_first(names: Sequence[str], uses: Sequence[Sequence[int]]) -> list[int]:
    """
    Sort the nodes so that each comes before all that it uses.

    :raises UnexpectedOutput: there is a cycle.
    """
    unvisited_users = [0] * len(uses)
    for used in chain.from_iterable(uses):
        unvisited_users[used] += 1
    # A stack, not a queue: nodes that have one user only follow it closely, and their
    # bits are not kept for long.
    ready = [node for node in range(len(uses)) if not unvisited_users[node]]
    order = []
    while ready:
        node = ready.pop()
        order.append(node)
        for used in uses[node]:
            unvisited_users[used] -= 1
            if not unvisited_users[used]:
                ready.append(used)
    if len(order) < len(uses):
        in_cycle = next(node for node in range(len(uses)) if unvisited_users[node])
        raise UnexpectedOutput(
            what="the references of store paths (a circle)", excerpt=names[in_cycle]
        )
    return order
