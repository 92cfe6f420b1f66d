"""The layout of a closure, and its pictures."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.closure import parse_db_dump
from nixery.inspection.closure_layout import SWEEPS, layout_closure
from nixery.inspection.closure_picture import closure_data, closure_svg
from nixery.inspection.reference_chains import shortest_predecessors
from nixery.inspection.report import ImageReport, make_report
from tests.benchmarks.scale import generate_dump
from tests.support.inspection import made_of, report_of, reports


class LayoutTests(SynchronousTestCase):
    @given(reports)
    @settings(max_examples=50)
    def test_all_are_placed(self, report: ImageReport) -> None:
        """Every path has a place within the picture, and no two have the same."""
        layout = layout_closure(report)
        places = list(zip(layout.x, layout.y, strict=True))
        self.assertEqual(len(report.paths), len(set(places)))
        for (x, y), radius in zip(places, layout.radius, strict=True):
            self.assertTrue(radius <= x <= layout.width - radius, (x, layout.width))
            self.assertTrue(radius <= y <= layout.height - radius, (y, layout.height))

    @given(reports)
    @settings(max_examples=50)
    def test_every_path_lies_below_all_that_refer_to_it(self, report: ImageReport) -> None:
        """Every path lies below all that refer to it."""
        layout = layout_closure(report)
        for number, path in enumerate(report.paths):
            for reference in path.references:
                self.assertLess(layout.depth[number], layout.depth[reference])
                self.assertLess(layout.y[number], layout.y[reference])

    @given(reports)
    @settings(max_examples=20)
    def test_same_closure_has_the_same_picture(self, report: ImageReport) -> None:
        """The same closure has the same picture."""
        self.assertEqual(layout_closure(report), layout_closure(report))

    def test_related_paths_lie_below_each_other(self) -> None:
        """Paths that refer to each other lie below each other, without crossing lines."""
        layout = layout_closure(
            report_of({"a": 1, "b": 1, "y": 1, "z": 1}, {"a": ["z"], "b": ["y"]})
        )
        a, b, y, z = layout.x
        self.assertEqual(a < b, z < y)

    def test_large_paths_have_large_circles(self) -> None:
        """Large paths have large circles; no circle is too small to be pointed at."""
        layout = layout_closure(report_of({"a": 0, "b": 25_000, "c": 100_000}, {}))
        self.assertEqual([3.0, 13.0, 26.0], list(layout.radius))

    def test_nothing_has_an_empty_picture(self) -> None:
        """Nothing has an empty picture."""
        self.assertEqual((), layout_closure(report_of({}, {})).x)

    def test_work_for_5000_paths_grows_with_paths_and_references(self) -> None:
        """The work for 5,000 paths grows with paths and references, and with no more."""
        report = make_report(made_of(parse_db_dump(generate_dump(5000)), budget=94))
        layout = layout_closure(report)
        edges = sum(len(path.references) for path in report.paths)
        self.assertEqual((2 * SWEEPS + 1) * (5000 + edges), layout.visited)
        self.assertEqual(5000, len(set(zip(layout.x, layout.y, strict=True))))
        # A picture for a screen: neither a line nor a column.
        self.assertTrue(0.4 < layout.width / layout.height < 4, (layout.width, layout.height))


class PictureTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.report = report_of(
            {"git-2.40": 40, "curl": 3, "glibc": 30}, {"git-2.40": ["curl"], "curl": ["glibc"]}
        )
        self.layout = layout_closure(self.report)
        self.predecessors = shortest_predecessors(self.report)

    def test_data_tell_the_same_of_each_path_in_columns_of_one_length(self) -> None:
        """The data tell the same of each path, in columns of one length."""
        value = json.loads(closure_data(self.report, self.layout, self.predecessors))
        for column in ("path", "size", "closure", "references", "way", "layer", "depth", "x"):
            self.assertEqual(3, len(value[column]), column)
        self.assertEqual([[2], [0], []], value["references"])
        self.assertEqual([1, -1, 0], value["way"])
        self.assertEqual([1], value["requested"])

    def test_picture_is_well_formed_escapes_its_title(self) -> None:
        """The picture is well-formed, escapes its title, and shows every path and chain."""
        root = ElementTree.fromstring(
            closure_svg("</title><script>&", self.report, self.layout, self.predecessors)
        )
        name = "{http://www.w3.org/2000/svg}"
        self.assertEqual("</title><script>&", root.findtext(f"{name}title"))
        self.assertEqual(3, len(root.findall(f"{name}circle")))
        [lines] = root.findall(f"{name}path")
        self.assertEqual(2, lines.get("d", "").count("M"))
        self.assertEqual([], [each.tag for each in root.iter() if "script" in each.tag])
        self.assertEqual([], [each for each in root.iter() if each.get("style")])
