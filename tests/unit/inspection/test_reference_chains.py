"""Tests of the explanations of why an image contains a path."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from nixery.inspection.reference_chains import (
    chain_to,
    find_chains,
    find_paths,
    shortest_predecessors,
)
from nixery.inspection.report import ImageReport
from tests.support.inspection import report_of, reports


class ChainTests(SynchronousTestCase):
    @given(reports)
    @settings(max_examples=50)
    def test_each_chain_goes_along_references_from_what_was_asked_for(
        self, report: ImageReport
    ) -> None:
        """Each chain goes along references, from what was asked for, and none is shorter."""
        ways = shortest_predecessors(report)
        graph: nx.DiGraph[int] = nx.DiGraph()
        graph.add_nodes_from(range(len(report.paths)))
        graph.add_edges_from(
            (number, other) for number, path in enumerate(report.paths) for other in path.references
        )
        lengths = nx.multi_source_dijkstra_path_length(graph, set(report.requested))
        for number in range(len(report.paths)):
            chain = chain_to(number, ways)
            self.assertEqual(number, chain[-1])
            self.assertIn(chain[0], report.requested)
            for one, next_one in pairwise(chain):
                self.assertIn(next_one, report.paths[one].references)
            self.assertEqual(lengths[number], len(chain) - 1)

    def test_among_chains_of_one_length_that_through_what_sorts_first_is_chosen(self) -> None:
        """Among chains of one length that through what sorts first is chosen."""
        report = report_of(
            {"top": 1, "b": 1, "a": 1, "lib": 1}, {"top": ["a", "b"], "a": ["lib"], "b": ["lib"]}
        )
        [chain] = find_chains(report, shortest_predecessors(report), "lib").chains
        self.assertEqual(["top", "a", "lib"], [report.paths[number].name for number in chain])


class SearchTests(SynchronousTestCase):
    def setUp(self) -> None:
        names = ["openssl-3.0", "openssl-3.0-dev", "python-openssl", "perl", "nixfmt"]
        self.report = report_of(dict.fromkeys(names, 1), {})
        self.predecessors = shortest_predecessors(self.report)

    def found(self, text: str, most: int = 20) -> list[str]:
        finding = find_chains(self.report, self.predecessors, text, most)
        return [self.report.paths[chain[-1]].name for chain in finding.chains]

    def test_exact_name_comes_first_then_names_that_begin_so_then_the_rest(self) -> None:
        """The exact name comes first, then names that begin so, then the rest."""
        self.assertEqual(
            ["openssl-3.0", "openssl-3.0-dev", "python-openssl"], self.found(" OpenSSL")
        )
        self.assertEqual(["openssl-3.0-dev"], self.found("openssl-3.0-dev"))

    def test_no_more_are_shown_than_asked_for_and_how_many_there_are_is_told(self) -> None:
        """No more are shown than asked for, and how many there are is told."""
        self.assertEqual(["openssl-3.0"], self.found("openssl", most=1))
        self.assertEqual(3, find_chains(self.report, self.predecessors, "openssl", 1).total)

    def test_search_for_nothing_or_for_a_name_that_is_not_there_finds_nothing(self) -> None:
        """A search for nothing, or for a name that is not there, finds nothing."""
        self.assertEqual([], self.found("  "))
        self.assertEqual([], self.found("<script>"))

    def test_whole_path_is_found_or_one_by_its_hash(self) -> None:
        """A whole path is found, or one by its hash; the store's own name finds nothing."""
        path = self.report.paths[0].path
        for text in (path, path.removeprefix("/nix/store/")):
            self.assertEqual([0], find_paths(self.report, text))
        self.assertEqual(["nixfmt"], self.found("nix"))
        self.assertEqual([], self.found("store"))
