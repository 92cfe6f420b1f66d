"""
Runs the comparison and prints it; ``--help`` says how.

Exits with status 1 if a peer does not reproduce the study, or a limit is not kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean

from attrs import AttrsInstance, asdict, frozen

from nixery.layers.grouping import Strategy as Layering
from tests.benchmarks.layering import fresh, peers, study, workload
from tests.benchmarks.layering.measures import (
    LEAF_PATHS,
    TABLES,
    Costs,
    Leaf,
    Strategy,
    costs,
    leaf,
    own_changes,
)
from tests.benchmarks.layering.ours import Ours, seconds_for
from tests.benchmarks.layering.study import CASES, Case
from tests.benchmarks.layering.workload import Data

OURS = "affinity units"
IDEAL = "one layer per path"
WHOLE = "one layer"
LEAF_SAMPLES = 400
LEAF_NAMES = (OURS, "Nixery (Go)", "auto-layer", "size first")

PEERS: Mapping[str, Strategy] = {
    WHOLE: peers.one_layer,
    "popularity contest": peers.popularity_contest,
    "nix2container": peers.nix2container,
    "Nixery (Go)": peers.first_nixery,
    "auto-layer": peers.auto_layer,
    "size first": peers.size_first,
    IDEAL: peers.one_per_path,
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.layering")
    parser.add_argument("--json", action="store_true", help="print JSON, not tables")
    parser.add_argument(
        "--seeds", type=int, default=0, metavar="N", help="as many other workloads as well (0)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="leave out what is measured by adding packages"
    )
    options = parser.parse_args(arguments)
    say: Callable[[str], None] = (lambda _text: None) if options.json else print

    data = workload.load()
    ours = Ours(packages=data.packages)
    variants: Mapping[str, Strategy] = {
        OURS: ours,
        "... direct counts only": Ours(packages=data.packages, knows="direct"),
        "... no counts": Ours(packages=data.packages, knows="nothing"),
        "our dominators": Ours(packages=data.packages, strategy=Layering.DOMINATORS),
    }
    rows = compare({**PEERS, **variants}, data)
    say(table(rows))
    checks = [*reproduced(rows), *kept(rows), *details(rows, seconds_for(ours, 5_000))]

    leaves: dict[str, dict[Case, Leaf]] = {}
    if not options.quick:
        strategies = {**PEERS, **variants}
        for name in LEAF_NAMES:
            leaves[name] = {
                case: leaf(strategies[name], case[1], data.clients[case[0]], data, LEAF_SAMPLES)
                for case in CASES[:2]
            }
        say(leaf_table(leaves))
        checks += leaf_checks(leaves[OURS])

    seeds = []
    for seed in range(1, options.seeds + 1):
        needed = {name: PEERS[name] for name in ("Nixery (Go)", "auto-layer", WHOLE, IDEAL)}
        other = compare({**needed, OURS: ours}, fresh.draw(data, seed))
        say(f"Workload {seed}\n\n{table(other)}")
        seeds.append(other)
        checks += kept(other, seed=seed)

    say(report(checks))
    failed = [check for check in checks if not check.passed]
    if options.json:
        print(
            json.dumps(
                {
                    "checks": [asdict(check) | {"passed": check.passed} for check in checks],
                    "leaves": _plain(leaves),
                    "rows": _plain(rows),
                    "seeds": [_plain(other) for other in seeds],
                },
                indent=2,
            )
        )
    return 1 if failed else 0


@frozen(kw_only=True)
class Scored:
    """
    The cost of a strategy in one case.

    :param pull: a multiple of one layer per path.
    :param partial_most: by partial pulls at most, a multiple of the same.
    :param partial_least: by partial pulls at least, a multiple of the same.
    :param chain: a multiple of one layer.
    :param storage: a multiple of one layer per path.
    """

    costs: Costs
    pull: float
    partial_most: float
    partial_least: float
    chain: float
    storage: float


Rows = dict[str, dict[Case, Scored]]


def compare(strategies: Mapping[str, Strategy], data: Data) -> Rows:
    """Score strategies, among them the two that others are multiples of."""
    found: dict[str, dict[Case, Costs]] = {
        name: {
            (images, budget): costs(
                [
                    strategy(data.packages.closure(image), budget)
                    for image in data.clients[images].images
                ],
                data.clients[images],
                data,
            )
            for images, budget in CASES
        }
        for name, strategy in strategies.items()
    }
    # Files are fetched of whatever layer they are in: as if each path had one.
    files = {
        (images, budget): costs(
            [
                PEERS[IDEAL](data.packages.closure(image), budget)
                for image in data.clients[images].images
            ],
            data.clients[images],
            own_changes(data),
        ).pull
        / found[IDEAL][images, budget].pull
        for images, budget in CASES
    }
    return {
        name: {
            case: Scored(
                costs=cost,
                pull=cost.pull / found[IDEAL][case].pull,
                partial_most=1 + TABLES * cost.pull / found[IDEAL][case].pull,
                partial_least=files[case] + TABLES * cost.pull / found[IDEAL][case].pull,
                chain=cost.chain / found[WHOLE][case].chain,
                storage=cost.storage / found[IDEAL][case].storage,
            )
            for case, cost in cases.items()
        }
        for name, cases in found.items()
    }


@frozen(kw_only=True)
class Check:
    """A number and what it has to be."""

    what: str
    value: float
    at_most: float
    at_least: float = 0

    @property
    def passed(self) -> bool:
        return self.at_least <= self.value <= self.at_most


def reproduced(rows: Rows) -> Iterable[Check]:
    """Check that the peers reproduce their results of the study."""
    for name in PEERS:
        for case, expected in study.STUDY[name].items():
            scored = rows[name][case]
            found = (scored.pull, scored.chain, scored.storage, scored.costs.layers)
            measures = ("pull", "chain", "storage", "layers")
            for measure, value, right in zip(measures, found, expected, strict=True):
                yield Check(
                    what=f"the study's {right:g}: {name}, {_case(case)}, {measure}",
                    value=value,
                    at_most=right * (1 + study.TOLERANCE),
                    at_least=right * (1 - study.TOLERANCE),
                )


def kept(rows: Rows, seed: int | None = None) -> Iterable[Check]:
    """Check that our strategy keeps its limits."""
    for limit in study.LIMITS:
        if seed is not None and not limit.with_seeds:
            continue
        for case, at_most in zip(CASES, limit.at_most, strict=True):
            mine, other = rows[OURS][case].costs, rows[limit.versus][case].costs
            where = _case(case) if seed is None else f"{_case(case)}, workload {seed}"
            yield Check(
                what=f"{limit.measure} vs {limit.versus}, {where}",
                value=getattr(mine, limit.measure) / getattr(other, limit.measure),
                at_most=at_most + (0 if seed is None else study.SEED_ALLOWANCE),
            )


def details(rows: Rows, seconds: float) -> Iterable[Check]:
    for case in CASES:
        scored = rows[OURS][case].costs
        yield Check(what=f"most layers, {_case(case)}", value=scored.most, at_most=case[1])
        if case[1] == 94:
            yield Check(
                what=f"layers under 100 kB an image, {_case(case)}",
                value=scored.tiny,
                at_most=study.TINY_LIMIT,
            )
    yield Check(what="seconds for 5,000 paths", value=seconds, at_most=study.SECONDS_LIMIT)


def leaf_checks(leaves: Mapping[Case, Leaf]) -> Iterable[Check]:
    for case, found in leaves.items():
        yield Check(what=f"leaf waste, {_case(case)}", value=found.leaves, at_most=study.LEAF_LIMIT)


def table(rows: Rows) -> str:
    lines = [
        "Pull, partial and storage: multiples of one layer per path; chain: of one layer.",
        "Partial: by partial pulls of zstd:chunked layers, at least and at most.",
        "",
        f"{'':24}" + "".join(f"{_case(case):^47}" for case in CASES),
        f"{'':24}"
        + f"{'pull':>8}{'partial':>13}{'chain':>8}{'stored':>8}{'layers':>8}   " * len(CASES),
    ]
    for name, cases in rows.items():
        cells = "".join(
            f"{scored.pull:8.3f}  {scored.partial_least:5.3f}-{scored.partial_most:5.3f}"
            f"{scored.chain:8.3f}{scored.storage:8.2f}"
            f"{scored.costs.layers:8.1f}   "
            for scored in (cases[case] for case in CASES)
        )
        lines.append(f"{name:24}{cells}")
    return "\n".join([*lines, ""])


def leaf_table(leaves: Mapping[str, Mapping[Case, Leaf]]) -> str:
    lines = [
        "Pulled again when a package is added, as a fraction of the image: leaves bring at",
        f"most {LEAF_PATHS} paths.",
        "",
        f"{'':24}" + "".join(f"{_case(case):^22}" for case in CASES[:2]),
        f"{'':24}" + f"{'leaves':>11}{'any':>11}" * 2,
    ]
    for name, cases in leaves.items():
        lines.append(
            f"{name:24}"
            + "".join(f"{found.leaves:11.4f}{found.packages:11.4f}" for found in cases.values())
        )
    return "\n".join([*lines, ""])


def report(checks: Sequence[Check]) -> str:
    """All limits; of the study's numbers only how near they are, and the misses."""
    lines = []
    distances = []
    for check in checks:
        if check.at_least:
            middle = (check.at_most + check.at_least) / 2
            distances.append(abs(check.value / middle - 1))
            if check.passed:
                continue
        lines.append(
            f"{'PASS' if check.passed else 'FAIL'}  {check.what:58}"
            f"{check.value:8.3f}  at most {check.at_most:.3f}"
        )
    failed = sum(not check.passed for check in checks)
    summary = (
        f"Of the study's {len(distances)} numbers for the peers none is farther away than"
        f" {100 * max(distances):.1f} %, on the average {100 * mean(distances):.1f} %."
    )
    return "\n".join([summary, *lines, f"{len(checks) - failed} passed, {failed} failed"])


def _case(case: Case) -> str:
    return f"{case[0]} {case[1]}"


def _plain(rows: Mapping[str, Mapping[Case, AttrsInstance]]) -> dict[str, dict[str, object]]:
    return {
        name: {_case(case): asdict(value) for case, value in cases.items()}
        for name, cases in rows.items()
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
