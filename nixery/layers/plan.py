"""
The inputs and results of the layering, as values.

They are separate from the strategies (``affinity``, ``dominators``), so that strategies can
be added; ``nixery.layers.grouping`` chooses between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cached_property
from types import MappingProxyType

from attrs import field, frozen, validators

from nixery.image.canonical_json import Json, sha256_hex
from nixery.image.closure import StorePath, package_name

__all__ = [
    "FULL_BUDGET",
    "LAYERING_VERSION",
    "LayerGroup",
    "LayerPlan",
    "LayerSettings",
    "Popularity",
    "PopularityKind",
    "Strategy",
]

LAYERING_VERSION = 2
"""Increased when a strategy gives another result for the same input: part of image keys."""

FULL_BUDGET = 94
"""
The layers that store paths may take by default, and the budget that sizes in
:class:`LayerSettings` are meant for.
"""


class Strategy(Enum):
    """A way of cutting a closure into layers."""

    AFFINITY = "affinity"
    DOMINATORS = "dominators"


_percentage = [validators.ge(1), validators.le(100)]


@frozen(kw_only=True)
class LayerSettings:
    """
    The settings by which a closure is cut into layers.

    :param budget: the number of layers that the store paths may take.  Other layers of
        an image (the links at its root) come on top, and the caller has to
        reserve them: engines take 125 layers in all, 94 leave some for
        images that are built on this one.
    :param strategy: the strategy of grouping.
    :param common_packages: the packages that every image contains, by the names of their
        store paths without version (:func:`nixery.image.closure.package_name`).  Few paths
        refer to them, so popularity data do not show it.

    Users choose the budget and the strategy. The other values are those with which clients pulled
    the least in ``python -m tests.benchmarks.layering``; those of the dominators are the first
    Nixery's.

    These are for the strategy ``affinity``:

    :param affinity: the share of the closures with a path that have to contain another
        path as well before the two may share a layer, in per cent.
    :param unit_size: a path of this size or more begins a unit, in bytes unpacked,
        at a budget of 94.  Fewer layers are larger ones: the size grows in
        proportion.
    :param minimum_size: a unit smaller than this gets no layer of its own, in bytes
        unpacked.
    :param classes: the most layers that the small units are spread over, by their
        popularity.
    :param common_share: the share of the budget that may be spent on paths that every
        image contains, in per cent.

    These are for the strategy ``dominators``:

    :param popularity_threshold: a path with this popularity or more is kept in a
        layer of its own, with what only it needs; a number of direct references.
    :param size_threshold: the same for a path whose closure has this many bytes or
        more, unpacked.
    :raises ValueError: a setting makes no sense.
    """

    budget: int = field(default=FULL_BUDGET, validator=validators.ge(1))
    strategy: Strategy = Strategy.AFFINITY
    common_packages: frozenset[str] = frozenset({"cacert", "iana-etc", "nss-cacert"})
    affinity: int = field(default=70, validator=_percentage)
    unit_size: int = field(default=4 * 2**20, validator=validators.ge(0))
    minimum_size: int = field(default=128 * 2**10, validator=validators.ge(0))
    classes: int = field(default=5, validator=validators.ge(1))
    common_share: int = field(default=10, validator=_percentage)
    popularity_threshold: int = 100
    size_threshold: int = 100_000_000

    def is_common(self, path: StorePath) -> bool:
        """Tell whether the path belongs to a package that every image contains."""
        return package_name(path.name) in self.common_packages

    def identity(self) -> dict[str, Json]:
        """Return the settings in use and the version of the code, for cache keys."""
        common: dict[str, Json] = {
            "always": sorted(self.common_packages),
            "budget": self.budget,
            "strategy": self.strategy.value,
            "version": LAYERING_VERSION,
        }
        if self.strategy is Strategy.AFFINITY:
            return common | {
                "affinity": self.affinity,
                "classes": self.classes,
                "common_share": self.common_share,
                "minimum_size": self.minimum_size,
                "unit_size": self.unit_size,
            }
        return common | {
            "popularity_threshold": self.popularity_threshold,
            "size_threshold": self.size_threshold,
        }


class PopularityKind(Enum):
    """The kinds of popularity data, from the most to the least useful."""

    TRANSITIVE = "transitive"
    DIRECT = "direct"
    NONE = "none"


def _frozen_counts(counts: Mapping[str, int]) -> Mapping[str, int]:
    return MappingProxyType(dict(counts))


@frozen(kw_only=True)
class Popularity:
    """
    The popularity of packages among all packages of the package set.

    It does not depend on the image, so that all images agree on it.  Packages are
    called by the names of their store paths without version
    (:func:`nixery.image.closure.package_name`); ``nixery.layers.popularity_file`` defines how
    the counts of several versions and outputs of one package are merged.

    :param transitive: the number of store paths of the set that have the package in their
        closure, themselves included.
    :param direct: the number of store paths that refer to it directly.
    :param setsize: the number of store paths in the set; 0 if it is not known.
    :param source: the origin of the counts, for people.
    """

    transitive: Mapping[str, int] = field(
        factory=dict, hash=False, repr=False, converter=_frozen_counts
    )
    direct: Mapping[str, int] = field(
        factory=dict, hash=False, repr=False, converter=_frozen_counts
    )
    setsize: int = field(default=0, validator=validators.ge(0))
    source: str = field(default="", eq=False)

    @property
    def kind(self) -> PopularityKind:
        """The most useful kind of the data that are known."""
        if self.transitive:
            return PopularityKind.TRANSITIVE
        return PopularityKind.DIRECT if self.direct else PopularityKind.NONE

    def count_of(self, path: StorePath) -> int:
        """
        Return the number of store paths that have the path's package in their closure, or,
        if only that is known, refer to it.  A missing package counts as 1.
        """
        return max(1, (self.transitive or self.direct).get(package_name(path.name), 1))

    def direct_count_of(self, path: StorePath) -> int:
        """Return the number of store paths that refer to the path's package, at least 1."""
        return max(1, self.direct.get(package_name(path.name), 1))

    @cached_property
    def max_count(self) -> int:
        """
        The popularity of a path that every image contains: the size of the set, or, if
        that is not known, one more than the highest count.
        """
        highest = max((self.transitive or self.direct).values(), default=1)
        return max(self.setsize, highest) if self.setsize else highest + 1

    @cached_property
    def digest(self) -> str:
        """A hash that identifies these data, for cache keys."""
        return sha256_hex(
            {
                "direct": self.direct,
                "kind": "popularity",
                "setsize": self.setsize,
                "transitive": self.transitive,
            }
        )


@frozen(kw_only=True)
class LayerGroup:
    """
    The store paths of a layer.

    :param paths: sorted.
    :param leader: the path that the layer is named after: the others are there because of
        it, or it is the most important of several unrelated paths that share the layer.
    :param nar_size: the sum of their sizes, in bytes.
    :param reason: the reason for the layer, as a short phrase for people.
    """

    paths: tuple[StorePath, ...]
    leader: StorePath
    nar_size: int
    reason: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the paths, the leader's first, each of them once."""
        return tuple(dict.fromkeys([self.leader.name, *(path.name for path in self.paths)]))


@frozen(kw_only=True)
class LayerPlan:
    """
    A closure cut into layers: every path is in exactly one of them.

    :param layers: from the bottom, which most images share, to the top.
    """

    layers: tuple[LayerGroup, ...]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[LayerGroup]:
        return iter(self.layers)
