"""
The frozen workload: a package set, images, clients, and a year of updates.

The package set is a part of Debian's (trixie), with a path per package: its relations
Depends and Pre-Depends are the references, its Installed-Size is the size.  ``small`` are
200 images of a median of 106 paths, ``large`` are 120 of 200 paths and more.  The models
of updates are

A
    drawn: each source with a rate of its own, what many others use in mass rebuilds;
B
    the differences in versions between trixie and sid, dealt over the weeks;
C
    the sources that security updates have touched.

A set of store paths is an integer here, with the bit of each path's index set.  Unions
and differences are then single operations, and a layer is its own key.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from attrs import frozen

__all__ = ["DATA", "Clients", "Closure", "Data", "PackageSet", "Paths", "indices", "load", "union"]

DATA = Path(__file__).parent.parent / "data" / "bench_data.json.gz"

Paths: TypeAlias = int
"""A set of store paths."""


def indices(paths: Paths) -> Iterator[int]:
    """The indices of the members, rising."""
    while paths:
        lowest = paths & -paths
        yield lowest.bit_length() - 1
        paths ^= lowest


def union(parts: Iterable[Paths]) -> Paths:
    """Return the union of the sets."""
    together = 0
    for part in parts:
        together |= part
    return together


@frozen(kw_only=True)
class PackageSet:
    """
    The part of a package set that the images need, a store path per index.

    :param names: without hash and version.
    :param sizes: in bytes.
    :param references: the indices of direct references.
    :param transitive: how many paths of the whole set have it in their closure.
    :param direct: how many refer to it.
    :param setsize: the number of paths of the whole set.
    :param always: what every image contains.
    """

    names: Sequence[str]
    sizes: Sequence[int]
    references: Sequence[Sequence[int]]
    transitive: Sequence[int]
    direct: Sequence[int]
    setsize: int
    always: Sequence[int]

    @cached_property
    def users_first(self) -> tuple[int, ...]:
        """All indices, each before what it refers to."""
        order: list[int] = []
        done = [False] * len(self.names)
        waiting = [(index, False) for index in range(len(self.names))]
        while waiting:
            index, left = waiting.pop()
            if left:
                order.append(index)
            elif not done[index]:
                done[index] = True
                waiting.append((index, True))
                waiting += [(item, False) for item in self.references[index] if not done[item]]
        return tuple(reversed(order))

    @cached_property
    def closures(self) -> Sequence[Paths]:
        """The closure of each path."""
        closures = [0] * len(self.names)
        for index in reversed(self.users_first):
            closures[index] = 1 << index | union(closures[item] for item in self.references[index])
        return closures

    @cached_property
    def closure_sizes(self) -> Sequence[int]:
        """In bytes."""
        return [self.size(closure) for closure in self.closures]

    def size(self, paths: Paths) -> int:
        """The bytes of a set of paths."""
        return sum(self.sizes[index] for index in indices(paths))

    def closure(self, roots: Iterable[int]) -> Closure:
        """Return the paths that an image with the given packages contains."""
        roots = tuple(sorted({*roots, *self.always}))
        return Closure(
            packages=self, roots=roots, members=union(self.closures[root] for root in roots)
        )


@frozen(kw_only=True, eq=False)
class Closure:
    """
    The store paths of an image.

    :param roots: what was asked for, and what every image contains.
    """

    packages: PackageSet
    roots: tuple[int, ...]
    members: Paths

    @cached_property
    def users_first(self) -> tuple[int, ...]:
        """The members, each before what it refers to."""
        return tuple(index for index in self.packages.users_first if self.members >> index & 1)


@frozen(kw_only=True)
class Clients:
    """
    The nodes that pull, and their images.

    :param images: the indices of the packages of each image.
    :param deployers: for each of these nodes the images that it pulls every week.
    :param requests: what one node of a CI system pulls: pairs of week and image.
    """

    images: Sequence[Sequence[int]]
    deployers: Sequence[Sequence[int]]
    requests: Sequence[tuple[int, int]]


@frozen(kw_only=True)
class Data:
    """
    All of it.

    :param histories: for each model of updates and each path the weeks in which the
        path was rebuilt, itself or through what it needs, as bits.
    :param programs: packages that are asked for, the most popular first.
    """

    packages: PackageSet
    clients: Mapping[str, Clients]
    histories: Mapping[str, Sequence[int]]
    programs: Sequence[int]
    weeks: int


def load(path: Path = DATA) -> Data:
    """Read the frozen data."""
    with gzip.open(path) as file:
        raw: dict[str, Any] = json.load(file)
    return Data(
        packages=PackageSet(
            names=raw["name"],
            sizes=raw["size"],
            references=raw["refs"],
            transitive=raw["pop_transitive"],
            direct=raw["pop_direct"],
            setsize=raw["setsize"],
            always=raw["always"],
        ),
        clients={
            name: Clients(
                images=clients["images"],
                deployers=clients["deployers"],
                requests=[(week, image) for week, image in clients["adhoc"]],
            )
            for name, clients in raw["workloads"].items()
        },
        histories={
            model: [int(weeks, 16) for weeks in history]
            for model, history in raw["rebuilt"].items()
        },
        programs=raw["leaf_candidates"],
        weeks=raw["weeks"],
    )
