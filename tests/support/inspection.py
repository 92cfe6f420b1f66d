"""Reports of images for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from nixery.builds.build_record import BuildRecord
from nixery.image.closure import RuntimeGraph
from nixery.image.manifests import ImageLayer
from nixery.image.names import Digest
from nixery.image.packages import Evaluation, Output, Package
from nixery.inspection.report import ImageReport, make_report
from nixery.layers.grouping import plan_layers
from nixery.layers.plan import LayerSettings, Popularity
from tests.support.strategies import graph_of, graphs

__all__ = ["digest", "made_of", "report_of", "reports"]


def digest(text: str) -> Digest:
    return Digest("sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


def package_of(path: str, *, attribute: str = "", description: str = "") -> Package:
    name = path[44:]
    return Package(
        requested=(name,),
        attribute=attribute or name,
        name=name,
        pname=name,
        version="1.0",
        description=description,
        priority=5,
        derivation=f"{path}.drv",
        outputs=(Output(name="out", path=path),),
    )


def made_of(
    graph: RuntimeGraph,
    *,
    description: str = "",
    popularity: Popularity | None = None,
    source: str = "main at 3f786850e387",
    budget: int = 6,
    notes: Sequence[str] = (),
) -> BuildRecord:
    """An image in which what nothing refers to was asked for."""
    plan = plan_layers(graph, popularity or Popularity(), LayerSettings(budget=budget))
    layers = [
        ImageLayer(
            digest=digest(f"layer {[path.path for path in group.paths]}"),
            size=10 + group.nar_size // 3,
            diff_id=digest(f"archive {index}"),
            uncompressed_size=group.nar_size + 512,
        )
        for index, group in enumerate(plan)
    ]
    root = ImageLayer(
        digest=digest("root"), size=100, diff_id=digest("root archive"), uncompressed_size=200
    )
    return BuildRecord(
        digest=digest("manifest"),
        source=source,
        evaluation=Evaluation(
            packages=tuple(
                package_of(path.path, description=description) for path in graph.roots()
            ),
            missing_optional=(),
            system="x86_64-linux",
        ),
        graph=graph,
        plan=plan,
        layers=[*layers, root],
        popularity=popularity or Popularity(),
        notes=notes,
    )


def report_of(sizes: Mapping[str, int], references: Mapping[str, Sequence[str]]) -> ImageReport:
    """The report of an image of paths that are called by their names."""
    return make_report(made_of(graph_of(sizes, references)))


reports = st.builds(
    lambda graph, text: make_report(made_of(graph, description=text, notes=[text])),
    graphs(min_size=1),
    st.text(),
)
"""Reports of small images."""
