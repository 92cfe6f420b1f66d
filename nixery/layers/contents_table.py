"""
Read the table of contents of a ``zstd:chunked`` layer, as :mod:`nixery.layers.chunk_tables` writes
it.

A table may list hundreds of thousands of files, so it is decompressed and parsed piece by piece.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from attrs import frozen
from zstandard import ZstdDecompressor, ZstdError

from nixery.image.manifests import digest_of
from nixery.layers.chunk_tables import MAX_TABLE_BYTES
from nixery.layers.chunked_stream import ANNOTATION_PREFIX

__all__ = ["ListedChunk", "ListedFile", "TablePlaces", "find_tables", "read_files"]

_START = '{"version":1,"entries":['
PIECE_BYTES = 1 << 16
"""Bytes of a table that are decompressed at a time."""

_MAX_ENTRY_CHARACTERS = 1 << 20
"""Longer than any entry: names and targets of links have at most 4,096 bytes."""


@frozen(kw_only=True)
class TablePlaces:
    """
    The places of a layer's tables, as its annotations tell them.

    :param start: the offset of the table of contents in the blob.
    :param stop: the offset after it.
    :param uncompressed_size: of the table of contents, in bytes.
    :param digest: of its compressed bytes.
    :param size: the compressed size of both tables, which clients fetch, in bytes.
    """

    start: int
    stop: int
    uncompressed_size: int
    digest: str
    size: int


@frozen(kw_only=True)
class ListedChunk:
    """
    A chunk of a file.

    :param key: stands for its digest.
    :param start: the offset of its frame in the blob.
    :param stop: the offset after it.
    """

    key: int
    start: int
    stop: int


@frozen(kw_only=True)
class ListedFile:
    """
    A file that is not empty.

    :param key: stands for its digest: the first 64 bits, which take a tenth of the memory.
    :param chunks: its chunks, in order; at least one.
    """

    key: int
    chunks: tuple[ListedChunk, ...]


def find_tables(annotations: Mapping[str, str], layer_size: int) -> TablePlaces | None:
    """
    Return the places of a layer's tables; ``None`` if it has none.

    :param annotations: those of its descriptor.
    :param layer_size: the size of the blob, in bytes.
    :raises ValueError: the annotations are damaged.
    """
    digest = annotations.get(f"{ANNOTATION_PREFIX}manifest-checksum")
    if digest is None:
        return None
    try:
        start, size, uncompressed_size, _ = _numbers(annotations, "manifest-position")
        _, tar_split_size, _ = _numbers(annotations, "tarsplit-position")
    except KeyError as error:
        raise ValueError(f"there is no annotation {error}") from error
    if not 0 < start < start + size <= layer_size or uncompressed_size > MAX_TABLE_BYTES:
        raise ValueError("the table of contents cannot be where its annotation says")
    return TablePlaces(
        start=start,
        stop=start + size,
        uncompressed_size=uncompressed_size,
        digest=digest,
        size=size + tar_split_size,
    )


def read_files(table: bytes, places: TablePlaces) -> Iterator[ListedFile]:
    """
    Read the files of a table of contents, in the order of their places in the blob.

    :param table: its compressed bytes.
    :raises ValueError: it is damaged.
    """
    if digest_of(table) != places.digest:
        raise ValueError("the table of contents has another digest")
    try:
        yield from _group(_read_entries(table, places.uncompressed_size))
    except (KeyError, TypeError, RecursionError, ZstdError) as error:
        raise ValueError(f"the table of contents is damaged: {error}") from error


def _numbers(annotations: Mapping[str, str], name: str) -> list[int]:
    return [int(each) for each in annotations[ANNOTATION_PREFIX + name].split(":")]


def _read_entries(table: bytes, size: int) -> Iterator[Mapping[str, Any]]:
    """Yield the entries; at most a piece and an entry are in memory."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    source = ZstdDecompressor().stream_reader(io.BytesIO(table))
    parse = json.JSONDecoder().raw_decode
    text, position, taken = "", 0, 0
    started = False
    while True:
        piece = source.read(PIECE_BYTES)
        taken += len(piece)
        text, position = text[position:] + decode(piece, final=not piece), 0
        if not started:
            if len(text) < len(_START) and piece:
                continue
            if not text.startswith(_START):
                raise ValueError("the table of contents has another beginning")
            started, position = True, len(_START)
        while text[position : position + 1] != "]":
            # The comma behind an entry may be in the next piece.
            position += text.startswith(",", position)
            try:
                entry, position = parse(text, position)
            except json.JSONDecodeError:
                break
            yield entry
        else:
            return
        if not piece or taken > size or len(text) - position > _MAX_ENTRY_CHARACTERS:
            raise ValueError("the table of contents has no end")


def _group(entries: Iterable[Mapping[str, Any]]) -> Iterator[ListedFile]:
    """Yield the files: an entry has the first chunk, and those after it the others."""
    parts: list[Mapping[str, Any]] = []
    for entry in chain(entries, ({"type": "end"},)):
        if entry["type"] == "chunk":
            if not parts:
                raise ValueError("the table of contents has a chunk of no file")
            parts.append(entry)
            continue
        if parts:
            yield _file(parts)
        parts = [entry] if "digest" in entry else []


def _file(parts: list[Mapping[str, Any]]) -> ListedFile:
    ends = [*(part["offset"] for part in parts[1:]), parts[0]["endOffset"]]
    if not all(0 < part["offset"] < end for part, end in zip(parts, ends, strict=True)):
        raise ValueError("the table of contents has a chunk without a place")
    return ListedFile(
        key=_key(parts[0]["digest"]),
        chunks=tuple(
            ListedChunk(
                key=_key(part.get("chunkDigest", part.get("digest"))),
                start=part["offset"],
                stop=end,
            )
            for part, end in zip(parts, ends, strict=True)
        ),
    )


def _key(digest: str) -> int:
    return int(digest[7:23], 16)
