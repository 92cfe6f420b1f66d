"""Retained sizes: what a path alone keeps in an image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from nixery.inspection import retained_sizes
from nixery.inspection.report import ImageReport
from nixery.inspection.retained_sizes import (
    MAX_DEPTH,
    RetainedPath,
    find_dominators,
    retained_tree,
)
from tests.support.inspection import report_of, reports


def reachable(report: ImageReport, without: int) -> set[int]:
    """The paths of an image whose packages refer to all but one path."""
    referred = {number for path in report.paths for number in path.references}
    tops = {*report.requested, *(set(range(len(report.paths))) - referred)}
    found: set[int] = set()
    waiting = [number for number in tops if number != without]
    while waiting:
        number = waiting.pop()
        if number not in found and number != without:
            found.add(number)
            waiting += report.paths[number].references
    return found


def walk(tree: RetainedPath) -> Iterator[RetainedPath]:
    yield tree
    for child in tree.children:
        yield from walk(child)


class RetainedSizeTests(SynchronousTestCase):
    """Trees by retained sizes."""

    @given(reports)
    @settings(max_examples=60)
    def test_path_retains_what_is_gone_without_it(self, report: ImageReport) -> None:
        """The retained size of a path is that of the paths which nothing else needs."""
        if not report.paths:
            return
        tree = retained_tree(report, find_dominators(report))
        everything = set(range(len(report.paths)))
        shown = 0
        for node in walk(tree):
            if node.number < 0:
                continue
            shown += 1
            gone = everything - reachable(report, node.number)
            self.assertEqual(node.count, len(gone))
            self.assertEqual(node.retained, sum(report.paths[each].size for each in gone))
        self.assertEqual(shown, len(report.paths))
        self.assertEqual(tree.retained, sum(path.size for path in report.paths))
        self.assertEqual((tree.omitted, tree.omitted_size), (0, 0))

    @given(reports)
    @settings(max_examples=60)
    def test_tree_is_bounded_and_sums_up_the_rest(self, report: ImageReport) -> None:
        """A tree has the paths that retain most, and sums the others up."""
        self.patch(retained_sizes, "MAX_TREE_PATHS", 4)
        if not report.paths:
            return
        tree = retained_tree(report, find_dominators(report))
        nodes = list(walk(tree))
        self.assertEqual(len(nodes), 1 + min(4, len(report.paths)))
        smallest = min(node.retained for node in nodes)
        for node in nodes:
            own = 0 if node.number < 0 else report.paths[node.number].size
            children = node.children
            self.assertEqual(
                node.retained, own + node.omitted_size + sum(each.retained for each in children)
            )
            self.assertEqual(
                node.count, (node.number >= 0) + node.omitted + sum(each.count for each in children)
            )
            self.assertEqual(
                [each.retained for each in children],
                sorted((each.retained for each in children), reverse=True),
            )
        shown = {node.number for node in nodes}
        dominators = find_dominators(report)
        sizes = {
            node.number: node.retained
            for node in walk(self.whole_tree(report))
            if node.number not in shown and dominators[node.number] in {*shown, -1}
        }
        self.assertTrue(all(size <= smallest for size in sizes.values()))

    def test_long_chain_ends_at_a_level_and_the_rest_is_summed_up(self) -> None:
        """A chain of references is cut where a page would be too deep, and the rest summed up."""
        names = [f"p{number:03}" for number in range(150)]
        report = report_of(
            dict.fromkeys(names, 5), {user: [used] for user, used in pairwise(names)}
        )
        nodes = list(walk(retained_tree(report, find_dominators(report))))
        self.assertEqual(MAX_DEPTH + 1, len(nodes))
        left = 150 - MAX_DEPTH
        self.assertEqual((left, 5 * left), (nodes[-1].omitted, nodes[-1].omitted_size))

    def whole_tree(self, report: ImageReport) -> RetainedPath:
        self.patch(retained_sizes, "MAX_TREE_PATHS", 10_000)
        return retained_tree(report, find_dominators(report))
