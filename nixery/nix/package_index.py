"""
Represent the packages of a package set as data, for searches among them, in memory and in a file.

A file is JSON, compressed with gzip, of which the first two lines can be read without the rest:

1. an object: the version of the format, the identity of what was listed, and how many
   packages there are;
2. a list: the attribute names at the top of the set;
3. and for each package a list: attribute path, name, version, description, and whether it is
   served.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

from attrs import frozen

from nixery.errors import UnexpectedOutput
from nixery.image.canonical_json import Json

__all__ = [
    "IndexEntry",
    "PackageIndex",
    "decode_index",
    "decode_names",
    "encode_index",
    "parse_entries",
    "parse_names",
]

FORMAT_VERSION = 1

MAX_TEXT_CHARACTERS = 300
"""The length that a description is cut to, and beyond which a name is left out."""

COMPRESSION_LEVEL = 6


@frozen(kw_only=True)
class IndexEntry:
    """
    One package.

    :param attribute: its attribute path, as the set spells it.
    :param pname: its name without the version.
    :param description: one line, or nothing.
    :param served: false if the set itself says that it is not available: it is unfree, broken,
        insecure, or for other systems.
    """

    attribute: str
    pname: str
    version: str
    description: str
    served: bool


@frozen(kw_only=True)
class PackageIndex:
    """
    The packages of one revision of a package set, for one system.

    :param names: the attribute names at the top of the set, those of packages or not.
    :param entries: the packages, also those of nested sets, in the order of the set.
    :param skipped: how many of the names could not be looked at.
    """

    names: tuple[str, ...]
    entries: tuple[IndexEntry, ...]
    skipped: int = 0


# -- output of nix/index.nix --------------------------------------------------


def parse_names(output: bytes, refused: Collection[str] = ()) -> tuple[str, ...]:
    """
    Parse the list of all names.

    :param refused: names, in lower case, that are left out.
    :raises UnexpectedOutput: it is not output of ``nix/index.nix``.
    """
    left_out = frozenset(refused)
    return tuple(name for name in map(_text, _list(output)) if _is_usable(name, left_out))


def parse_entries(output: bytes, refused: Collection[str] = ()) -> tuple[IndexEntry, ...]:
    """
    Parse the packages of a slice.

    :param refused: attributes, in lower case, whose packages are left out.
    :raises UnexpectedOutput: it is not output of ``nix/index.nix``.
    """
    entries = (_entry(record, output) for record in _list(output))
    left_out = frozenset(refused)
    return tuple(entry for entry in entries if _is_usable(entry.attribute, left_out))


def _list(output: bytes) -> list[Any]:
    try:
        records = json.loads(output.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise _unexpected(output) from error
    if not isinstance(records, list):
        raise _unexpected(output)
    return records


def _entry(record: object, output: bytes) -> IndexEntry:
    match record:
        case [str(attribute), str(pname), str(version), str(description), bool(served)]:
            return IndexEntry(
                attribute=_text(attribute),
                pname=_line(pname),
                version=_line(version),
                description=_line(description),
                served=served,
            )
    raise _unexpected(output)


def _is_usable(attribute: str, refused: frozenset[str]) -> bool:
    """Tell whether an image can have such a package in its name."""
    return (
        len(attribute) <= MAX_TEXT_CHARACTERS
        and attribute.isprintable()
        and refused.isdisjoint(attribute.lower().split("."))
    )


def _text(value: object) -> str:
    # JSON can hold half of a surrogate pair, which is no character and cannot be encoded.
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _line(text: str) -> str:
    """Write a text of a package in one line, with nothing that is not shown."""
    line = " ".join(_text(text).split())
    return "".join(filter(str.isprintable, line))[:MAX_TEXT_CHARACTERS]


def _unexpected(output: bytes) -> UnexpectedOutput:
    excerpt = output[:400].decode("utf-8", "replace")
    return UnexpectedOutput(what="the output of index.nix", excerpt=excerpt)


# -- files ---------------------------------------------------------------------


def encode_index(index: PackageIndex, identity: Mapping[str, Json]) -> bytes:
    """
    Return the content of a file.

    :param identity: JSON data that tells what was listed.
    """
    header = {
        "version": FORMAT_VERSION,
        "identity": identity,
        "packages": len(index.entries),
        "skipped": index.skipped,
    }
    lines: Iterable[object] = (header, index.names, *map(_record, index.entries))
    text = "".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines)
    return gzip.compress(text.encode("ascii"), COMPRESSION_LEVEL, mtime=0)


def decode_index(data: bytes, identity: Mapping[str, Json]) -> PackageIndex:
    """
    Parse a file.

    :raises ValueError: it is damaged, of another version, or of something else.
    """
    try:
        lines = gzip.decompress(data).splitlines()
        header, names = _check_beginning(lines, identity)
        # All at once, for one call for each of them would take three times as long.
        records = json.loads(b"[" + b",".join(lines[2:]) + b"]")
        if len(records) != header["packages"]:
            raise ValueError("it does not have as many packages as it says")
        return PackageIndex(
            names=names,
            entries=tuple(
                IndexEntry(
                    attribute=attribute,
                    pname=pname,
                    version=version,
                    description=description,
                    served=served,
                )
                for attribute, pname, version, description, served in records
            ),
            skipped=int(header["skipped"]),
        )
    except (OSError, EOFError, zlib.error, KeyError, TypeError) as error:
        raise ValueError(f"it is damaged: {error!r}") from error


def decode_names(data: bytes, identity: Mapping[str, Json]) -> tuple[str, ...]:
    """
    Parse the names at the top of the set alone, which is faster.

    :raises ValueError: as :func:`decode_index` does, as far as it is read.
    """
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as file:
            _, names = _check_beginning([file.readline(), file.readline()], identity)
    except (OSError, EOFError, zlib.error, KeyError, TypeError) as error:
        raise ValueError(f"it is damaged: {error!r}") from error
    return names


def _check_beginning(
    lines: Sequence[bytes], identity: Mapping[str, Json]
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """
    Parse the first two lines.

    :raises ValueError: they are not those of such a file.
    """
    if len(lines) < 2:
        raise ValueError("it ends early")
    header = json.loads(lines[0])
    if header["version"] != FORMAT_VERSION:
        raise ValueError(f"it has version {header['version']!r} of the format")
    if header["identity"] != identity:
        raise ValueError("it is of something else")
    names = json.loads(lines[1])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("it has no names")
    return header, tuple(names)


def _record(entry: IndexEntry) -> tuple[object, ...]:
    return entry.attribute, entry.pname, entry.version, entry.description, entry.served
