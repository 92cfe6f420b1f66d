"""
Write the two tables of a ``zstd:chunked`` layer, by which clients fetch single files of it.

The *table of contents* tells which frames of the blob have the contents of which file.  *tar-split*
has all of the archive that is not a file's content, so that a client which has the files makes the
archive anew, and checks its digest.

Formats: the table of contents as containers/storage reads it
(``pkg/chunked/internal/minimal/compression.go``); tar-split of github.com/vbatts/tar-split
(``tar/storage/entry.go``).  Both are written as they grow, and only their compressed bytes are held
in memory: some 80 for each entry.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence

from attrs import frozen
from zstandard import ZstdCompressor

from nixery.image.manifests import digest_of
from nixery.image.names import Digest

__all__ = ["Chunk", "ChunkTables", "Content", "Table"]

MAX_TABLE_BYTES = 150 * 1024 * 1024
"""The largest table that clients read, in bytes; they fetch the whole layer if it is larger."""

_MODIFIED = "1970-01-01T00:00:01Z"


@frozen(kw_only=True)
class Chunk:
    """
    A part of a file, which is one frame of the blob.

    :param size: of the part, in bytes.
    :param digest: of the part.
    :param start: the offset of the frame in the blob.
    :param stop: the offset after it.
    """

    size: int
    digest: Digest
    start: int
    stop: int


@frozen(kw_only=True)
class Content:
    """
    The content of a file that is not empty.

    :param digest: of all of it.
    :param crc: its CRC-64, variant GO-ISO.
    :param chunks: its parts, in order; at least one.
    """

    digest: Digest
    crc: int
    chunks: Sequence[Chunk]


@frozen(kw_only=True)
class Table:
    """
    A finished table.

    :param data: its compressed bytes.
    :param digest: of ``data``.
    :param uncompressed_size: its size in bytes.
    """

    data: bytes
    digest: Digest
    uncompressed_size: int

    @property
    def is_readable(self) -> bool:
        """True if clients read a table of this size."""
        return max(self.uncompressed_size, len(self.data)) <= MAX_TABLE_BYTES


class ChunkTables:
    """
    The tables of a layer that is being written.

    :param level: of zstd.
    """

    def __init__(self, level: int) -> None:
        self._contents = _TableWriter(level)
        self._contents.write('{"version":1,"entries":[')
        self._separator = ""
        self._tar_split = _TableWriter(level)
        self._position = 0

    def add(
        self,
        raw: bytes,
        fields: Mapping[str, object],
        size: int = 0,
        content: Content | None = None,
    ) -> None:
        """
        Add an entry of the archive.

        :param raw: the bytes of the archive between the content before this entry and its own.
        :param fields: its ``type``, ``name`` and what else its header says.
        :param size: of its content, in bytes.
        :param content: its content, unless it is empty.
        """
        for entry in _entries({**fields, "modtime": _MODIFIED}, size, content):
            self._contents.write(self._separator + _json(entry))
            self._separator = ","
        self._add_segment(raw)
        self._add_to_tar_split(
            {
                "type": 1,
                "name": fields["name"],
                **({} if content is None else {"size": size}),
                "payload": None if content is None else _base64(content.crc.to_bytes(8, "big")),
            }
        )

    def finish(self, raw: bytes) -> tuple[Table, Table]:
        """
        Finish the tables.

        :param raw: the bytes of the archive after the last entry.
        :return: the table of contents, and tar-split.
        """
        self._add_segment(raw)
        tar_split = self._tar_split.finish()
        self._contents.write(f'],"tarSplitDigest":"{tar_split.digest}"}}')
        return self._contents.finish(), tar_split

    def _add_segment(self, raw: bytes) -> None:
        self._add_to_tar_split({"type": 2, "payload": _base64(raw)})

    def _add_to_tar_split(self, entry: Mapping[str, object]) -> None:
        self._tar_split.write(_json({**entry, "position": self._position}) + "\n")
        self._position += 1


class _TableWriter:
    """Compresses a table as it grows."""

    def __init__(self, level: int) -> None:
        self._compressor = ZstdCompressor(level=level).compressobj()
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, text: str) -> None:
        data = text.encode()
        self._size += len(data)
        self._keep(self._compressor.compress(data))

    def finish(self) -> Table:
        self._keep(self._compressor.flush())
        data = b"".join(self._parts)
        return Table(data=data, digest=digest_of(data), uncompressed_size=self._size)

    def _keep(self, part: bytes) -> None:
        if part:
            self._parts.append(part)


def _entries(
    fields: Mapping[str, object], size: int, content: Content | None
) -> Sequence[Mapping[str, object]]:
    """Return the entries of a file, directory or link: one more for each further chunk."""
    if content is None:
        return [fields]
    first, *others = content.chunks
    entry = {
        **fields,
        "size": size,
        "digest": content.digest,
        "offset": first.start,
        "endOffset": content.chunks[-1].stop,
    }
    if not others:
        return [entry]
    entries = [{**entry, "chunkSize": first.size, "chunkDigest": first.digest}]
    offset = first.size
    for chunk in others:
        entries.append(
            {
                "type": "chunk",
                "name": fields["name"],
                "offset": chunk.start,
                "chunkOffset": offset,
                "chunkSize": chunk.size,
                "chunkDigest": chunk.digest,
            }
        )
        offset += chunk.size
    return entries


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")
