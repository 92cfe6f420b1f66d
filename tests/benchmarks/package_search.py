"""
Measure how long a search among 100,000 packages takes.

    python -m tests.benchmarks.package_search [--rounds N] [--quick] [--json]

The names are generated, with the shape of nixpkgs: a third at the top of the set, the others in
nested sets. The time is that of the thread which searches; the reactor's thread is not used.
"""

from __future__ import annotations

import random
import sys
import time

from nixery.nix.package_finder import PackageFinder
from nixery.nix.package_index import IndexEntry, PackageIndex
from tests.benchmarks.measure import Figure, Options, run

__all__ = ["measure"]

PACKAGES = 100_000

NESTED = ("haskellPackages", "perlPackages", "python3Packages", "python311Packages")

MAX_SECONDS = 0.1

_SYLLABLES = [f"{first}{second}" for first in "bdgklmnprst" for second in "aeiou"]


def measure(options: Options) -> list[Figure]:
    index = _index(1000 if options.quick else PACKAGES)
    begun = time.thread_time()
    finder = PackageFinder(index)
    made = time.thread_time() - begun
    some = index.entries[len(index.entries) // 2]
    queries = {
        "a name": some.attribute,
        "two letters": some.pname[:2],
        "two words of a description": " ".join(some.description.split()[:2]),
        "a misspelt name": f"{some.pname[:-2]}{some.pname[-1]}{some.pname[-2]}",
        "nothing that is there": "zzqxw",
    }
    figures = [Figure(name="a list made ready for searches", value=made, unit="s")]
    for name, query in queries.items():
        figures.append(
            Figure(
                name=f"search for {name}",
                value=_shortest(finder, query, options.rounds),
                unit="s",
                at_most=MAX_SECONDS,
            )
        )
    return figures


def _shortest(finder: PackageFinder, query: str, rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        begun = time.thread_time()
        finder.find(query, limit=10)
        seconds.append(time.thread_time() - begun)
    return min(seconds)


def _index(size: int) -> PackageIndex:
    """Return an index that is the same always."""
    drawn = random.Random(size)

    def word(least: int, most: int) -> str:
        return "".join(drawn.choices(_SYLLABLES, k=drawn.randint(least, most)))

    words = [word(2, 5) for _ in range(5000)]
    entries: dict[str, IndexEntry] = {}
    while len(entries) < size:
        pname = word(3, 9)
        nested = len(entries) % 3
        attribute = f"{drawn.choice(NESTED)}.{pname}" if nested else pname
        entries[attribute] = IndexEntry(
            attribute=attribute,
            pname=pname,
            version="1.0",
            description=" ".join(drawn.choices(words, k=7)),
            served=True,
        )
    return PackageIndex(names=(), entries=tuple(entries.values()))


if __name__ == "__main__":
    run({"package_search": measure}, "tests.benchmarks.package_search", sys.argv[1:])
