"""
Prepare the data of an image's pages, as plain values for their templates.

Everything here runs on a thread of the CPU pool, and is bounded: an image has at most 127
layers, for each of which some paths are listed; the others are on separate pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from attrs import asdict, frozen
from markupsafe import Markup

from nixery.http.ui.formatting import escape_invisible
from nixery.http.ui.layer_list import LayerQuery, select_layers
from nixery.image.image_index import ImageIndex, platform_label
from nixery.image.names import Digest, ImageName, Tag
from nixery.inspection.container_settings import ContainerSettings
from nixery.inspection.image_list import ImageEntry
from nixery.inspection.page_data import PageData
from nixery.inspection.reference_chains import chain_to, find_chains, find_paths
from nixery.inspection.report import ImageReport, ReportedLayer
from nixery.inspection.retained_sizes import RetainedPath
from nixery.layers.svg import DrawnLayer, draw_svg

__all__ = [
    "SORTS",
    "ImageView",
    "PathQuery",
    "image_data",
    "image_view",
    "index_data",
    "paths_view",
    "place",
    "related_images",
]

PATHS_IN_LAYER = 8
"""The number of paths that are listed with a layer."""

LABELS = 5
"""The number of images that are listed as sharing a layer."""

RELATED_IMAGES = 20
"""The number of images that are suggested for a comparison."""

PATHS_AT_ONCE = 100
"""The number of paths on a page of the list."""

MAX_SEARCH_CHARACTERS = 200

SORTS = ("size", "closure", "popularity", "name")
"""The orders in which paths can be listed."""


@frozen(kw_only=True)
class PathView:
    """A store path, with the chain of references that leads to it, if requested."""

    number: int
    path: str
    name: str
    version: str
    size: int
    closure: int
    popularity: int
    references: int
    referrers: int
    asked: bool
    layer: int
    layer_title: str
    reason: str
    chain: tuple[str, ...] = ()


@frozen(kw_only=True)
class LayerView:
    """A layer of an image; ``number`` counts from 1 at the bottom."""

    number: int
    title: str
    digest: Digest
    diff_id: Digest
    size: int
    unpacked: int
    reason: str
    paths: tuple[PathView, ...]
    count: int
    shared: tuple[str, ...]
    shared_count: int


@frozen(kw_only=True)
class ImageView:
    """
    The data of the page of an image.

    :param listed: the layers that are listed, in this order.
    :param picture: its layers as SVG, for a wide screen and for a narrow one.
    :param tree: its paths by retained sizes; ``None`` if they are not known.
    :param question: the text that was searched for.
    :param answers: the chain to each path that was found.
    :param found: the number of paths that were found in all.
    :param licenses: the declared licences, and the number of store paths of each, the most
        frequent first.
    :param unlicensed: the number of store paths without a declared licence; ``None`` if
        licences were not written down.
    :param documents: the names of the documents about the image, below its page.
    :param shared_size: the bytes in layers that other images have as well.
    :param related: other images to compare it with.
    """

    report: ImageReport
    known: bool
    layers: tuple[LayerView, ...]
    layer_query: LayerQuery
    listed: tuple[LayerView, ...]
    container: ContainerSettings | None
    picture: Markup
    licenses: tuple[tuple[str, int], ...]
    unlicensed: int | None
    documents: tuple[str, ...]
    shared_size: int
    related: tuple[str, ...]
    tree: RetainedPath | None
    question: str
    answers: tuple[tuple[PathView, ...], ...]
    found: int


def image_view(
    label: str,
    page_data: PageData,
    holders: Mapping[Digest, Sequence[ImageEntry]],
    question: str,
    documents: Sequence[str] = (),
    layer_query: LayerQuery | None = None,
) -> ImageView:
    """
    Prepare the data of the page of an image.

    :param label: its name and tag.
    :param holders: the images that have each layer, as far as the client may see them.
    :param question: a part of the name of a path; empty: no search.
    :param documents: the names of the documents about the image.
    :param layer_query: selects the layers that are listed; ``None``: all.
    """
    report = page_data.report
    layers = tuple(
        _layer(page_data, index, layer, holders.get(layer.digest, ()))
        for index, layer in enumerate(report.layers)
    )
    drawn = [
        DrawnLayer(
            title=layer.title,
            size=layer.size,
            nar_size=layer.unpacked,
            reason=layer.reason,
            paths=tuple(path.name for path in layer.paths)
            + ("…",) * (layer.count - len(layer.paths)),
            shared_with=layer.shared,
        )
        for layer in layers
    ]
    layer_query = layer_query or LayerQuery()
    question = question.strip()[:MAX_SEARCH_CHARACTERS]
    finding = find_chains(report, page_data.predecessors, question)
    return ImageView(
        report=report,
        known=page_data.has_report,
        layers=layers,
        layer_query=layer_query,
        listed=tuple(
            layers[index]
            for index in select_layers(
                report, [layer.shared_count for layer in layers], layer_query
            )
        ),
        container=page_data.container,
        # draw_svg() escapes all text.
        picture=Markup(  # noqa: S704
            "".join(
                draw_svg(label, drawn, anchor="layer-", styled=False, narrow=narrow)
                for narrow in (False, True)
            )
        ),
        licenses=_licenses(report),
        unlicensed=report.unlicensed,
        documents=tuple(documents),
        shared_size=sum(layer.size for layer in layers if layer.shared_count),
        related=related_images(label, report, holders),
        tree=page_data.tree,
        question=question,
        answers=tuple(
            tuple(_path(page_data, number) for number in chain) for chain in finding.chains
        ),
        found=finding.total,
    )


def related_images(
    label: str, report: ImageReport, holders: Mapping[Digest, Sequence[ImageEntry]]
) -> tuple[str, ...]:
    """
    Return the images to compare an image with, as names with tags: other tags of its name first,
    then those that share the most bytes with it.

    :param label: its name and tag.
    :param holders: the images that have each layer, as far as the client may see them.
    """
    shared: Counter[str] = Counter()
    for layer in report.layers:
        for image in holders.get(layer.digest, ()):
            # An index has another digest than its images.
            if image.digest != report.digest and image.label != label:
                shared[image.label] += layer.size
    name = label.rpartition(":")[0] + ":"
    found = sorted(shared, key=lambda each: (not each.startswith(name), -shared[each], each))
    return tuple(found[:RELATED_IMAGES])


def place(label: str) -> str:
    """Return the path of the page of an image, of its name and tag."""
    return "/images/" + quote(label, safe="/:")


@frozen(kw_only=True)
class PathQuery:
    """
    A selection of an image's paths, for the list.

    :param text: a part of their names; empty: any.
    :param layer: the number of their layer, from 1; 0: any.
    :param sort: one of :data:`SORTS`.
    :param page: from 1.
    """

    text: str = ""
    layer: int = 0
    sort: str = "size"
    page: int = 1


@frozen(kw_only=True)
class PathsView:
    """A page of a list of paths: ``total`` of them on ``pages`` pages."""

    query: PathQuery
    paths: tuple[PathView, ...]
    total: int
    pages: int


def paths_view(page_data: PageData, query: PathQuery) -> PathsView:
    """Prepare a page of the list of an image's paths."""
    report = page_data.report
    found = [
        number
        for number in find_paths(report, query.text[:MAX_SEARCH_CHARACTERS])
        if not query.layer or page_data.layer_numbers[number] == query.layer - 1
    ]
    if query.sort != "name":
        found.sort(key=lambda number: (-getattr(report.paths[number], query.sort), number))
    start = (query.page - 1) * PATHS_AT_ONCE
    return PathsView(
        query=query,
        paths=tuple(
            _path(page_data, number, chain=True) for number in found[start : start + PATHS_AT_ONCE]
        ),
        total=len(found),
        pages=max(1, -(-len(found) // PATHS_AT_ONCE)),
    )


def image_data(repository: str, tag: str, view: ImageView) -> dict[str, object]:
    """Return the data of the page of an image as JSON, for programs."""
    report = view.report
    return {
        "name": repository,
        "tag": tag,
        "digest": report.digest,
        "system": report.system,
        "source": report.source,
        "size": report.size,
        "unpacked": report.uncompressed_size or None,
        "packages": [
            {"attribute": each.attribute, "name": each.name, "version": each.version}
            for each in report.packages
        ],
        "paths": len(report.paths) + report.omitted_paths,
        "programs": report.programs,
        "container": None if view.container is None else asdict(view.container),
        "notes": report.notes,
        "licenses": None if view.unlicensed is None else dict(view.licenses),
        "paths_without_license": view.unlicensed,
        "documents": view.documents,
        "layers": [
            {
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "size": layer.size,
                "unpacked": layer.unpacked or None,
                "title": layer.title,
                "reason": layer.reason,
                "paths": layer.count,
                "shared_with": layer.shared,
            }
            for layer in view.layers
        ],
        "why": [[path.path for path in chain] for chain in view.answers],
    }


def index_data(name: ImageName, tag: Tag, index: ImageIndex) -> dict[str, object]:
    """Return an index as the page of one of its images shows it: its platforms, by their labels."""
    return {
        "digest": index.manifests[0].digest,
        "platforms": {
            platform_label(system): {
                "image": f"{name.for_system(system).repository}:{tag}",
                "digest": image.manifests[0].digest,
            }
            for system, image in index.images.items()
        },
        "skipped": {
            platform_label(system): escape_invisible(reason)
            for system, reason in index.skipped.items()
        },
    }


def _licenses(report: ImageReport) -> tuple[tuple[str, int], ...]:
    counts = [
        (escape_invisible(text), count) for text, count in (report.license_counts or {}).items()
    ]
    return tuple(sorted(counts, key=lambda each: (-each[1], each[0])))


def _layer(
    page_data: PageData, index: int, layer: ReportedLayer, holders: Sequence[ImageEntry]
) -> LayerView:
    paths = page_data.report.paths
    # The main path of the layer comes first, then the others, the largest first.
    leader, others = layer.paths[:1], layer.paths[1:]
    named = (*leader, *sorted(others, key=lambda number: (-paths[number].size, number)))
    return LayerView(
        number=index + 1,
        title=escape_invisible(layer.title),
        digest=layer.digest,
        diff_id=layer.diff_id,
        size=layer.size,
        unpacked=layer.uncompressed_size,
        reason=escape_invisible(layer.reason),
        paths=tuple(_path(page_data, number) for number in named[:PATHS_IN_LAYER]),
        count=len(layer.paths),
        shared=tuple(image.label for image in holders[:LABELS]),
        shared_count=len(holders),
    )


def _path(page_data: PageData, number: int, *, chain: bool = False) -> PathView:
    report = page_data.report
    path, layer = report.paths[number], page_data.layer_numbers[number]
    return PathView(
        number=number,
        path=path.path,
        name=path.name,
        version=path.version,
        size=path.size,
        closure=path.closure,
        popularity=path.popularity,
        references=len(path.references),
        referrers=len(page_data.referrers[number]),
        asked=page_data.predecessors[number] < 0,
        layer=layer + 1,
        layer_title=report.layers[layer].title if layer >= 0 else "",
        reason=report.layers[layer].reason if layer >= 0 else "",
        chain=tuple(report.paths[each].name for each in chain_to(number, page_data.predecessors))
        if chain
        else (),
    )
