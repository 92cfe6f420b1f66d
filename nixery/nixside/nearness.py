"""
The nearest names to one that does not exist.

A package set has tens of thousands of names, and somebody waits for the answer:
nothing here looks at all of them closely.  Names one slip of the finger away
(Damerau's four: a letter too much, one missing, one wrong, two swapped) are found
by making every such name and looking it up; of the others, those are kept that
begin alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import chain

__all__ = ["nearest"]

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-_"

LONGEST = 64
"""Longer names are not corrected: the names one slip away are too many."""


def nearest(wanted: str, names: Collection[str], limit: int = 5) -> tuple[str, ...]:
    """
    The names that somebody who wrote ``wanted`` may have meant.

    :param names: those that exist.
    :param limit: how many are wanted.
    :return: best first; equally good ones are sorted.
    """
    folded = wanted.lower()
    if len(folded) > LONGEST:
        return ()
    known: dict[str, list[str]] = {}
    for name in names:
        known.setdefault(name.lower(), []).append(name)
    found: dict[str, None] = {}  # in the order of discovery
    for near in chain(_one_slip(folded), _alike(folded, known)):
        found.update(dict.fromkeys(sorted(known.get(near, ()))))
        if len(found) >= limit:
            break
    return tuple(found)[:limit]


def _one_slip(word: str) -> Iterator[str]:
    """Two letters swapped, then one missing or too much, then a wrong one."""
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    yield from sorted({head + tail[1] + tail[0] + tail[2:] for head, tail in cuts if tail[1:]})
    missing = {head + letter + tail for head, tail in cuts for letter in LETTERS}
    excess = {head + tail[1:] for head, tail in cuts if tail}
    yield from sorted(missing | excess)
    yield from sorted(
        {head + letter + tail[1:] for head, tail in cuts if tail for letter in LETTERS}
    )


def _alike(word: str, known: Iterable[str]) -> Iterator[str]:
    """Names that continue ``word``, or that ``word`` continues; then two slips."""
    if len(word) < 2:
        return
    longer = [name for name in known if name.startswith(word)]
    shorter = [word[:length] for length in range(len(word) - 1, 1, -1)]
    yield from sorted(longer, key=lambda name: (len(name), name))
    yield from shorter
    if len(word) > 3:
        yield from sorted(
            name
            for name in known
            if name[0] == word[0] and abs(len(name) - len(word)) <= 2 and _distance(name, word) <= 2
        )


def _distance(first: str, second: str) -> int:
    """Levenshtein's distance, by the method of Wagner and Fischer (1974)."""
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return row[-1]
