"""
Match packages against patterns, to decide which packages a user may pull.

A pattern is about one package, and an image is allowed if each of its packages is.
The name of the image is never compared: packages can occur in it in any order, twice,
after meta-packages, and in an escape that hides their names.  Patterns are compared with
the attribute path that is looked up, after removing the differences that the lookup
ignores: the case of letters, and the underscore that Nix's grammar requires before a digit.

A star matches any characters but dots: attribute sets lead back to the package set in
many places (``python3.pkgs``), and a star that matched dots would allow all packages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache

from attrs import field, frozen

from nixery.image.name_cache import NameCache, memory_size
from nixery.image.names import DEFAULT_PACKAGES, ESCAPE, SHELL, ImageName

__all__ = ["ALL_PACKAGES", "PackagePatterns", "normalize_path", "parse_patterns"]

ALL_PACKAGES = "*"
"""The pattern that every package matches, with dots in its path or without."""

_SHELL_META_PACKAGE = "shell"

MAX_PATTERN_CHARACTERS = 200
"""The longest pattern, in characters."""

_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
"""
The letters whose case the lookup ignores: those of ASCII, and no others of Unicode, some of
which would become letters of ASCII.
"""


@frozen(kw_only=True, cache_hash=True)
class PackagePatterns:
    """
    The packages that a user may pull; all others are refused.

    :param patterns: the patterns from :func:`parse_patterns`: folded, and split at dots.
    """

    patterns: tuple[tuple[str, ...], ...]
    matches_all: bool = field(default=False)

    def denied_packages(self, name: ImageName) -> tuple[str, ...]:
        """Return the packages of an image that are not allowed, as they were requested."""
        return () if self.matches_all else _denied_packages(self, name)

    def allows(self, name: ImageName) -> bool:
        """Tell whether all packages of an image are allowed."""
        return not self.denied_packages(name)

    def matches(self, path: str) -> bool:
        """Tell whether one of the patterns matches this path."""
        return self.matches_all or _matches(self, normalize_path(path))

    def matches_part_of(self, path: str) -> bool:
        """
        Tell whether one of the patterns matches some consecutive parts of the path: an
        attribute set that it leads through, or an attribute that it reaches.
        """
        components = normalize_path(path)
        return self.matches_all or any(
            _matches(self, components[start:stop])
            for start in range(len(components))
            for stop in range(start + 1, len(components) + 1)
        )


def parse_patterns(values: Iterable[str]) -> PackagePatterns:
    """
    Read patterns as a person writes them: ``git``, ``python3Packages.*``, ``shell``.

    :raises ValueError: one of them is not a pattern; the message describes a correct one.
    """
    patterns: set[tuple[str, ...]] = set()
    matches_all = False
    for text in values:
        _check_pattern(text)
        if text == ALL_PACKAGES:
            matches_all = True
        patterns.add(normalize_path(text))
        if text == _SHELL_META_PACKAGE:
            patterns |= {normalize_path(package) for package in SHELL}
    return PackagePatterns(patterns=tuple(sorted(patterns)), matches_all=matches_all)


def _check_pattern(text: str) -> None:
    quoted = repr(text[:40])
    if "/" in text:
        raise ValueError(
            f"{quoted}: a pattern is about one package, and has no slash: write shell, git"
            " for what shell/git contains"
        )
    if text.startswith(ESCAPE):
        raise ValueError(f"{quoted}: write the attribute path itself, not its escape")
    if (
        not text.isprintable()
        or len(text) > MAX_PATTERN_CHARACTERS
        or any(character in " []!" for character in text)
        or not all(text.split("."))
    ):
        raise ValueError(
            f"{quoted}: write the attribute path of a package, with * for any characters but"
            " dots and ? for one: git, python3Packages.*"
        )


_allowed_names: NameCache[tuple[PackagePatterns, ImageName], bool] = NameCache()


def _denied_packages(patterns: PackagePatterns, name: ImageName) -> tuple[str, ...]:
    if _allowed_names.get((patterns, name)):
        return ()
    denied = tuple(
        request.name
        for request in name.package_requests
        # Every image has these, for all clients.
        if request.name not in DEFAULT_PACKAGES
        and not _matches(patterns, normalize_path(request.name))
    )
    if not denied:
        # Of names that are refused, nothing is kept.
        _allowed_names.add((patterns, name), True, memory_size(name))
    return denied


def _matches(patterns: PackagePatterns, path: tuple[str, ...]) -> bool:
    return any(
        len(pattern) == len(path)
        and all(
            _compile_component(each).match(part) for each, part in zip(pattern, path, strict=True)
        )
        for pattern in patterns.patterns
    )


@lru_cache(maxsize=4096)
def _compile_component(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def normalize_path(path: str) -> tuple[str, ...]:
    """Return the parts of an attribute path, equal for all paths that a lookup treats alike."""
    return tuple(
        part[1:] if part[:1] == "_" and part[1:2] in _DIGITS else part
        for part in path.translate(_LOWER).split(".")
    )


_DIGITS = frozenset("0123456789")
