"""
All that the pages show of one image, made once and kept while it is looked at.

Making it takes up to some seconds of a processor for the largest closures: it is done on
a thread of the CPU pool, and what comes out is ready to be sent.
"""

from __future__ import annotations

import hashlib
import zlib

from attrs import field, frozen

from nixery.inspection.closure_layout import lay_out
from nixery.inspection.closure_picture import closure_data, closure_svg, layer_of_paths
from nixery.inspection.reference_chains import shortest_ways
from nixery.inspection.report import ImageReport
from nixery.inspection.report_file import decode_report

__all__ = ["PageData", "make_page_data", "summary_page_data"]

_GZIP = 31
"""zlib's word for a window of 32 KiB in gzip's wrapping."""


@frozen(kw_only=True, eq=False)
class PageData:
    """
    An image as the pages show it.

    :param known: whether there was a report of it; if not, there are layers only.
    :param ways: as :func:`nixery.inspection.reference_chains.shortest_ways` finds them.
    :param layer_of: for each path the number of its layer, from 0; -1 for none.
    :param referrers: for each path the numbers of those that refer to it.
    :param graph: the closure as JSON, compressed by gzip.
    :param picture: the closure as SVG, compressed by gzip.
    :param etag: changes with ``graph`` and ``picture``, and otherwise not.
    """

    report: ImageReport
    known: bool
    ways: tuple[int, ...] = ()
    layer_of: tuple[int, ...] = ()
    referrers: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    graph: bytes = field(default=b"", repr=False)
    picture: bytes = field(default=b"", repr=False)
    etag: str = ""

    @property
    def weight(self) -> int:
        """About how much memory it takes, in bytes."""
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
    The portrait of an image that there is a report of.

    :param data: the report, as it is stored.
    :raises ValueError: it is no report, or one of another version.
    """
    report = decode_report(data)
    if not report.paths:
        return PageData(report=report, known=True)
    ways = shortest_ways(report)
    layout = lay_out(report)
    referrers: list[list[int]] = [[] for _ in report.paths]
    for number, path in enumerate(report.paths):
        for reference in path.references:
            referrers[reference].append(number)
    graph = closure_data(report, layout, ways)
    picture = closure_svg(
        f"The closure of an image: {len(report.paths)} store paths", report, layout, ways
    ).encode("utf-8")
    return PageData(
        report=report,
        known=True,
        ways=ways,
        layer_of=tuple(layer_of_paths(report)),
        referrers=tuple(map(tuple, referrers)),
        graph=_packed(graph),
        picture=_packed(picture),
        etag=hashlib.sha256(graph + picture).hexdigest()[:32],
    )


def summary_page_data(report: ImageReport) -> PageData:
    """The portrait of an image of which only manifest and config are known."""
    return PageData(report=report, known=False)


def _packed(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    return packer.compress(data) + packer.flush()
