"""
Find packages of an index by what a person types: their names, and words of their descriptions.

All names are one string, and so are all descriptions: the search for a word in 100,000 of them is
one search in a string, of some milliseconds, and not a loop.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, islice

from attrs import frozen

from nixery.nix.package_index import IndexEntry, PackageIndex
from nixery.nix.suggestions import NameIndex

__all__ = ["Findings", "PackageFinder"]

MAX_MATCHES = 1000
"""The most packages that are ranked; the rest of a longer list is not worth reading."""

MAX_NEAR_NAMES = 5
"""The most names near a misspelt one; each is looked for among all names."""

_END = "\n"


@frozen(kw_only=True)
class Findings:
    """
    The packages that were found.

    :param entries: best first.
    :param total: how many there are, or :data:`MAX_MATCHES`.
    """

    entries: Sequence[IndexEntry]
    total: int


class _Texts:
    """
    One string of many texts, in lower case.

    :param texts: none of them has a line break.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        folded = [text.lower() for text in texts]
        self._text = _END.join(["", *folded, ""])
        self._starts = list(accumulate((len(text) + 1 for text in folded[:-1]), initial=1))

    def beginning_with(self, word: str) -> Iterator[int]:
        """Tell the positions of the texts that begin with a word."""
        return self._places(f"{_END}{word}", 1)

    def containing(self, word: str) -> Iterator[int]:
        """Tell the positions of the texts with a word in them, each once."""
        return self._places(word, 0)

    def _places(self, pattern: str, skipped: int) -> Iterator[int]:
        place = self._text.find(pattern)
        while place >= 0:
            yield bisect_right(self._starts, place + skipped) - 1
            place = self._text.find(pattern, self._text.find(_END, place + skipped))


class PackageFinder:
    """
    Finds packages of one index.  Making one takes about 0.3 s for 100,000 packages.

    :param index: its packages.
    """

    def __init__(self, index: PackageIndex) -> None:
        # The best of equally good matches come first, so that a long list of matches can end early.
        self._entries = sorted(index.entries, key=_preference)
        self._names = _Texts([f"{each.attribute} {each.pname}" for each in self._entries])
        self._descriptions = _Texts([each.description for each in self._entries])
        attributes = {each.attribute for each in self._entries}
        self._near = NameIndex(attributes | {name.rpartition(".")[2] for name in attributes})

    def find(
        self,
        query: str,
        *,
        limit: int,
        offset: int = 0,
        accept: Callable[[IndexEntry], bool] = lambda _: True,
    ) -> Findings:
        """
        Find packages that have all words of a query.

        Best are those that are called so, then those whose names begin with the first word, then
        those that have it in their names, then those that have the words in their descriptions;
        of equal ones those at the top of the set, and the shortest names.  If there are none, names
        near the query are found.

        :param limit: the most packages that are returned.
        :param offset: how many of the best are left out.
        :param accept: tells whether a package may be found.
        """
        words = query.lower().split()
        if not words:
            return Findings(entries=(), total=0)
        positions = self._matching(words)
        ranked = sorted(
            (self._rank(words[0], position), position)
            for position in positions
            if accept(self._entries[position])
        )
        if not ranked and len(words) == 1:
            found = (self._entries[position] for position in self._similar(words[0]))
            entries = [entry for entry in found if accept(entry)]
            return Findings(entries=entries[offset : offset + limit], total=len(entries))
        return Findings(
            entries=[self._entries[at] for _, at in ranked[offset : offset + limit]],
            total=len(ranked),
        )

    def _matching(self, words: Sequence[str]) -> set[int]:
        """Return the positions of the entries with all words in name or description."""
        longest = max(words, key=len)
        found: set[int] = set()
        # The best first: the others are not to take their places where there are too many.
        for positions in (
            self._names.beginning_with(longest),
            self._names.containing(f".{longest}"),
            self._names.containing(longest),
            self._descriptions.containing(longest),
        ):
            new = (position for position in positions if position not in found)
            found |= set(islice(new, MAX_MATCHES - len(found)))
        others = [word for word in words if word != longest]
        return {
            position
            for position in found
            if all(word in _text_of(self._entries[position]) for word in others)
        }

    def _similar(self, word: str) -> Sequence[int]:
        """Return the positions of the entries with names that a word may be a misspelling of."""
        names = (name.lower() for name in self._near.suggest(word, limit=MAX_NEAR_NAMES))
        found = (
            chain(self._names.beginning_with(f"{name} "), self._names.containing(f".{name} "))
            for name in names
        )
        return list(dict.fromkeys(islice(chain.from_iterable(found), MAX_MATCHES)))

    def _rank(self, word: str, position: int) -> int:
        entry = self._entries[position]
        attribute = entry.attribute.lower()
        names = (attribute, attribute.rpartition(".")[2], entry.pname.lower())
        if word in names:
            kind = 0
        elif any(name.startswith(word) for name in names):
            kind = 1
        elif any(word in name for name in names):
            kind = 2
        else:
            kind = 3
        # What is served comes before what is not.
        return 2 * kind + (not entry.served)


def _preference(entry: IndexEntry) -> tuple[bool, int, int, str]:
    """Return what equally good matches are sorted by: what is at the top of the set is first."""
    attribute = entry.attribute.lower()
    return not entry.served, attribute.count("."), len(attribute), attribute


def _text_of(entry: IndexEntry) -> str:
    return f"{entry.attribute} {entry.pname} {entry.description}".lower()
