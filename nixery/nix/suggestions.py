"""
Suggest names for one that does not exist.

A package set has tens of thousands of names, and a client waits for the answer.
:mod:`rapidfuzz` computes the distance of a name to those of about its length: 3 ms for 63,000
names.
"""

from __future__ import annotations

import hashlib
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, takewhile
from threading import Lock

from cachetools import LRUCache
from rapidfuzz.distance import OSA
from rapidfuzz.process import extract

from nixery.image.errors import InvalidName
from nixery.image.names import ESCAPE, escape_attribute, parse_image_name
from nixery.sources.source import Revision

__all__ = ["LevelNames", "NameIndex", "NameIndexes", "spell"]

MAX_NAME_CHARACTERS = 64
"""The length beyond which names get no suggestions."""

MAX_NEAR_NAMES = 20
"""The most names that are found for one name: some of them may not be for the client."""

MAX_INDEXES = 16
"""The number of levels of package sets whose indexes are kept; that of nixpkgs has 5 MB."""

NAMES_PER_STEP = 2048
"""The names that are compared at a time: no other thread runs meanwhile, for about 0.5 ms."""


def _never() -> bool:
    return False


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
        self._by_length: dict[int, list[str]] = {}
        for name in self._folded:
            self._by_length.setdefault(len(name), []).append(name)

    def suggest(
        self, misspelled: str, limit: int = 5, expired: Callable[[], bool] = _never
    ) -> tuple[str, ...]:
        """
        Suggest names that ``misspelled`` may be a misspelling of.

        The best are names at one typing error (two letters swapped, then one missing or
        added, then a wrong one), then those that are longer than ``misspelled`` with it as a
        prefix or the reverse, then those at two typing errors that begin alike.

        :param limit: the most suggestions.
        :param expired: called now and then; once it returns true, no more names are compared.
        :return: best first; equally good ones are sorted.
        """
        word = misspelled.lower()
        if len(word) > MAX_NAME_CHARACTERS:
            return ()
        misspellings = sorted(
            (_rank(word, name, distance), name)
            for name, distance in self._similar(word, expired)
            if distance < 2 or name[:1] == word[0]
        )
        close = [name for rank, name in misspellings if rank < TWO_ERRORS_RANK]
        candidates = dict.fromkeys(
            chain(close, self._prefix_matches(word), (name for _, name in misspellings))
        )
        spelled = chain.from_iterable(map(self._original_spellings, candidates))
        return tuple(spelled)[:limit]

    def _similar(self, word: str, expired: Callable[[], bool]) -> Iterator[tuple[str, float]]:
        """Yield the names at two typing errors at most, with their number."""
        cutoff = 2 if len(word) > 3 else 1
        for length in range(len(word) - cutoff, len(word) + cutoff + 1):
            names = self._by_length.get(length, [])
            for start in range(0, len(names), NAMES_PER_STEP):
                if expired():
                    return
                for name, distance, _ in extract(
                    word,
                    names[start : start + NAMES_PER_STEP],
                    scorer=OSA.distance,
                    processor=None,
                    score_cutoff=cutoff,
                    limit=None,
                ):
                    yield name, distance
                # Lets the reactor's thread run at once; it would wait for 5 ms each time.
                time.sleep(0)

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


