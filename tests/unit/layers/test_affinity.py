"""
Tests for ``nixery.layers.affinity``.

What holds for every strategy is tested in ``test_layers``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.closure import RuntimeGraph
from nixery.layers.grouping import LayerPlan, LayerSettings, Popularity, plan_layers
from tests.support.strategies import graph_of, graphs, popularities

KB = 1_000
MB = 1_000_000


def names_of(plan: LayerPlan) -> list[list[str]]:
    """The names in each layer."""
    return [[path.name for path in layer.paths] for layer in plan]


GIT_AND_HTOP = graph_of(
    {
        "git": 40 * MB,
        "htop": 400 * KB,
        "perl": 60 * MB,
        "curl": 600 * KB,
        "nghttp2": 200 * KB,
        "libssh2": 300 * KB,
        "openssl": 7 * MB,
        "ncurses": 3 * MB,
        "glibc": 30 * MB,
    },
    {
        "git": ["perl", "curl", "glibc"],
        "htop": ["ncurses", "glibc"],
        "perl": ["glibc"],
        "curl": ["nghttp2", "libssh2", "openssl", "glibc"],
        "nghttp2": ["glibc"],
        "libssh2": ["openssl", "glibc"],
        "openssl": ["glibc"],
        "ncurses": ["glibc"],
    },
)
"""The example in the documentation of the strategy."""

COUNTS = {
    "git": 60,
    "htop": 5,
    "perl": 8_000,
    "curl": 2_000,
    "nghttp2": 2_100,
    "libssh2": 2_050,
    "openssl": 9_000,
    "ncurses": 9_500,
    "glibc": 50_000,
}

SET = Popularity(transitive=COUNTS, setsize=100_000)

CURL = ["curl", "libssh2", "nghttp2"]

NONE_TOO_SMALL = LayerSettings(minimum_size=0)


def layers_of(
    sizes: Mapping[str, int],
    references: Mapping[str, Sequence[str]],
    counts: Mapping[str, int],
    chosen: LayerSettings = NONE_TOO_SMALL,
) -> list[list[str]]:
    """The layers, by names and in the order of the names."""
    popularity = Popularity(transitive=counts, setsize=100_000)
    return sorted(names_of(plan_layers(graph_of(sizes, references), popularity, chosen)))


class UnitsTests(SynchronousTestCase):
    """Tests of the units: the paths that share a layer."""

    def test_example_of_the_documentation_is_true(self) -> None:
        """The example of the documentation is true."""
        everything = sorted(COUNTS)
        expected = {
            94: [["glibc"], ["perl"], ["openssl"], ["ncurses"], ["git"], CURL, ["htop"]],
            4: [
                ["perl"],
                ["git"],
                ["curl", "glibc", "libssh2", "ncurses", "nghttp2", "openssl"],
                ["htop"],
            ],
            1: [everything],
        }
        for budget, layers in expected.items():
            plan = plan_layers(GIT_AND_HTOP, SET, LayerSettings(budget=budget))
            self.assertEqual(names_of(plan), layers)

    def test_path_joins_its_user_from_70_of_its_own_popularity_on(self) -> None:
        """A path joins its user from 70 % of its own popularity on."""
        sizes = {"user": MB, "library": MB}
        for count, together in ((70, True), (69, False)):
            layers = layers_of(sizes, {"user": ["library"]}, {"user": count, "library": 100})
            self.assertEqual(layers == [["library", "user"]], together)

    def test_share_of_common_users_is_a_setting(self) -> None:
        """The share is a setting."""
        sizes = {"user": MB, "library": MB}
        for affinity, together in ((50, True), (51, False)):
            layers = layers_of(
                sizes,
                {"user": ["library"]},
                {"user": 50, "library": 100},
                evolve(NONE_TOO_SMALL, affinity=affinity),
            )
            self.assertEqual(layers == [["library", "user"]], together)

    def test_large_path_begins_a_unit_the_larger_the_fewer_layers_there_are(self) -> None:
        """A large path begins a unit, the larger the fewer layers there are."""
        limit = 4 * 2**20
        for budget, size, together in (
            (94, limit - 1, True),
            (94, limit, False),
            (47, 2 * limit - 1, True),
            (47, 2 * limit, False),
        ):
            layers = layers_of(
                {"user": MB, "library": size},
                {"user": ["library"]},
                {"user": 100, "library": 100},
                evolve(NONE_TOO_SMALL, budget=budget),
            )
            self.assertEqual(layers == [["library", "user"]], together)

    def test_small_path_joins_a_large_one_that_needs_it(self) -> None:
        """A small path joins a large one that needs it."""
        layers = layers_of(
            {"user": 500 * MB, "library": MB}, {"user": ["library"]}, {"user": 9, "library": 9}
        )
        self.assertEqual(layers, [["library", "user"]])

    def test_most_popular_user(self) -> None:
        """A path follows the most popular of its users, whatever else needs it."""
        layers = layers_of(
            {"rare": MB, "common": MB, "library": MB},
            {"rare": ["library"], "common": ["library"]},
            {"rare": 80, "common": 90, "library": 100},
        )
        self.assertEqual(layers, [["common", "library"], ["rare"]])

    def test_path_of_two_equally_popular_users_joins_what_both_need(self) -> None:
        """Between equally popular users a path joins what both are there for, or none."""
        sizes = dict.fromkeys(["suite", "left", "right", "library"], MB)
        references = {"suite": ["left", "right"], "left": ["library"], "right": ["library"]}
        counts = {"suite": 90, "left": 90, "right": 90, "library": 100}
        self.assertEqual(
            layers_of(sizes, references, counts), [["left", "library", "right", "suite"]]
        )
        del sizes["suite"], references["suite"]
        self.assertEqual(layers_of(sizes, references, counts), [["left"], ["library"], ["right"]])

    def test_affinity_is_to_the_leader_not_step_by_step(self) -> None:
        """Affinity is to the leader, not step by step: 80 % of 80 % is too little."""
        layers = layers_of(
            {"a": MB, "b": MB, "c": MB, "d": MB},
            {"a": ["b"], "b": ["c"], "c": ["d"]},
            {"a": 64, "b": 80, "c": 100, "d": 125},
        )
        self.assertEqual(layers, [["a", "b"], ["c", "d"]])

    def test_dependency_counts_as_being_as_popular_as_its_user(self) -> None:
        """A dependency of a popular path counts as being as popular, if the data lack it."""
        layers = layers_of(
            {"new": MB, "old": MB, "other": MB},
            {"old": ["new"], "other": ["new"]},
            {"old": 1000, "other": 2},
        )
        self.assertEqual(layers, [["new", "old"], ["other"]])

    def test_other_contents_of_an_image_do_not_change_a_unit(self) -> None:
        """Other contents of an image do not change a unit."""
        graph = RuntimeGraph(
            paths={
                **GIT_AND_HTOP.paths,
                **graph_of(
                    {"curlftpfs": 300 * KB, "curl": 1, "glibc": 1}, {"curlftpfs": ["curl", "glibc"]}
                ).paths,
                **GIT_AND_HTOP.paths,
            }
        )
        before = plan_layers(GIT_AND_HTOP, SET, LayerSettings())
        after = plan_layers(graph, SET, LayerSettings())
        self.assertEqual(
            [layer for layer in after if layer.leader.name != "curlftpfs"], list(before)
        )
        self.assertEqual(len(after), len(before) + 1)

    def test_without_data_no_path_joins_another(self) -> None:
        """Without data no path joins another."""
        plan = plan_layers(GIT_AND_HTOP, Popularity(), LayerSettings())
        self.assertEqual(sorted(names_of(plan)), [[name] for name in sorted(COUNTS)])

    def test_with_direct_counts_alone_only_smaller_paths_join_a_unit(self) -> None:
        """With direct counts alone only smaller paths join a unit."""
        for size, together in ((2**20 - 1, True), (2**20, False)):
            graph = graph_of({"user": MB, "library": size}, {"user": ["library"]})
            popularity = Popularity(direct={"user": 9, "library": 9})
            plan = plan_layers(graph, popularity, LayerSettings())
            self.assertEqual(len(plan) == 1, together)


class SlotsTests(SynchronousTestCase):
    """Tests of the choice of the units that get layers of their own."""

    def test_units_too_small_for_a_layer_share_one(self) -> None:
        """Units too small for a layer of their own share one with units as popular."""
        sizes = {f"{kind}{number}": KB for kind in ("a", "b") for number in range(3)} | {"big": MB}
        counts = {f"a{number}": 40_000 + number for number in range(3)} | {"b0": 2}
        self.assertEqual(
            layers_of(sizes, {}, counts, LayerSettings()),
            [["a0", "a1", "a2"], ["b0", "b1", "b2"], ["big"]],
        )

    def test_minimum_size_is_that_of_a_unit(self) -> None:
        """The minimum size is that of a unit."""
        for size, alone in ((128 * 2**10, True), (128 * 2**10 - 1, False)):
            layers = layers_of({"p": size, "q": MB, "r": KB}, {}, {}, LayerSettings())
            self.assertEqual(["p"] in layers, alone)

    def test_largest_units_get_the_layers_if_these_are_scarce(self) -> None:
        """The largest units get the layers if these are scarce."""
        sizes = {f"p{number:02}": (100 - number) * MB for number in range(30)}
        layers = layers_of(sizes, {}, {}, LayerSettings(budget=20))
        alone = [layer for layer in layers if len(layer) == 1]
        self.assertEqual(alone, [[f"p{number:02}"] for number in range(15)])
        self.assertEqual(len(layers), 16)

    def test_small_units_are_parted_by_popularity_at_the_roots_of_the_sets_size(self) -> None:
        """Small units are parted by popularity, at the roots of the set's size."""
        counts = {"p9": 9, "p10": 10, "p99": 99, "p100": 100, "p999": 999, "p100000": 100_000}
        layers = layers_of(dict.fromkeys(counts, KB), {}, counts, LayerSettings())
        self.assertEqual(layers, [["p10", "p99"], ["p100", "p999"], ["p100000"], ["p9"]])

    def test_common_paths_never_share_a_layer(self) -> None:
        """Paths that every image contains never share a layer with anything else."""
        chosen = LayerSettings(common_packages=frozenset({"base"}))
        sizes = {"base": MB, "needed": KB, "small": KB, "large": 50 * MB}
        layers = layers_of(sizes, {"base": ["needed"]}, {"large": 2}, chosen)
        self.assertEqual(layers, [["base", "needed"], ["large"], ["small"]])

    def test_common_paths_get_their_share_of_the_budget(self) -> None:
        """Paths that every image contains get their share of the budget, the rest one layer."""
        names = [f"base{letter}" for letter in "abcdef"]
        sizes = {name: (10 - index) * MB for index, name in enumerate(names)}
        for share, count in ((10, 2), (15, 3), (30, 6), (100, 6)):
            chosen = LayerSettings(budget=20, common_packages=frozenset(names), common_share=share)
            layers = names_of(plan_layers(graph_of(sizes, {}), Popularity(), chosen))
            self.assertEqual(len(layers), count)

    @settings(max_examples=60)
    @given(graphs(), popularities, st.sampled_from([2, 3, 94]))
    def test_no_layer_mixes_common_paths_with_others(
        self, graph: RuntimeGraph, popularity: Popularity, budget: int
    ) -> None:
        """From two layers on, no layer has both what every image contains and other things."""
        chosen = LayerSettings(budget=budget)
        roots = [path for path in graph.paths if chosen.is_common(path)]
        common = set(graph.subgraph(roots).paths)
        for layer in plan_layers(graph, popularity, chosen):
            self.assertIn(len(common.intersection(layer.paths)), (0, len(layer.paths)))


