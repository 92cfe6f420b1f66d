"""
This project's layering, asked as the daemon asks it: with a graph of store paths.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from functools import cached_property
from statistics import median

from attrs import frozen

from nixery.image.closure import PathInfo, RuntimeGraph, StorePath, package_name
from nixery.layers.grouping import LayerSettings, Popularity, Strategy, plan_layers
from tests.benchmarks.layering.workload import Closure, PackageSet, Paths, indices

__all__ = ["Ours", "seconds_for"]


@frozen(kw_only=True, eq=False)
class Ours:
    """
    The project's layering of closures of a package set.

    :param strategy: which of its strategies.
    :param knows: what popularity data it has: ``transitive``, ``direct`` or ``nothing``.
    """

    packages: PackageSet
    strategy: Strategy = Strategy.AFFINITY
    knows: str = "transitive"

    def __call__(self, closure: Closure, budget: int) -> Sequence[Paths]:
        graph = self.graph(closure)
        settings = LayerSettings(
            budget=budget, strategy=self.strategy, common_packages=self._always
        )
        return [
            sum(1 << self._numbers[path] for path in layer.paths)
            for layer in plan_layers(graph, self.popularity, settings)
        ]

    def graph(self, closure: Closure) -> RuntimeGraph:
        """The closure as Nix would give it."""
        return RuntimeGraph(
            paths={self._paths[index]: self._infos[index] for index in indices(closure.members)}
        )

    @cached_property
    def popularity(self) -> Popularity:
        """The data, as they would be read from a file."""
        names = [package_name(path.name) for path in self._paths]
        direct = dict(zip(names, self.packages.direct, strict=True))
        match self.knows:
            case "transitive":
                return Popularity(
                    transitive=dict(zip(names, self.packages.transitive, strict=True)),
                    direct=direct,
                    setsize=self.packages.setsize,
                )
            case "direct":
                return Popularity(direct=direct)
            case _:
                return Popularity()

    @cached_property
    def _always(self) -> frozenset[str]:
        return frozenset(self._paths[index].name for index in self.packages.always)

    @cached_property
    def _paths(self) -> Sequence[StorePath]:
        # Numbers belong to these names: as versions they would be cut off.
        names = [re.sub("-(?=[^a-zA-Z])", "_", name) for name in self.packages.names]
        if len(set(names)) < len(names):
            raise ValueError("two store paths have one name")
        return [StorePath(f"/nix/store/{_digits(name)}-{name}") for name in names]

    @cached_property
    def _infos(self) -> Sequence[PathInfo]:
        return [
            PathInfo(
                path=path,
                nar_hash="0" * 64,
                nar_size=self.packages.sizes[index],
                references=[self._paths[item] for item in self.packages.references[index]],
            )
            for index, path in enumerate(self._paths)
        ]

    @cached_property
    def _numbers(self) -> dict[StorePath, int]:
        return {path: index for index, path in enumerate(self._paths)}


def seconds_for(ours: Ours, count: int, rounds: int = 5) -> float:
    """
    Measure the seconds to cut so many paths into 94 layers: the median of some rounds.

    The whole of the package set, and as many of its paths once more, under other
    hashes, as are missing.
    """
    packages = ours.packages
    whole = packages.closure(range(len(packages.names)))
    infos = dict(ours.graph(whole).paths)
    for info in list(infos.values())[: count - len(infos)]:
        name = info.path.name
        twin = StorePath(f"/nix/store/{_digits(name + ' again')}-{name}")
        infos[twin] = PathInfo(
            path=twin, nar_hash="0" * 64, nar_size=info.nar_size, references=info.references
        )
    graph = RuntimeGraph(paths=infos)
    if len(graph) != count:
        raise ValueError(f"{len(graph)} paths instead of {count}")
    times = []
    for _round in range(rounds):
        begun = time.perf_counter()
        plan_layers(graph, ours.popularity, LayerSettings())
        times.append(time.perf_counter() - begun)
    return median(times)


def _digits(name: str) -> str:
    """32 digits of Nix's base 32, without any order."""
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest().replace("e", "z")
