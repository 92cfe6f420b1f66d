"""
Computes all that the pages show of one image, once, for a cache.

This takes up to some seconds of processor time for the largest closures: it is done on a thread of
the CPU pool, and the results can be sent as they are.
"""

from __future__ import annotations

import hashlib
import zlib

from attrs import field, frozen

from nixery.inspection.closure_layout import layout_closure
from nixery.inspection.closure_picture import closure_data, closure_svg, layers_of_paths
from nixery.inspection.container_settings import ContainerSettings
from nixery.inspection.reference_chains import shortest_predecessors
from nixery.inspection.report import ImageReport
from nixery.inspection.report_file import decode_report
from nixery.inspection.retained_sizes import RetainedPath, find_dominators, retained_tree

__all__ = ["PageData", "make_page_data", "summary_page_data"]

_GZIP_WBITS = 31
"""zlib's ``wbits`` for a window of 32 KiB in gzip format."""


@frozen(kw_only=True, eq=False)
class PageData:
    """
    The data of one image for the pages.

    :param has_report: true if the image has a report; otherwise there are only layers.
    :param predecessors: as :func:`nixery.inspection.reference_chains.shortest_predecessors`
        returns them.
    :param layer_numbers: for each path the number of its layer, from 0; -1 for none.
    :param referrers: for each path the numbers of the paths that refer to it.
    :param tree: its paths by retained sizes; ``None`` if they are not known.
    :param graph: the closure as JSON, compressed by gzip.
    :param picture: the closure as SVG, compressed by gzip.
    :param container: what the image sets for its containers; ``None`` if its config is gone.
    :param etag: changes exactly when ``graph`` or ``picture`` changes.
    """

    report: ImageReport
    has_report: bool
    predecessors: tuple[int, ...] = ()
    layer_numbers: tuple[int, ...] = ()
    referrers: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    tree: RetainedPath | None = field(default=None, repr=False)
    graph: bytes = field(default=b"", repr=False)
    picture: bytes = field(default=b"", repr=False)
    container: ContainerSettings | None = None
    etag: str = ""

    @property
    def memory_size(self) -> int:
        """The approximate memory use, in bytes."""
        references = sum(len(path.references) for path in self.report.paths)
        return (
            20_000
            + 800 * len(self.report.paths)
            + 24 * references
            + len(self.graph)
            + len(self.picture)
        )


def make_page_data(data: bytes) -> PageData:
    """
    Make the page data of an image that has a report.

    :param data: the report, as it is stored.
    :raises ValueError: the data are not a report, or one of another version.
    """
    report = decode_report(data)
    if not report.paths:
        return PageData(report=report, has_report=True)
    predecessors = shortest_predecessors(report)
    layout = layout_closure(report)
    referrers: list[list[int]] = [[] for _ in report.paths]
    for number, path in enumerate(report.paths):
        for reference in path.references:
            referrers[reference].append(number)
    graph = closure_data(report, layout, predecessors)
    picture = closure_svg(
        f"The closure of an image: {len(report.paths)} store paths", report, layout, predecessors
    ).encode("utf-8")
    return PageData(
        report=report,
        has_report=True,
        predecessors=predecessors,
        layer_numbers=tuple(layers_of_paths(report)),
        referrers=tuple(map(tuple, referrers)),
        tree=retained_tree(report, find_dominators(report)),
        graph=_gzip(graph),
        picture=_gzip(picture),
        etag=hashlib.sha256(graph + picture).hexdigest()[:32],
    )


def summary_page_data(report: ImageReport) -> PageData:
    """Make the page data of an image of which only manifest and config are known."""
    return PageData(report=report, has_report=False)


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, _GZIP_WBITS)
    return packer.compress(data) + packer.flush()