class OrderTests(SynchronousTestCase):
    """Tests of the order of the layers."""

    def order(
        self,
        sizes: Mapping[str, int],
        references: Mapping[str, Sequence[str]],
        counts: Mapping[str, int],
    ) -> list[list[str]]:
        popularity = Popularity(transitive=counts, setsize=100_000)
        chosen = LayerSettings(common_packages=frozenset({"base"}))
        return names_of(plan_layers(graph_of(sizes, references), popularity, chosen))

    def test_layer_that_more_images_share_lies_lower(self) -> None:
        """A layer that more images share lies lower."""
        self.assertEqual(self.order({"a": MB, "b": MB}, {}, {"b": 10}), [["b"], ["a"]])

    def test_layer_that_costs_more_to_pull_again_lies_lower(self) -> None:
        """A layer that costs more to pull again lies lower."""
        self.assertEqual(self.order({"a": MB, "b": 5 * MB}, {}, {}), [["b"], ["a"]])

    def test_layer_that_needs_little_and_is_rebuilt_rarely_lies_lower(self) -> None:
        """A layer that needs little, and is rebuilt rarely, lies lower."""
        sizes = {"a": 5 * MB, "b": 5 * MB} | {f"n{number}": MB for number in range(8)}
        references = {"a": [f"n{number}" for number in range(8)]}
        self.assertLess(
            (order := self.order(sizes, references, {})).index(["b"]), order.index(["a"])
        )

    def test_layer_that_every_image_contains_counts_four_octaves_more(self) -> None:
        """A layer that every image contains counts four octaves more."""
        for count, order in ((8, [["base"], ["other"]]), (64, [["other"], ["base"]])):
            self.assertEqual(
                self.order({"base": MB, "other": MB}, {}, {"base": 1, "other": count}), order
            )

    def test_sizes_that_differ_a_little_do_not_matter(self) -> None:
        """Sizes that differ a little do not matter; names decide."""
        for size in (1_040_000, 1_050_000):
            self.assertEqual(self.order({"b": 1_045_000, "a": size}, {}, {}), [["a"], ["b"]])

    def test_shared_on_top(self) -> None:
        """Layers of small units are on top, the most popular of them lowest."""
        self.assertEqual(
            self.order({"p": KB, "q": KB, "z": MB}, {}, {"p": 1, "q": 90_000, "z": 1}),
            [["z"], ["q"], ["p"]],
        )


class ReasonsTests(SynchronousTestCase):
    """Tests of the reasons that are given to users."""

    def test_each_layer_says_why_it_is_one(self) -> None:
        """Each layer says why it is one."""
        graph = RuntimeGraph(
            paths={
                **GIT_AND_HTOP.paths,
                **graph_of(
                    {"cacert": 500 * KB, "iana-etc": 4 * KB, "tiny": KB, "which": 2 * KB}, {}
                ).paths,
            }
        )
        plan = plan_layers(graph, SET, LayerSettings())
        reasons = {layer.leader.name: layer.reason for layer in plan}
        self.assertEqual(
            {name: reasons[name] for name in ("cacert", "iana-etc", "perl", "curl", "which")},
            {
                "cacert": "in every image",
                "iana-etc": "small, and in every image",
                "perl": "large enough for a layer of its own",
                "curl": "curl with what few have without it",
                "which": "small, and of like popularity: class 1 of 5",
            },
        )
        [only] = plan_layers(graph, SET, LayerSettings(budget=1))
        self.assertEqual(only.reason, "all that there is: the budget is one layer")
