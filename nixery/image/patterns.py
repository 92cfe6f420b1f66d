"""
Patterns over packages: what a user may have, whatever an image's name looks like.

A pattern is about one package, and an image is allowed if each of its packages is.  It is
never the name of the image that is compared: packages can stand there in any order, twice,
behind meta-packages, and in an escape that hides how they are called.  What is compared is
the attribute path that is looked up, with all that the lookup makes no difference between
taken away: the case of letters, and the underscore that Nix's grammar wants before a digit.

A star stands for any characters but dots: attribute sets lead back to the package set in
many places (``python3.pkgs``), and a star that reached through dots would allow everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache

from attrs import field, frozen

from nixery.image.names import DEFAULT_PACKAGES, ESCAPE, SHELL, ImageName

__all__ = ["EVERYTHING", "PackagePatterns", "fold", "parse_patterns"]

EVERYTHING = "*"
"""The pattern that every package matches, with dots in its path or without."""

_META = "shell"

MAX_PATTERN = 200
"""The longest pattern, in characters."""

_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
"""
Letters whose case the lookup makes no difference between: those of ASCII, and no others
that Unicode knows, some of which would become letters of ASCII.
"""


@frozen(kw_only=True, cache_hash=True)
class PackagePatterns:
    """
    What somebody may have; nothing else.

    :param patterns: as :func:`parse_patterns` made them: folded, and parts of paths.
    """

    patterns: tuple[tuple[str, ...], ...]
    everything: bool = field(default=False)

    def refused(self, name: ImageName) -> tuple[str, ...]:
        """The packages of an image that are not allowed, as they were asked for."""
        return () if self.everything else _refused(self, name)

    def allows(self, name: ImageName) -> bool:
        """Whether all packages of an image are allowed."""
        return not self.refused(name)

    def matches(self, path: str) -> bool:
        """Whether one of the patterns is about this path."""
        return self.everything or _matches(self, fold(path))

    def touches(self, path: str) -> bool:
        """
        Whether one of the patterns is about some parts of the path, one behind the other:
        about what leads there, or about what is reached through it.
        """
        parts = fold(path)
        return self.everything or any(
            _matches(self, parts[start:stop])
            for start in range(len(parts))
            for stop in range(start + 1, len(parts) + 1)
        )


def parse_patterns(texts: Iterable[str]) -> PackagePatterns:
    """
    Read patterns as a person writes them: ``git``, ``python3Packages.*``, ``shell``.

    :raises ValueError: one of them is none; the text says what would be right.
    """
    patterns: set[tuple[str, ...]] = set()
    everything = False
    for text in texts:
        _check(text)
        if text == EVERYTHING:
            everything = True
        patterns.add(fold(text))
        if text == _META:
            patterns |= {fold(package) for package in SHELL}
    return PackagePatterns(patterns=tuple(sorted(patterns)), everything=everything)


def _check(text: str) -> None:
    shown = repr(text[:40])
    if "/" in text:
        raise ValueError(
            f"{shown}: a pattern is about one package, and has no slash: write shell, git"
            " for what shell/git contains"
        )
    if text.startswith(ESCAPE):
        raise ValueError(f"{shown}: write the attribute path itself, not its escape")
    if (
        not text.isprintable()
        or len(text) > MAX_PATTERN
        or any(character in " []!" for character in text)
        or not all(text.split("."))
    ):
        raise ValueError(
            f"{shown}: write the attribute path of a package, with * for any characters but"
            " dots and ? for one: git, python3Packages.*"
        )


@lru_cache(maxsize=4096)
def _refused(patterns: PackagePatterns, name: ImageName) -> tuple[str, ...]:
    return tuple(
        requirement.name
        for requirement in name.requirements
        # Every image has these, whoever asks for it.
        if requirement.name not in DEFAULT_PACKAGES
        and not _matches(patterns, fold(requirement.name))
    )


def _matches(patterns: PackagePatterns, path: tuple[str, ...]) -> bool:
    return any(
        len(pattern) == len(path)
        and all(_part(each).match(part) for each, part in zip(pattern, path, strict=True))
        for pattern in patterns.patterns
    )


@lru_cache(maxsize=4096)
def _part(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def fold(path: str) -> tuple[str, ...]:
    """The parts of an attribute path, alike for all that a lookup takes for the same."""
    return tuple(
        part[1:] if part[:1] == "_" and part[1:2] in _DIGITS else part
        for part in path.translate(_LOWER).split(".")
    )


_DIGITS = frozenset("0123456789")
