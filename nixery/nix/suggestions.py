"""
Suggest names for one that does not exist.

A package set has tens of thousands of names, and a client waits for the answer.  The
:mod:`rapidfuzz` computes the distance of a name to all of them: 35 ms for 100,000 names.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable
from itertools import chain, takewhile

from rapidfuzz.distance import OSA
from rapidfuzz.process import extract

__all__ = ["NameIndex"]

MAX_NAME_CHARACTERS = 64
"""The length beyond which names get no suggestions."""


class NameIndex:
    """
    The names of one level of a package set.

    :param names: the names that exist.
    """

    def __init__(self, names: Collection[str]) -> None:
        # Few names differ only in case: a list for each name would cost more than
        # everything else.
        self._spellings = {name.lower(): name for name in names}
        self._others: dict[str, list[str]] = {}
        for name in names:
            if self._spellings[name.lower()] != name:
                self._others.setdefault(name.lower(), []).append(name)
        self._folded = sorted(self._spellings)

    def suggest(self, misspelled: str, limit: int = 5) -> tuple[str, ...]:
        """
        Suggest names that ``misspelled`` may be a misspelling of.

        The best are names at one typing error (two letters swapped, then one missing or
        added, then a wrong one), then those that are longer than ``misspelled`` with it as a
        prefix or the reverse, then those at two typing errors that begin alike.

        :param limit: the most suggestions.
        :return: best first; equally good ones are sorted.
        """
        word = misspelled.lower()
        if len(word) > MAX_NAME_CHARACTERS:
            return ()
        misspellings = sorted(
            (_rank(word, name, distance), name)
            for name, distance, _ in extract(
                word,
                self._folded,
                scorer=OSA.distance,
                processor=None,
                score_cutoff=2 if len(word) > 3 else 1,
                limit=None,
            )
            if distance < 2 or name[:1] == word[0]
        )
        close = [name for rank, name in misspellings if rank < TWO_ERRORS_RANK]
        candidates = dict.fromkeys(
            chain(close, self._prefix_matches(word), (name for _, name in misspellings))
        )
        spelled = chain.from_iterable(map(self._original_spellings, candidates))
        return tuple(spelled)[:limit]

    def _original_spellings(self, folded: str) -> Iterable[str]:
        return sorted([self._spellings[folded], *self._others.get(folded, ())])

    def _prefix_matches(self, word: str) -> Iterable[str]:
        """Return names that ``word`` is a prefix of, then those that are prefixes of it."""
        if len(word) < 2:
            return
        following = self._folded[bisect_left(self._folded, word) :]
        longer = takewhile(lambda name: name.startswith(word), following)
        yield from sorted(longer, key=lambda name: (len(name), name))
        shorter = (word[:length] for length in range(len(word) - 1, 1, -1))
        yield from (name for name in shorter if name in self._spellings)


TWO_ERRORS_RANK = 3


def _rank(word: str, name: str, distance: int) -> int:
    """Rank a name by the likelihood of the typing error that turns it into ``word``."""
    if distance > 1:
        return TWO_ERRORS_RANK
    if len(name) != len(word):
        return 1
    return 0 if sorted(name) == sorted(word) else 2
