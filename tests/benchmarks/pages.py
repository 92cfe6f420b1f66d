"""
Measure the effect that viewing a large image's page has on concurrent pulls.

    python -m tests.benchmarks.pages [--rounds N] [--quick] [--json]

A closure of 5,000 store paths is put beside an image of the demo set, as if the image had
been made of it.  Its page, its paths and its graph are asked for, the first time by a
daemon that has to draw them, while another process asks the registry for ``/v2/``.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from functools import partial

from attrs import evolve

from nixery.builds.build_record import BuildRecord
from nixery.image.closure import parse_db_dump
from nixery.image.manifests import ImageLayer, digest_of
from nixery.image.names import Digest
from nixery.image.packages import Evaluation, Output, Package
from nixery.inspection.catalog import REPORTS
from nixery.inspection.report import ImageReport, make_report
from nixery.inspection.report_file import encode_report
from nixery.layers.grouping import LayerSettings, Popularity, plan_layers
from nixery.storage.filesystem.records import Records
from tests.benchmarks.client import fetch, probing, request_for
from tests.benchmarks.measure import Figure, Options, percentile, run, timed
from tests.benchmarks.peers import Daemon, manifest_request, pinned_set
from tests.benchmarks.scale import generate_dump
from tests.end_to_end.package_sets import demo_set

__all__ = ["measure"]

NAME = "hello"
PAGE = f"/images/{NAME}:latest"
LOOKS = {"page": f"{PAGE}?why=package-10", "paths": f"{PAGE}/paths", "graph": f"{PAGE}/graph.json"}
AGAIN = 10
"""Requests for each of them once it has been drawn."""


def measure(options: Options) -> list[Figure]:
    report = _large_report(80 if options.quick else 5000)
    first: dict[str, list[float]] = {}
    again: dict[str, list[float]] = {}
    alone: list[float] = []
    meanwhile: list[float] = []
    packages = pinned_set(demo_set())
    for number in range(options.rounds):
        daemon = Daemon(packages, name=f"pages{number}").start()
        try:
            port = daemon.registry.port
            fetch(port, manifest_request(NAME, "latest"))
            _, shown = fetch(port, request_for(PAGE, headers={"Accept": "application/json"}))
            digest = json.loads(shown)["digest"]
            daemon.stop()
            directory = daemon.storage
            records = Records(str(directory / "records"), str(directory / "tmp"))
            records.set(REPORTS, digest, encode_report(evolve(report, digest=Digest(digest))))
            daemon.start()
            port = daemon.registry.port
            fetch(port, manifest_request(NAME, "latest"))
            with probing(port, "/v2/") as latencies:
                time.sleep(1)
            alone += latencies
            with probing(port, "/v2/") as latencies:
                for name, path in LOOKS.items():
                    look = partial(fetch, port, request_for(path, headers={"Accept": "text/html"}))
                    first.setdefault(name, []).append(timed(look))
                    for _ in range(AGAIN):
                        again.setdefault(name, []).append(timed(look))
            meanwhile += latencies
        finally:
            daemon.stop()
    return [
        *(
            Figure(name=f"{name}, {what}", value=1e3 * statistics.median(times[name]), unit="ms")
            for name in LOOKS
            for what, times in (("drawn first", first), ("again", again))
        ),
        Figure(name="/v2/ alone: 99th percentile", value=1e3 * percentile(alone, 0.99), unit="ms"),
        Figure(name="/v2/ meanwhile: median", value=1e3 * statistics.median(meanwhile), unit="ms"),
        Figure(
            name="/v2/ meanwhile: 99th percentile",
            value=1e3 * percentile(meanwhile, 0.99),
            unit="ms",
            at_most=50,
        ),
        Figure(name="/v2/ meanwhile: longest", value=1e3 * max(meanwhile), unit="ms"),
    ]


def _large_report(size: int) -> ImageReport:
    """The report of an image with as many paths, made as the daemon makes it."""
    graph = parse_db_dump(generate_dump(size))
    plan = plan_layers(graph, Popularity(), LayerSettings())
    return make_report(
        BuildRecord(
            digest=digest_of(b""),
            source="a generated closure",
            evaluation=Evaluation(
                packages=tuple(
                    Package(
                        requested=(path.name,),
                        attribute=path.name,
                        name=path.name,
                        pname=path.name,
                        version="",
                        description="",
                        priority=5,
                        derivation=f"{path}.drv",
                        outputs=(Output(name="out", path=path.path),),
                    )
                    for path in graph.roots()
                ),
                missing_optional=(),
                system="x86_64-linux",
            ),
            graph=graph,
            plan=plan,
            layers=[
                ImageLayer(
                    digest=digest_of(f"layer {index}".encode()),
                    size=group.nar_size // 3,
                    diff_id=digest_of(f"archive {index}".encode()),
                    uncompressed_size=group.nar_size,
                )
                for index, group in enumerate(plan)
            ],
            popularity=Popularity(),
        )
    )


if __name__ == "__main__":
    run({"pages": measure}, "tests.benchmarks.pages", sys.argv[1:])
