"""
Read and write files of popularity data.

The popularity of packages is counted once for a package set
(``nixery-popcount``) and then read by every daemon.  A file is a JSON object in
UTF-8::

    {
      "format": "nixery-popularity",
      "version": 1,
      "source": "nixos-24.05, commit 1234567, x86_64-linux",
      "setsize": 91234,
      "transitive": {"curl": 20781, "glibc": 80312},
      "direct": {"curl": 702, "glibc": 61049}
    }

``source``
    The origin of the counts, for people.
``setsize``
    The number of store paths in the set.
``transitive``
    For each package the number of store paths of the set that have it in their
    closure, themselves included: never more than ``setsize``.
``direct``
    The number of store paths that refer to it themselves, without itself.

A package that is missing counts as 1.  Members that are not mentioned here are ignored,
so that later writers can add some.

Names and versions
==================

Packages are called by the names of their store paths without hash and version, as
:func:`nixery.image.closure.package_name` cuts them: the version begins after the first dash
that is followed by anything but a letter, and the suffix of an output is cut with it.
``curl-8.5.0``, ``curl-8.5.0-bin`` and ``curl-7.88.1-dev`` all are ``curl``, so that data
of last month still fit today's package set; ``python3.11-requests-2.31.0`` is
``python3.11-requests``.

The count of a package is the *highest* of its versions' and outputs' counts
(:func:`merge_counts`), not their sum.  The layering compares counts of single store paths with
one another: how many of the closures with glibc have curl as well?  A sum counts a closure
with two outputs of a package twice, and makes many unrelated paths with a common name
(``source``, ``wrapper``) look like a popular one.  The highest count is that of a path that
exists, and as a rule of the version that most of the set, and so the image, is built with.
For a less popular version it is too high, with the harmless effect that the path is kept
apart.

The older format
================

Files for the first Nixery are one flat object of counts by store path names, versions
and outputs included: ``{"curl-8.5.0": 702, "glibc-2.39-52": 61049}``.  They count direct
references, themselves included where a path refers to itself, and leave counts of 1
out.  They are read as direct counts without transitive ones, for a set of unknown size.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from nixery.errors import UnexpectedOutput
from nixery.image.canonical_json import canonical_json
from nixery.image.closure import package_name
from nixery.layers.plan import Popularity

__all__ = ["FORMAT", "VERSION", "encode_popularity", "merge_counts", "parse_popularity"]

FORMAT = "nixery-popularity"
"""The value that distinguishes the format from the older one, whose values are numbers."""

VERSION = 1
"""Increased when older readers would misunderstand newer files."""


def parse_popularity(data: bytes) -> Popularity:
    """
    Read a file in either format.

    :raises UnexpectedOutput: it is in neither, or its counts are inconsistent.
    """
    try:
        document = json.loads(data)
    # Very deep nesting exhausts the stack; a very long number is a ValueError.
    except (ValueError, RecursionError) as error:
        raise _malformed(f"not JSON: {error}", data) from error
    if not isinstance(document, dict):
        raise _malformed("not an object", data)
    if "format" not in document or isinstance(document["format"], int):
        return Popularity(
            direct=merge_counts(_parse_counts("the older format", document).items()),
            source="direct references, in the older format",
        )
    if document["format"] != FORMAT or document.get("version") != VERSION:
        raise _malformed(
            f"version {VERSION} of the format {FORMAT} is expected",
            f"{document['format']!r}, version {document.get('version')!r}",
        )
    return _parse_current(document)


def encode_popularity(popularity: Popularity) -> bytes:
    """
    Return the file for popularity data: equal bytes for equal data and source.

    The format is meant for transitive counts: data without them are written, but are of a
    less useful :class:`~nixery.layers.plan.PopularityKind` when they are read.
    """
    return (
        canonical_json(
            {
                "direct": popularity.direct,
                "format": FORMAT,
                "setsize": popularity.setsize,
                "source": popularity.source,
                "transitive": popularity.transitive,
                "version": VERSION,
            }
        )
        + b"\n"
    )


def merge_counts(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """
    Compute the counts of packages from those of their store paths.

    :param counts: names as in :attr:`nixery.image.closure.StorePath.name`, any number of times,
        with counts of the single paths.
    :return: the highest count of each package, by its name without version.
    """
    merged: dict[str, int] = {}
    for name, count in counts:
        package = package_name(name)
        merged[package] = max(count, merged.get(package, 0))
    return merged


def _parse_current(document: Mapping[str, object]) -> Popularity:
    setsize = _parse_count("setsize", document.get("setsize"))
    source = document.get("source", "")
    if not isinstance(source, str):
        raise _malformed("source is not a string", repr(source))
    transitive = _parse_counts("transitive", document.get("transitive"))
    direct = _parse_counts("direct", document.get("direct"))
    for kind, counts in (("transitive", transitive), ("direct", direct)):
        for name, count in counts.items():
            if package_name(name) != name:
                raise _malformed(f"a package's name with a version in {kind}", name)
            if count > setsize:
                raise _malformed(
                    f"a {kind} count above the size of the set, which is {setsize}",
                    f"{name}: {count}",
                )
    return Popularity(transitive=transitive, direct=direct, setsize=setsize, source=source)


def _parse_counts(where: str, value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise _malformed(f"{where} is not an object", repr(value))
    return {name: _parse_count(f"{where}, {name}", count) for name, count in value.items()}


def _parse_count(where: str, value: object) -> int:
    # True is an integer to Python, not to JSON.
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _malformed(f"{where}: not a count", repr(value))
    return value


def _malformed(reason: str, excerpt: str | bytes) -> UnexpectedOutput:
    if isinstance(excerpt, bytes):
        excerpt = excerpt[:200].decode("utf-8", errors="backslashreplace")
    return UnexpectedOutput(what=f"the popularity data ({reason})", excerpt=excerpt)
