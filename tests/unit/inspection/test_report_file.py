"""Reports of images as they are stored."""

from __future__ import annotations

import json
import zlib

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.declarations import License
from nixery.inspection.report import (
    MAX_NOTES,
    MAX_PROGRAMS,
    ImageReport,
    ReportedLicense,
    make_report,
)
from nixery.inspection.report_file import VERSION, decode_report, encode_report
from tests.support.inspection import made_of, reports
from tests.support.strategies import graph_of


class StoringTests(SynchronousTestCase):
    @given(reports)
    @settings(max_examples=50)
    def test_written_report_is_read_as_it_was(self, report: ImageReport) -> None:
        """A report that is written is read again as it was, whatever texts are in it."""
        self.assertEqual(report, decode_report(encode_report(report)))

    @given(reports)
    @settings(max_examples=20)
    def test_report_that_would_be_too_large_is_stored_without_its_graph(
        self, report: ImageReport
    ) -> None:
        """A report that would be too large is stored without its graph, and says so."""
        read = decode_report(encode_report(report, limit=0))
        self.assertEqual((), read.paths)
        self.assertEqual(len(report.paths), read.omitted_paths)
        self.assertEqual(
            [layer.digest for layer in report.layers], [layer.digest for layer in read.layers]
        )
        self.assertEqual((), read.requested)

    @given(st.binary(max_size=60))
    def test_data_that_are_no_report_are_refused_with_valueerror(self, data: bytes) -> None:
        """Data that are no report are refused with ``ValueError``, and with nothing else."""
        for candidate in (data, zlib.compress(data), zlib.compress(b'{"version":1}' + data)):
            with self.assertRaises(ValueError):
                decode_report(candidate)

    def test_numbers_of_no_path_circles_and_other_versions_are_refused(self) -> None:
        """Numbers of no path, circles and other versions are refused."""
        good = json.loads(
            zlib.decompress(
                encode_report(make_report(made_of(graph_of({"a": 1, "b": 2}, {"b": ["a"]}))))
            )
        )
        decode_report(zlib.compress(json.dumps(good).encode()))
        path = good["paths"]
        for wrong in (
            {"version": VERSION + 1},
            {"paths": [path[0], [*path[1][:4], [7]]]},
            {"paths": [path[0], [*path[1][:4], [1]]]},
            {"paths": [[*path[0][:4], [1]], path[1]]},
            {"paths": [path[0], [*path[1][:4], [True]]]},
            {"paths": [["/etc/passwd", *path[0][1:]], path[1]]},
            {"layers": [{**good["layers"][0], "paths": [9]}]},
            {"layers": [{**good["layers"][0], "digest": "md5:1"}]},
            {"digest": "<script>"},
            {"licenses": [["MIT", [9]]]},
            {"licenses": [["MIT"]]},
        ):
            with self.assertRaises(ValueError, msg=wrong):
                decode_report(zlib.compress(json.dumps({**good, **wrong}).encode()))

    def test_report_of_before_there_were_notes_is_read(self) -> None:
        """A report of before there were notes is read."""
        report = make_report(made_of(graph_of({"a": 1}, {}), notes=("one", "two")))
        self.assertEqual(("one", "two"), report.notes)
        old = json.loads(zlib.decompress(encode_report(report)))
        del old["notes"], old["more_notes"]
        self.assertEqual(
            evolve(report, notes=()), decode_report(zlib.compress(json.dumps(old).encode()))
        )

    def test_report_of_before_there_were_licences_is_read(self) -> None:
        """A report of before there were licences is read, and says that it has none."""
        record = made_of(graph_of({"a": 1, "b": 1}, {}))
        mit = (License(text="MIT OR ISC", is_spdx=True), License(text="Ours", is_spdx=False))
        first, second = record.evaluation.packages
        packages = (evolve(first, licenses=mit), second)
        evaluation = evolve(record.evaluation, packages=packages)
        report = make_report(evolve(record, evaluation=evaluation))
        licenses = (ReportedLicense(text="(MIT OR ISC) AND Ours", paths=(0,)),)
        self.assertEqual(licenses, report.licenses)
        self.assertEqual(report, decode_report(encode_report(report)))
        old = json.loads(zlib.decompress(encode_report(report)))
        del old["licenses"]
        self.assertEqual(
            evolve(report, licenses=None), decode_report(zlib.compress(json.dumps(old).encode()))
        )

    def test_report_of_before_there_were_programs_is_read(self) -> None:
        """A report of before programs were written down says so; a new one has some of them."""
        names = tuple(f"program{number:04}" for number in range(MAX_PROGRAMS + 3))
        report = make_report(evolve(made_of(graph_of({"a": 1}, {})), programs=names))
        self.assertEqual((names[:MAX_PROGRAMS], 3), (report.programs, report.omitted_programs))
        self.assertEqual(report, decode_report(encode_report(report)))
        old = json.loads(zlib.decompress(encode_report(report)))
        del old["programs"], old["more_programs"]
        self.assertIsNone(decode_report(zlib.compress(json.dumps(old).encode())).programs)

    def test_number_of_notes_is_limited(self) -> None:
        """A report keeps some hundred notes, and the number of the others."""
        notes = [f"note {number}" for number in range(MAX_NOTES + 7)]
        report = make_report(made_of(graph_of({"a": 1}, {}), notes=notes))
        self.assertEqual(tuple(notes[:MAX_NOTES]), report.notes)
        self.assertEqual(7, decode_report(encode_report(report)).omitted_notes)

    def test_compressed_data_that_expand_beyond_the_limit_are_not_expanded(self) -> None:
        """Compressed data that expand beyond the limit are not expanded."""
        with self.assertRaises(ValueError):
            decode_report(zlib.compress(b" " * (80 * 2**20), 1))