class LevelNames:
    """
    The attribute names of one set, with their index.

    :param names: as the set spells them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {_plain(name): name for name in names}
        self._index = NameIndex(self._names)
        self._has_dots = any("." in name for name in self._names)

    def prepare(self) -> None:
        """Make what :meth:`may_have` needs, which is fast then."""
        _ = self._folded

    def may_have(self, parts: Sequence[str]) -> bool:
        """
        Tell whether a look-up could find an attribute for the first parts of a path.

        Names that no image can ask for may be missing here.
        """
        prefixes = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        return any(_fold(prefix) in self._folded for prefix in prefixes)

    @cached_property
    def _folded(self) -> frozenset[str]:
        # With and without the underscore before a digit.
        return frozenset(map(_fold, chain(self._names, self._names.values())))

    def suggest(
        self, level: Sequence[str], rest: Sequence[str], refused: str, expired: Callable[[], bool]
    ) -> tuple[str, ...]:
        """
        Suggest components of image names for one that the set does not have.

        This takes some milliseconds: call it on a worker thread.

        :param level: the attribute path of the set.
        :param rest: the parts of the name that were looked for in the set.
        :param refused: the component that was refused, which is not suggested.
        :param expired: as :meth:`NameIndex.suggest` says.
        """
        # Attributes may have dots in their names.
        words = [".".join(rest), rest[0]] if self._has_dots else [rest[0]]
        names = chain.from_iterable(
            self._index.suggest(word, MAX_NEAR_NAMES, expired) for word in dict.fromkeys(words)
        )
        # Names that differ only in case have the same spelling.
        spelled = dict.fromkeys(spell([*level, self._names[name]]) for name in names)
        return tuple(name for name in spelled if name != refused)[:MAX_NEAR_NAMES]


class NameIndexes:
    """
    Keeps the indexes of the levels that were looked up last, for any thread.

    Each is made once for all look-ups that find the same names, in whatever revision of the
    package set.  The top levels of revisions that cannot change are kept by revision, too: what is
    missing there needs no evaluation.

    :param refused: attributes, in lower case, that are never suggested.
    """

    def __init__(self, refused: Collection[str] = ()) -> None:
        self._refused = frozenset(refused)
        self._levels: LRUCache[bytes, LevelNames] = LRUCache(MAX_INDEXES)
        self._top_levels: LRUCache[tuple[Revision, str], LevelNames] = LRUCache(MAX_INDEXES)
        self._lock = Lock()

    def top_level(self, revision: Revision, system: str) -> LevelNames | None:
        """Return the names at the top of a package set, if they are known and cannot change."""
        with self._lock:
            return self._top_levels.get((revision, system))

    def add_top_level(self, revision: Revision, system: str, names: LevelNames) -> None:
        """
        Keep the names at the top of a package set, unless they can change.

        This takes some ten milliseconds: call it on a worker thread.
        """
        if revision.is_fixed:
            names.prepare()
            with self._lock:
                self._top_levels[revision, system] = names

    def level(self, names: Sequence[str]) -> LevelNames:
        """
        Return the index of a level with these attribute names.

        This takes some ten milliseconds the first time: call it on a worker thread.
        """
        key = hashlib.sha256("\0".join(names).encode("utf-8", "replace")).digest()
        with self._lock:
            level = self._levels.get(key)
            if level is None:
                # What is not printable, or has an empty part, is in no name of an image.
                served = [
                    name
                    for name in names
                    if name.isprintable()
                    and all(name.split("."))
                    and name.lower() not in self._refused
                ]
                level = self._levels[key] = LevelNames(served)
            return level


def spell(path: Sequence[str]) -> str:
    """
    Spell an attribute for an image name.

    The spelling is in lower case and without the underscore before a digit, if that follows
    the grammar of repository names; otherwise it is the escape.
    """
    plain = ".".join(map(_plain, path))
    escape = escape_attribute(".".join(path))
    # Only letters of ASCII are matched without regard to case, and the name of an attribute
    # may look like an escape.
    if not plain.isascii() or plain.startswith(ESCAPE):
        return escape
    try:
        parse_image_name(plain.lower(), system="")
    except InvalidName:
        return escape
    return plain.lower()


def _fold(name: str) -> str:
    """Remove the difference of case that look-ups ignore: that of letters of ASCII."""
    # Nearly all names are ASCII, and ``lower`` takes a tenth of the time.
    return name.lower() if name.isascii() else name.translate(_LOWER)


_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def _plain(name: str) -> str:
    """Remove the underscore that Nix's grammar requires before a digit."""
    return name[1:] if name.startswith("_") and name[1:2].isdigit() else name


TWO_ERRORS_RANK = 3


def _rank(word: str, name: str, distance: float) -> int:
    """Rank a name by the likelihood of the typing error that turns it into ``word``."""
    if distance > 1:
        return TWO_ERRORS_RANK
    if len(name) != len(word):
        return 1
    return 0 if sorted(name) == sorted(word) else 2
