"""Reports: how an image was made, written down and read again."""

from __future__ import annotations

from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.closure import RuntimeGraph
from nixery.inspection.report import make_report
from nixery.layers.plan import Popularity
from tests.support.inspection import made_of
from tests.support.strategies import graph_of, graphs


class MakingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.graph = graph_of(
            {"git-2.40": 40, "curl-8.5-bin": 3, "glibc-2.38": 30},
            {"git-2.40": ["curl-8.5-bin", "glibc-2.38"], "curl-8.5-bin": ["glibc-2.38"]},
        )
        self.report = make_report(
            made_of(self.graph, popularity=Popularity(transitive={"glibc": 500}, source="counts"))
        )

    def test_each_path_has_its_size_that_of_its_closure(self) -> None:
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

    def test_paths_version_is_what_its_name_has_behind_the_packages(self) -> None:
        """A path's version is what its name has behind the package's."""
        self.assertEqual(
            {"curl-8.5-bin": "8.5-bin", "git-2.40": "2.40", "glibc-2.38": "2.38"},
            {path.name: path.version for path in self.report.paths},
        )

    def test_requested_paths_are_found_by_the_outputs_of_the_packages(self) -> None:
        """The requested paths are found by the outputs of the packages."""
        self.assertEqual(
            ["git-2.40"], [self.report.paths[number].name for number in self.report.requested]
        )

    def test_sizes_of_the_image_are_those_of_its_layers_the_root_among_them(self) -> None:
        """Sizes of the image are those of its layers, the root among them."""
        self.assertEqual(
            (sum(layer.size for layer in self.report.layers), 0),
            (self.report.size, len(self.report.layers[-1].paths)),
        )

    def test_without_popularity_data_no_path_has_a_popularity(self) -> None:
        """Without popularity data, no path has a popularity."""
        report = make_report(made_of(self.graph))
        self.assertEqual({0}, {path.popularity for path in report.paths})

    @given(graphs(min_size=1))
    @settings(max_examples=30)
    def test_every_path_in_one_layer(self, graph: RuntimeGraph) -> None:
        """Each path of the closure is in exactly one layer."""
        report = make_report(made_of(graph))
        numbers = [number for layer in report.layers for number in layer.paths]
        self.assertEqual(list(range(len(report.paths))), sorted(numbers))
