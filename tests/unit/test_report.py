"""Reports: how an image was made, written down and read again."""

from __future__ import annotations

import json
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.anatomy.report import (
    VERSION,
    ImageReport,
    decode_report,
    encode_report,
    make_report,
)
from nixery.graph import RuntimeGraph
from nixery.layering.layerplan import Popularity
from tests.strategies import graph_of, graphs
from tests.unit.anatomy_kit import made_of, reports


class MakingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.graph = graph_of(
            {"git-2.40": 40, "curl-8.5-bin": 3, "glibc-2.38": 30},
            {"git-2.40": ["curl-8.5-bin", "glibc-2.38"], "curl-8.5-bin": ["glibc-2.38"]},
        )
        self.report = make_report(
            made_of(self.graph, popularity=Popularity(transitive={"glibc": 500}, source="counts"))
        )

    def test_paths(self) -> None:
        """Each path has its size, that of its closure, its popularity and its references."""
        found = {
            path.name: (path.size, path.closure, path.popularity, path.references)
            for path in self.report.paths
        }
        self.assertEqual(
            {
                "curl-8.5-bin": (3, 33, 1, (2,)),
                "git-2.40": (40, 73, 1, (0, 2)),
                "glibc-2.38": (30, 30, 500, ()),
            },
            found,
        )

    def test_versions(self) -> None:
        """A path's version is what its name has behind the package's."""
        self.assertEqual(
            {"curl-8.5-bin": "8.5-bin", "git-2.40": "2.40", "glibc-2.38": "2.38"},
            {path.name: path.version for path in self.report.paths},
        )

    def test_requested(self) -> None:
        """What was asked for is known by the outputs of the packages."""
        self.assertEqual(
            ["git-2.40"], [self.report.paths[number].name for number in self.report.requested]
        )

    def test_sums(self) -> None:
        """Sizes of the image are those of its layers, the root among them."""
        self.assertEqual(
            (sum(layer.size for layer in self.report.layers), 0),
            (self.report.size, len(self.report.layers[-1].paths)),
        )

    def test_no_popularity(self) -> None:
        """Where nothing is known of popularity, no path has one."""
        report = make_report(made_of(self.graph))
        self.assertEqual({0}, {path.popularity for path in report.paths})

    @given(graphs(min_size=1))
    @settings(deadline=None, max_examples=30)
    def test_every_path_in_one_layer(self, graph: RuntimeGraph) -> None:
        """Each path of the closure is in exactly one layer."""
        report = make_report(made_of(graph))
        numbers = [number for layer in report.layers for number in layer.paths]
        self.assertEqual(list(range(len(report.paths))), sorted(numbers))


class StoringTests(SynchronousTestCase):
    @given(reports)
    @settings(deadline=None, max_examples=50)
    def test_round_trip(self, report: ImageReport) -> None:
        """What is written is read again as it was, whatever texts are in it."""
        self.assertEqual(report, decode_report(encode_report(report)))

    @given(reports)
    @settings(deadline=None, max_examples=20)
    def test_bounded(self, report: ImageReport) -> None:
        """A report that would be too large is stored without its graph, and says so."""
        read = decode_report(encode_report(report, limit=0))
        self.assertEqual((), read.paths)
        self.assertEqual(len(report.paths), read.left_out)
        self.assertEqual(
            [layer.digest for layer in report.layers], [layer.digest for layer in read.layers]
        )
        self.assertEqual((), read.requested)

    @given(st.binary(max_size=60))
    @settings(deadline=None)
    def test_rubbish(self, data: bytes) -> None:
        """What is no report is refused as such, and with nothing else."""
        for candidate in (data, zlib.compress(data), zlib.compress(b'{"version":1}' + data)):
            with self.assertRaises(ValueError):
                decode_report(candidate)

    def test_damaged(self) -> None:
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
        ):
            with self.assertRaises(ValueError, msg=wrong):
                decode_report(zlib.compress(json.dumps({**good, **wrong}).encode()))

    def test_bomb(self) -> None:
        """What expands beyond all measure is not expanded."""
        with self.assertRaises(ValueError):
            decode_report(zlib.compress(b" " * (80 * 2**20), 1))
