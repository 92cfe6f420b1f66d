"""
Tests for ``layers``, ``layerplan`` and ``dominators`` of :mod:`nixery.layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.closure import PathInfo, RuntimeGraph, StorePath
from nixery.layers.grouping import (
    LayerPlan,
    LayerSettings,
    Popularity,
    PopularityKind,
    Strategy,
    plan_layers,
)
from tests.support.strategies import BASE32, graph_of, graphs, popularities, store_path

MB = 1_000_000

budgets = st.one_of(st.integers(1, 6), st.just(94))

layer_settings = st.builds(
    LayerSettings,
    budget=budgets,
    strategy=st.sampled_from(Strategy),
    common_packages=st.sampled_from([frozenset(), frozenset({"cacert", "git"})]),
    affinity=st.integers(1, 100),
    unit_size=st.sampled_from([0, 1000, 4 * MB, 10**12]),
    minimum_size=st.sampled_from([0, 1000, 128_000]),
    classes=st.integers(1, 8),
    common_share=st.sampled_from([1, 10, 50, 100]),
    popularity_threshold=st.integers(1, 1000),
    size_threshold=st.sampled_from([1, 1000, 100 * MB]),
)


def names_of(plan: LayerPlan) -> list[list[str]]:
    """The names in each layer."""
    return [[path.name for path in layer.paths] for layer in plan]


def rehashed(
    graph: RuntimeGraph, random: Random
) -> tuple[RuntimeGraph, dict[StorePath, StorePath]]:
    """The same graph after a mass rebuild: all hashes are others, and their order too."""
    new = {
        path: store_path(path.name, "".join(random.choices(BASE32, k=32))) for path in graph.paths
    }
    infos = {
        new[path]: PathInfo(
            path=new[path],
            nar_hash="e" * 64,
            nar_size=info.nar_size,
            references=[new[reference] for reference in info.references],
        )
        for path, info in graph.paths.items()
    }
    return RuntimeGraph(paths=infos), new


GIT_AND_HTOP = graph_of(
    {
        "git": 40 * MB,
        "perl": 60 * MB,
        "curl": 3 * MB,
        "htop": 1 * MB,
        "ncurses": 3 * MB,
        "glibc": 30 * MB,
    },
    {
        "git": ["perl", "curl", "glibc"],
        "perl": ["glibc"],
        "curl": ["glibc"],
        "htop": ["ncurses", "glibc"],
        "ncurses": ["glibc"],
    },
)
"""The example in the documentation of the strategy."""

GLIBC_IS_POPULAR = Popularity(direct={"glibc": 50_000})


class AnyStrategyTests(SynchronousTestCase):
    """Tests that hold for every strategy, every graph and all settings."""

    @settings(max_examples=150)
    @given(graphs(), popularities, layer_settings)
    def test_every_path_is_in_exactly_one_layer_no_layer_is_empty_budget_is_kept(
        self, graph: RuntimeGraph, popularity: Popularity, chosen: LayerSettings
    ) -> None:
        """Every path is in exactly one layer, no layer is empty, the budget is kept."""
        plan = plan_layers(graph, popularity, chosen)
        members = [path for layer in plan for path in layer.paths]
        self.assertEqual(sorted(members), list(graph.paths))
        self.assertLessEqual(len(plan), chosen.budget)
        for layer in plan:
            self.assertIn(layer.leader, layer.paths)
            self.assertEqual(list(layer.paths), sorted(layer.paths))
            self.assertEqual(
                layer.nar_size, sum(graph.paths[path].nar_size for path in layer.paths)
            )
            self.assertEqual(layer.names[0], layer.leader.name)
            self.assertEqual(sorted(layer.names), sorted({path.name for path in layer.paths}))
            self.assertTrue(layer.reason)

    @settings(max_examples=60)
    @given(graphs(), popularities, layer_settings, st.randoms(use_true_random=False))
    def test_order_of_input(
        self, graph: RuntimeGraph, popularity: Popularity, chosen: LayerSettings, random: Random
    ) -> None:
        """The order in which paths, references and counts are given does not matter."""
        infos = list(graph.paths.values())
        random.shuffle(infos)
        shuffled = {}
        for info in infos:
            references = list(info.references)
            random.shuffle(references)
            shuffled[info.path] = evolve(info, references=references)
        counts = []
        for given_counts in (popularity.transitive, popularity.direct):
            items = list(given_counts.items())
            random.shuffle(items)
            counts.append(dict(items))
        reordered = evolve(popularity, transitive=counts[0], direct=counts[1])
        self.assertEqual(
            plan_layers(RuntimeGraph(paths=shuffled), reordered, chosen),
            plan_layers(graph, popularity, chosen),
        )

    @settings(max_examples=60)
    @given(
        graphs(unique_names=True), popularities, layer_settings, st.randoms(use_true_random=False)
    )
    def test_other_hashes_change_neither_the_grouping_nor_the_order(
        self, graph: RuntimeGraph, popularity: Popularity, chosen: LayerSettings, random: Random
    ) -> None:
        """Other hashes change neither the grouping nor the order."""
        other, new = rehashed(graph, random)
        before = plan_layers(graph, popularity, chosen)
        after = plan_layers(other, popularity, chosen)
        self.assertEqual(
            [
                evolve(
                    layer,
                    leader=new[layer.leader],
                    paths=tuple(new[path] for path in layer.paths),
                )
                for layer in before
            ],
            list(after),
        )

    @settings(max_examples=40)
    @given(graphs(), popularities, st.sampled_from(Strategy))
    def test_with_a_budget_of_1_everything_is_in_one_layer(
        self, graph: RuntimeGraph, popularity: Popularity, strategy: Strategy
    ) -> None:
        """With a budget of 1 everything is in one layer."""
        plan = plan_layers(graph, popularity, LayerSettings(budget=1, strategy=strategy))
        expected = [list(graph.paths)] if len(graph) else []
        self.assertEqual([list(layer.paths) for layer in plan], expected)

    def test_closure_without_paths_has_no_layers(self) -> None:
        """A closure without paths has no layers."""
        for strategy in Strategy:
            plan = plan_layers(
                RuntimeGraph(paths={}), Popularity(), LayerSettings(strategy=strategy)
            )
            self.assertEqual(len(plan), 0)

    def test_chain_of_thousands_of_references_exhausts_no_stack(self) -> None:
        """A chain of thousands of references exhausts no stack."""
        names = [f"p{number}" for number in range(3000)]
        graph = graph_of(
            dict.fromkeys(names, 10), {name: [after] for name, after in pairwise(names)}
        )
        for strategy in Strategy:
            plan = plan_layers(graph, Popularity(), LayerSettings(strategy=strategy))
            self.assertEqual(sum(len(layer.paths) for layer in plan), 3000)


class DominatorsTests(SynchronousTestCase):
    """Tests for the strategy by dominators."""

    def plan(
        self,
        graph: RuntimeGraph,
        popularity: Popularity = GLIBC_IS_POPULAR,
        budget: int = 94,
        size_threshold: int = 100 * MB,
    ) -> list[list[str]]:
        chosen = LayerSettings(
            budget=budget, strategy=Strategy.DOMINATORS, size_threshold=size_threshold
        )
        return names_of(plan_layers(graph, popularity, chosen))

    def test_example_of_the_documentation_is_true(self) -> None:
        """The example of the documentation is true."""
        every = ["curl", "git", "glibc", "htop", "ncurses", "perl"]
        expected = {
            94: [["glibc"], ["htop", "ncurses"], ["curl", "git", "perl"]],
            3: [["glibc"], ["htop", "ncurses"], ["curl", "git", "perl"]],
            2: [["glibc"], ["curl", "git", "htop", "ncurses", "perl"]],
            1: [every],
        }
        for budget, layers in expected.items():
            self.assertEqual(self.plan(GIT_AND_HTOP, budget=budget), layers)

    def test_popular_path_leaves_group_of_what_needs_it_from_threshold_on(self) -> None:
        """A popular path leaves the group of what needs it, from the threshold on."""
        for count, apart in ((99, False), (100, True)):
            popularity = Popularity(direct={"glibc": 50_000, "curl": count})
            self.assertEqual(["curl"] in self.plan(GIT_AND_HTOP, popularity), apart)

    def test_popularity_is_looked_up_without_version_and_output(self) -> None:
        """Popularity is looked up without version and output."""
        graph = graph_of({"git-2.47": 1, "curl-8.5.0-dev": 1}, {"git-2.47": ["curl-8.5.0-dev"]})
        self.assertEqual(
            self.plan(graph, Popularity(direct={"curl": 1000})), [["curl-8.5.0-dev"], ["git-2.47"]]
        )

    def test_path_with_a_large_closure_leaves_the_group_of_what_needs_it(self) -> None:
        """A path with a large closure leaves the group of what needs it."""
        for threshold, apart in ((90 * MB, True), (90 * MB + 1, False)):
            layers = self.plan(GIT_AND_HTOP, size_threshold=threshold)
            self.assertEqual(["perl"] in layers, apart)

    def test_paths_that_every_image_contains_are_at_bottom_with_data_or_without(self) -> None:
        """Paths that every image contains are at the bottom, with data or without."""
        graph = graph_of(
            {"git": 1, "glibc": 1, "nss-cacert-3.101": 1, "iana-etc-20240318": 1},
            {"git": ["nss-cacert-3.101", "glibc"]},
        )
        for popularity in (Popularity(), GLIBC_IS_POPULAR):
            self.assertEqual(
                self.plan(graph, popularity)[:2], [["iana-etc-20240318"], ["nss-cacert-3.101"]]
            )

    def test_order_without_data(self) -> None:
        """Without popularity what needs the least is at the bottom."""
        graph = graph_of(
            {"a": 1, "b": 1, "m": 1, "z": 1}, {"a": ["m"], "b": ["m", "z"], "m": ["z"]}
        )
        self.assertEqual(self.plan(graph, Popularity()), [["z"], ["m"], ["a"], ["b"]])

    @settings(max_examples=60)
    @given(graphs(), budgets)
    def test_without_data_a_leader_is_never_above_a_layer_whose_leader_needs_it(
        self, graph: RuntimeGraph, budget: int
    ) -> None:
        """Without data a leader is never above a layer whose leader needs it."""
        chosen = LayerSettings(budget=budget, strategy=Strategy.DOMINATORS)
        plan = plan_layers(graph, Popularity(), chosen)
        leaders = [
            layer.leader
            for layer in plan
            if not layer.reason.startswith("the rest") and not chosen.is_common(layer.leader)
        ]
        for index, leader in enumerate(leaders):
            needed = set(graph.subgraph([leader]).paths) - {leader}
            self.assertEqual(needed.intersection(leaders[index:]), set())

    def test_equal_names_of_different_sizes_are_told_apart_by_sizes_not_hashes(self) -> None:
        """Equal names of different sizes are told apart by the sizes, not the hashes."""
        for first, second in (("0" * 32, "1" * 32), ("1" * 32, "0" * 32)):
            small = store_path("twin", first)
            large = store_path("twin", second)
            graph = RuntimeGraph(
                paths={
                    path: PathInfo(path=path, nar_hash="0" * 64, nar_size=size, references=())
                    for path, size in ((small, 1), (large, 2))
                }
            )
            for strategy, order in (
                (Strategy.DOMINATORS, [small, large]),
                (Strategy.AFFINITY, [large, small]),
            ):
                chosen = LayerSettings(strategy=strategy, minimum_size=0)
                plan = plan_layers(graph, Popularity(), chosen)
                self.assertEqual([layer.leader for layer in plan], order)

    def test_package_more_adds_its_own_layers_and_leaves_the_others_as_they_are(self) -> None:
        """A package more adds its own layers and leaves the others as they are."""
        before = self.plan(GIT_AND_HTOP)
        graph = RuntimeGraph(
            paths={
                **GIT_AND_HTOP.paths,
                **evolve_paths("nano", 2 * MB, GIT_AND_HTOP, ["ncurses", "glibc"]),
            }
        )
        after = self.plan(graph)
        self.assertEqual(
            after, [["glibc"], ["ncurses"], ["htop"], ["nano"], ["curl", "git", "perl"]]
        )
        self.assertIn(before[0], after)
        self.assertIn(before[2], after)

    def test_each_layer_says_why_it_is_one(self) -> None:
        """Each layer says why it is one."""
        graph = graph_of(
            {"a": 1, "b": 1, "big": 200 * MB, "cacert": 1, "glibc": 1, "shared": 1},
            {"a": ["big", "shared", "glibc"], "b": ["shared"]},
        )
        chosen = LayerSettings(strategy=Strategy.DOMINATORS)
        plan = plan_layers(graph, GLIBC_IS_POPULAR, chosen)
        reasons = {layer.leader.name: layer.reason for layer in plan}
        self.assertEqual(
            reasons,
            {
                "a": "large: 200 MB with all that it needs",
                "b": "needed by nothing else in the image",
                "big": "large: 200 MB with all that it needs",
                "cacert": "in every image",
                "glibc": "popular: 50000 references",
                "shared": "needed by several layers",
            },
        )
        [_, rest] = plan_layers(graph, GLIBC_IS_POPULAR, evolve(chosen, budget=2))
        self.assertEqual(rest.reason, "the rest: 5 groups that would not fit into the budget")
        self.assertEqual(rest.leader.name, "cacert")


def evolve_paths(
    name: str, size: int, graph: RuntimeGraph, references: Sequence[str]
) -> dict[StorePath, PathInfo]:
    """A path that refers to paths of a graph."""
    path = store_path(name)
    return {
        path: PathInfo(
            path=path,
            nar_hash="0" * 64,
            nar_size=size,
            references=[other for other in graph.paths if other.name in references],
        )
    }


class LayerSettingsTests(SynchronousTestCase):
    """Tests for :class:`LayerSettings`."""

    def test_budget_below_1_is_refused(self) -> None:
        """A budget below 1 is refused."""
        for budget in (0, -1):
            error = self.assertRaises(ValueError, LayerSettings, budget=budget)
            self.assertIn(str(budget), str(error))

    def test_shares_outside_of_1_to_100_per_cent_and_the_like_are_refused(self) -> None:
        """Shares outside of 1 to 100 per cent and the like are refused."""
        for name, value in (
            ("affinity", 0),
            ("affinity", 101),
            ("common_share", 0),
            ("common_share", 101),
            ("classes", 0),
            ("unit_size", -1),
            ("minimum_size", -1),
        ):
            wrong: dict[str, Any] = {name: value}
            with self.assertRaises(ValueError, msg=name):
                LayerSettings(**wrong)

    def test_every_setting_that_changes_the_layers_changes_the_identity(self) -> None:
        """Every setting that changes the layers changes the identity, and nothing else does."""
        dominators = LayerSettings(strategy=Strategy.DOMINATORS)
        identities = [
            LayerSettings().identity(),
            LayerSettings(budget=93).identity(),
            LayerSettings(common_packages=frozenset()).identity(),
            LayerSettings(affinity=69).identity(),
            LayerSettings(unit_size=1).identity(),
            LayerSettings(minimum_size=1).identity(),
            LayerSettings(classes=4).identity(),
            LayerSettings(common_share=9).identity(),
            dominators.identity(),
            evolve(dominators, popularity_threshold=99).identity(),
            evolve(dominators, size_threshold=99).identity(),
        ]
        for index, identity in enumerate(identities):
            self.assertNotIn(identity, identities[:index])
        self.assertEqual(LayerSettings().identity(), identities[0])
        self.assertEqual(LayerSettings(popularity_threshold=99).identity(), identities[0])
        self.assertEqual(evolve(dominators, classes=4).identity(), dominators.identity())


class PopularityTests(SynchronousTestCase):
    """Tests for :class:`Popularity`."""

    def test_unknown_popularity_counts_as_1(self) -> None:
        """An unknown popularity counts as 1."""
        git = store_path("git-2.47")
        for popularity in (Popularity(), Popularity(transitive={"git": 0}, direct={"git": 0})):
            self.assertEqual(popularity.count_of(git), 1)
            self.assertEqual(popularity.direct_count_of(git), 1)

    def test_counts_are_looked_up_without_version_and_output(self) -> None:
        """Counts are looked up without version and output."""
        popularity = Popularity(transitive={"curl": 20}, direct={"curl": 10})
        for name in ("curl", "curl-8.5.0", "curl-8.5.0-dev"):
            self.assertEqual(popularity.count_of(store_path(name)), 20)
            self.assertEqual(popularity.direct_count_of(store_path(name)), 10)

    def test_transitive_counts_are_used_where_there_are_any_else_direct_ones(self) -> None:
        """Transitive counts are used where there are any, else direct ones."""
        git = store_path("git-2.47")
        both = Popularity(transitive={"git": 9}, direct={"git": 4})
        direct = Popularity(direct={"git": 4})
        self.assertEqual((both.kind, both.count_of(git)), (PopularityKind.TRANSITIVE, 9))
        self.assertEqual((direct.kind, direct.count_of(git)), (PopularityKind.DIRECT, 4))
        self.assertEqual(Popularity().kind, PopularityKind.NONE)

    def test_nothing_is_more_popular_than_what_every_image_contains(self) -> None:
        """Nothing is more popular than what every image contains."""
        self.assertEqual(Popularity(transitive={"glibc": 50_000}, setsize=60_000).max_count, 60_000)
        self.assertEqual(Popularity(transitive={"glibc": 50_000}, setsize=9).max_count, 50_000)
        self.assertEqual(Popularity(direct={"glibc": 50_000}).max_count, 50_001)
        self.assertEqual(Popularity().max_count, 2)

    def test_digest_depends_on_counts_in_any_order_and_not_on_description(self) -> None:
        """The digest depends on the counts, in any order, and not on the description."""
        one = Popularity(transitive={"a": 1, "b": 2}, setsize=9)
        self.assertEqual(
            one.digest,
            Popularity(transitive={"b": 2, "a": 1}, setsize=9, source="elsewhere").digest,
        )
        others = [
            one,
            evolve(one, transitive={"a": 2, "b": 1}),
            evolve(one, setsize=8),
            evolve(one, direct={"a": 1, "b": 2}),
            evolve(one, transitive={}, direct={"a": 1, "b": 2}),
            Popularity(),
        ]
        self.assertEqual(len({other.digest for other in others}), len(others))

    def test_popularity_does_not_change_with_the_mapping_that_it_was_made_from(self) -> None:
        """Popularity does not change with the mapping that it was made from."""
        counts = {"git": 7}
        popularity = Popularity(transitive=counts, direct=counts)
        counts["git"] = 8
        self.assertEqual(popularity.count_of(store_path("git")), 7)
        self.assertEqual(popularity.direct_count_of(store_path("git")), 7)
