"""Tests for :mod:`nixery.popularity.count`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.layers.popularity_file import encode_popularity, merge_counts, parse_popularity
from nixery.popularity.count import CHUNK_SIZE, count_popularity, users_in_closure


def base_name(number: int, name: str) -> str:
    return f"{number:032d}-{name}"


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """References without circles, in any order, some of them to paths that are missing."""
    size = draw(st.integers(0, 12))
    words = st.sampled_from(["curl-8.5.0", "curl-8.5.0-dev", "curl-7", "glibc-2.39", "source"])
    names = [base_name(number, draw(words)) for number in range(size)]
    missing = [base_name(99, "gone-1.0")]
    references = {
        name: draw(st.lists(st.sampled_from([*names[: number + 1], *missing])))
        for number, name in enumerate(names)
    }
    order = draw(st.permutations(names))
    return {name: references[name] for name in order}


def closure(references: Mapping[str, Sequence[str]], name: str) -> set[str]:
    """By walking: what the fast way has to agree with."""
    found = {name}
    for used in references[name]:
        if used in references and used not in found:
            found |= closure(references, used)
    return found


class CountTests(SynchronousTestCase):
    """Tests for :func:`count_popularity`."""

    @settings(max_examples=120)
    @given(graphs())
    def test_counts_are_those_of_all_closures_walked_one_by_one(
        self, references: dict[str, list[str]]
    ) -> None:
        """The counts are those of all closures, walked one by one."""
        popularity = count_popularity(references, "somewhere")
        closures = [closure(references, name) for name in references]
        transitive = merge_counts(
            (name[33:], sum(name in each for each in closures)) for name in references
        )
        direct = merge_counts(
            (name[33:], sum(name in used for user, used in references.items() if user != name))
            for name in references
        )
        self.assertEqual(transitive, popularity.transitive)
        self.assertEqual({name: n for name, n in direct.items() if n}, popularity.direct)
        self.assertEqual(len(references), popularity.setsize)
        self.assertEqual("somewhere", popularity.source)

    @settings(max_examples=50)
    @given(graphs())
    def test_can_be_read(self, references: dict[str, list[str]]) -> None:
        """The data that are counted can be read by daemons."""
        popularity = count_popularity(references, "somewhere")
        self.assertEqual(popularity, parse_popularity(encode_popularity(popularity)))

    def test_paths_that_refer_to_one_another_cannot_be(self) -> None:
        """Paths that refer to one another cannot be: no store has any."""
        one, two, three = (base_name(number, "x-1") for number in range(3))
        error = self.assertRaises(
            UnexpectedOutput, count_popularity, {one: [two], two: [one], three: [one]}, ""
        )
        self.assertIn("circle", error.message)


class ChunkTests(SynchronousTestCase):
    """Tests for :func:`users_in_closure`."""

    def test_counts_do_not_depend_on_how_many_users_are_followed_at_once(self) -> None:
        """The counts do not depend on how many users are followed at once."""
        numbers = random.Random(7)
        uses = [sorted({numbers.randrange(i, 200) for _ in range(4)} - {i}) for i in range(200)]
        expected = users_in_closure(uses, range(200), CHUNK_SIZE)
        self.assertEqual(200, len(expected))
        self.assertEqual(1, expected[0])
        self.assertLess(10, max(expected))
        for chunk in (1, 3, 64, 199, 200):
            self.assertEqual(expected, users_in_closure(uses, range(200), chunk))

    def test_example_that_the_documentation_draws(self) -> None:
        """The example that the documentation draws."""
        self.assertEqual(
            [1, 1, 3, 2, 5], users_in_closure([[2], [2, 3], [4], [4], []], range(5), 2)
        )
