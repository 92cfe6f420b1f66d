"""
Find the faults that images had before links were followed in the image alone.

Until then, names that delete other files were packed; links were followed on the machine that
made the image; and links that lead nowhere could take the place of what an image needs.  Few
images are concerned, and those that are not keep their digests.  Their packages may have been
collected long ago, so whether an image is concerned is told from its layers: their names and
links are all that is needed.

In doubt an image is said to be concerned.  If it is not, making it again gives the same digest.

Blocking.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

from zstandard import ZstdDecompressor, ZstdError

from nixery.layers.link_resolver import Kind, follow
from nixery.layers.rootfs import RULES
from nixery.layers.tarball import WHITEOUT_PREFIX, printable

__all__ = ["Entries", "find_faults", "read_entries"]

Entries = Mapping[bytes, Kind | bytes]
"""The kind of each entry of an archive by its path, or the target if it is a symlink."""

_STORE = b"nix/store/"
_NEEDED_FILES = (b"etc/group", b"etc/nsswitch.conf", b"etc/passwd")
_NEEDED_DIRECTORIES = (b"root", b"tmp", b"var/empty")


def read_entries(layer: IO[bytes], compression: str) -> Entries:
    """
    Read the names and links of a layer.

    :param layer: positioned at its first byte.
    :param compression: the suffix of its media type: ``gzip``, ``zstd``, or anything else for
        none.
    :raises ValueError: it is no archive, or is cut short.
    """
    source: IO[bytes] = layer
    if compression == "zstd":
        source = ZstdDecompressor().stream_reader(layer, read_across_frames=True)
    found: dict[bytes, Kind | bytes] = {}
    try:
        with tarfile.open(
            fileobj=source,
            mode="r|gz" if compression == "gzip" else "r|",
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            for member in archive:
                name = member.name.encode("utf-8", "surrogateescape")
                if member.issym():
                    found[name] = member.linkname.encode("utf-8", "surrogateescape")
                else:
                    found[name] = Kind.DIRECTORY if member.isdir() else Kind.FILE
                # The module keeps about a kilobyte for each entry until the end.
                archive.members.clear()  # type: ignore[attr-defined]  # typeshed lacks it
    except (tarfile.TarError, OSError, EOFError, zlib.error, ZstdError) as error:
        raise ValueError(f"no archive: {error}") from error
    return found


def find_faults(entries: Entries) -> Iterator[str]:
    """
    Yield the faults that an image may have, as clauses.

    :param entries: those of all of its layers.
    """
    for path in entries:
        if path.rpartition(b"/")[2].startswith(WHITEOUT_PREFIX):
            yield f"{printable(path)} deletes another file"
    roots = {path: entry for path, entry in entries.items() if not path.startswith(b"nix/")}
    for path, entry in roots.items():
        if isinstance(entry, bytes) and entry[1:] not in entries and path not in RULES.files:
            yield f"/{printable(path)} leads to a file that is not in the image"
        if path in RULES.files and entry is Kind.DIRECTORY:
            yield f"/{printable(path)} has to be a file"
    yield from _misplaced_links(entries, roots)
    yield from _missing_entries(entries)


def _misplaced_links(entries: Entries, roots: Entries) -> Iterator[str]:
    """Yield the packages' links that lead nowhere, or out of the store, and may do harm."""
    outputs = {
        entry[1:].split(b"/")[2]
        for entry in roots.values()
        if isinstance(entry, bytes) and entry.startswith(b"/" + _STORE)
    }
    for source, entry in entries.items():
        if not isinstance(entry, bytes) or not source.startswith(_STORE):
            continue
        output, _, path = source[len(_STORE) :].partition(b"/")
        if output not in outputs or not path or path.split(b"/")[0] in RULES.ignored:
            continue
        place = follow(b"/" + source, lambda parts: _in_store(entries, parts))
        if place.kind in (Kind.FILE, Kind.DIRECTORY) and place.path.startswith(b"/" + _STORE):
            continue
        if (
            place.contains(b"/" + path)
            or path in RULES.directories | RULES.files
            or roots.get(path) != b"/" + source
            or any(_STORE + each + b"/" + path in entries for each in outputs - {output})
        ):
            yield f"{printable(source)} leads to {printable(place.path)}"


def _missing_entries(entries: Entries) -> Iterator[str]:
    """Yield what every image has, and this one has not."""

    def kind(path: bytes) -> Kind:
        return follow(b"/" + path, lambda parts: _anywhere(entries, parts)).kind

    for path in _NEEDED_DIRECTORIES:
        if entries.get(path) is not Kind.DIRECTORY:
            yield f"/{printable(path)} is no directory"
    for path in _NEEDED_FILES:
        if kind(path) is not Kind.FILE:
            yield f"/{printable(path)} is no file"
    for needed, path in ((b"bin/bash", b"bin/sh"), (b"bin/env", b"usr/bin/env")):
        if kind(needed) is Kind.FILE and kind(path) is not Kind.FILE:
            yield f"/{printable(path)} is no file"


def _in_store(entries: Entries, parts: Sequence[bytes]) -> Kind | bytes:
    if parts[0] != b"nix":
        return Kind.UNKNOWN
    return entries.get(b"/".join(parts), Kind.MISSING)


def _anywhere(entries: Entries, parts: Sequence[bytes]) -> Kind | bytes:
    return entries.get(b"/".join(parts), Kind.MISSING)
