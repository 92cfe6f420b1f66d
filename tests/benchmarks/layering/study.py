"""
The results of the study, and the limits that the project's layering keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from attrs import frozen

__all__ = [
    "CASES",
    "LEAF_LIMIT",
    "LIMITS",
    "SEED_ALLOWANCE",
    "SECONDS_LIMIT",
    "STUDY",
    "TINY_LIMIT",
    "TOLERANCE",
    "Case",
    "Limit",
    "Row",
]

Case: TypeAlias = tuple[str, int]
"""A set of images, and the layers that each of them may have."""

CASES: tuple[Case, ...] = (("small", 94), ("large", 94), ("small", 40), ("large", 40))

TOLERANCE = 0.05
"""Allowed difference of a strategy that was written anew from the study, as a fraction."""

Row: TypeAlias = tuple[float, float, float, float]
"""
Pull and storage as multiples of one layer per path, chain as a multiple of one layer:
pull, chain, storage, and the mean number of layers, which was rounded to whole ones.
"""

STUDY: Mapping[str, Mapping[Case, Row]] = {
    "one layer": {
        ("small", 94): (3.762, 1.000, 17.36, 1),
        ("small", 40): (3.762, 1.000, 17.36, 1),
        ("large", 94): (6.800, 1.000, 19.11, 1),
        ("large", 40): (6.800, 1.000, 19.11, 1),
    },
    "popularity contest": {
        ("small", 94): (2.512, 0.786, 9.77, 80),
        ("small", 40): (3.274, 0.900, 14.30, 40),
        ("large", 94): (4.939, 0.821, 13.23, 94),
        ("large", 40): (6.275, 0.938, 17.43, 40),
    },
    "nix2container": {
        ("small", 94): (2.463, 0.781, 9.52, 80),
        ("small", 40): (3.239, 0.897, 14.17, 40),
        ("large", 94): (4.877, 0.823, 13.11, 94),
        ("large", 40): (6.333, 0.944, 17.53, 40),
    },
    "Nixery (Go)": {
        ("small", 94): (1.473, 0.751, 3.62, 60),
        ("small", 40): (2.037, 0.849, 7.59, 38),
        ("large", 94): (2.802, 0.842, 5.69, 94),
        ("large", 40): (4.385, 0.913, 10.76, 40),
    },
    "auto-layer": {
        ("small", 94): (1.177, 0.818, 2.03, 80),
        ("small", 40): (1.408, 0.692, 3.20, 40),
        ("large", 94): (1.608, 0.752, 2.49, 94),
        ("large", 40): (2.362, 0.644, 4.40, 39),
    },
    "size first": {
        ("small", 94): (1.126, 0.722, 1.84, 80),
        ("small", 40): (1.364, 0.683, 3.41, 40),
        ("large", 94): (1.451, 0.666, 2.43, 94),
        ("large", 40): (2.148, 0.655, 4.60, 40),
    },
    "one layer per path": {
        ("small", 94): (1.000, 0.721, 1.00, 160),
        ("small", 40): (1.000, 0.721, 1.00, 160),
        ("large", 94): (1.000, 0.658, 1.00, 325),
        ("large", 40): (1.000, 0.658, 1.00, 325),
    },
    "affinity units": {
        ("small", 94): (1.037, 0.635, 1.16, 48),
        ("small", 40): (1.132, 0.680, 1.65, 27),
        ("large", 94): (1.132, 0.617, 1.25, 87),
        ("large", 40): (1.422, 0.641, 2.03, 40),
    },
}


@frozen(kw_only=True)
class Limit:
    """
    The upper limit of a ratio.

    :param measure: ``pull``, ``chain`` or ``storage``.
    :param versus: the strategy that is compared with.
    :param at_most: in the order of :data:`CASES`.
    :param with_seeds: whether the limit holds for other workloads as well.
    """

    measure: str
    versus: str
    at_most: tuple[float, float, float, float]
    with_seeds: bool = False


LIMITS = (
    Limit(
        measure="pull",
        versus="Nixery (Go)",
        at_most=(0.75, 0.45, 0.60, 0.36),
        with_seeds=True,
    ),
    Limit(
        measure="pull",
        versus="auto-layer",
        at_most=(0.92, 0.75, 0.85, 0.66),
        with_seeds=True,
    ),
    Limit(measure="pull", versus="one layer per path", at_most=(1.06, 1.16, 1.18, 1.50)),
    Limit(measure="chain", versus="Nixery (Go)", at_most=(0.90, 0.80, 0.86, 0.76)),
    Limit(measure="storage", versus="one layer per path", at_most=(1.25, 1.35, 1.9, 2.3)),
)

SEED_ALLOWANCE = 0.05
"""The amount that is added to the limits for other workloads."""

LEAF_LIMIT = 0.01
TINY_LIMIT = 1.5
SECONDS_LIMIT = 0.5
