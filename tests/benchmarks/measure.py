"""
Figures: how they are made of samples, told from bars, and shown.

Machines differ, and one machine differs from minute to minute.  So what is
compared runs in rounds, everything once in each round, one after the other; what
counts are medians, and medians of the ratios within a round, which survive a noisy
machine better than times do.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import asdict, evolve, frozen

__all__ = [
    "Figure",
    "Options",
    "Unavailable",
    "as_table",
    "median_ratio",
    "percentile",
    "run",
    "timed",
]


class Unavailable(Exception):
    """Something is not installed that a benchmark needs; the text says how to get it."""


@frozen(kw_only=True)
class Figure:
    """
    One result.

    :param name: what was measured.
    :param value: how much.
    :param unit: of what; ``times`` for ratios.
    :param at_least: the bar, where more is better.
    :param at_most: the bar, where less is better.
    """

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Tell whether the value meets its bar; ``None`` where it has none."""
        if self.at_least is not None:
            return self.value >= self.at_least
        if self.at_most is not None:
            return self.value <= self.at_most
        return None


@frozen(kw_only=True)
class Options:
    """
    The amounts to measure.

    :param rounds: how many times.
    :param quick: whether the smallest amounts will do, because only the benchmark
        itself is being tried.
    :param images: how many a soak makes.
    """

    rounds: int = 3
    quick: bool = False
    images: int = 1000


Measure = Callable[[Options], list[Figure]]


def run(measures: Mapping[str, Measure], program: str, arguments: Sequence[str]) -> None:
    """
    Measure, and print what has come out.

    :param measures: by their titles.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    parser.add_argument("--rounds", type=int, default=3, help="how many times (3)")
    parser.add_argument("--quick", action="store_true", help="just to see whether it runs")
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write JSON to a file beside the table; without a file, print it instead",
    )
    parser.add_argument("--images", type=int, default=1000, help="of the soak (1000)")
    parser.add_argument(
        "--only", action="append", choices=sorted(measures), help="leave the others out"
    )
    given = parser.parse_args(arguments)
    options = Options(
        rounds=1 if given.quick else given.rounds, quick=given.quick, images=given.images
    )
    printed = given.json != "-"
    results = {}
    for title, measure in measures.items():
        if given.only and title not in given.only:
            continue
        try:
            figures = measure(options)
        except Unavailable as error:
            print(f"{title}: left out, because {error}", file=sys.stderr, flush=True)
            continue
        if options.quick:
            # Amounts this small tell nothing.
            figures = [evolve(figure, at_least=None, at_most=None) for figure in figures]
        results[title] = [asdict(figure) | {"met": figure.met} for figure in figures]
        if printed:
            print(f"{title}\n{as_table(figures)}\n", flush=True)
        if given.json and printed:
            # After each part: what was measured for an hour is not lost by what follows.
            Path(given.json).write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    if not printed:
        print(json.dumps(results, indent=2))


def as_table(figures: Sequence[Figure]) -> str:
    """One line for each figure."""
    width = max((len(figure.name) for figure in figures), default=0)
    return "\n".join(_line(figure, width) for figure in figures)


def median_ratio(some: Sequence[float], others: Sequence[float]) -> float:
    """Return the ratio of ``some`` to ``others``: the median over rounds."""
    return statistics.median(a / b for a, b in zip(some, others, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of the values (0.99) do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def timed(work: Callable[[], object]) -> float:
    """Measure how long ``work`` takes, in seconds."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _line(figure: Figure, width: int) -> str:
    digits = 0 if abs(figure.value) >= 100 else 2 if abs(figure.value) >= 1 else 3
    line = f"  {figure.name:<{width}}  {figure.value:>12,.{digits}f} {figure.unit}"
    if figure.at_least is not None:
        line = f"{line:<{width + 34}} at least {figure.at_least:g}"
    elif figure.at_most is not None:
        line = f"{line:<{width + 34}} at most {figure.at_most:g}"
    if figure.met is None:
        return line
    return f"{line}: {'met' if figure.met else 'MISSED'}"
