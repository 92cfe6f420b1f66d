"""
Make a ``zstd:chunked`` layer, of which clients may fetch single files and chunks of files.

The blob is an ordinary zstd stream of frames, which all clients of zstd layers unpack::

    F0 D1 F1 D2 ... Fn | table of contents | tar-split | footer

A D is a chunk of a file's content: the frames of a file begin and end with its content.  An F is
what lies between contents in the archive: headers and padding.  The last three are skippable
frames (RFC 8878, section 3.1.2); annotations of the layer's descriptor say where the tables are.

Format: ``docs/containers-storage-zstd-chunked.md`` and ``pkg/chunked`` of containers/storage.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

from attrs import evolve
from fastcrc import crc64

from nixery.image.manifests import digest_of
from nixery.image.names import Digest
from nixery.layers import ustar
from nixery.layers.chunk_tables import Chunk, ChunkTables, Content, Table
from nixery.layers.compression import LayerStream, PackedLayer
from nixery.layers.compression_levels import Compression

__all__ = ["ANNOTATION_PREFIX", "ChunkedStream"]

ANNOTATION_PREFIX = "io.github.containers.zstd-chunked."
"""The beginning of the names of a layer's annotations."""

_TABLE_FORMAT = 1
_SKIPPABLE = bytes.fromhex("502a4d18")
_FOOTER_MAGIC = b"GNUlInUx"

_TYPES = {ustar.DIRECTORY: "dir", ustar.FILE: "reg", ustar.SYMLINK: "symlink"}


class ChunkedStream(LayerStream):
    """
    A :class:`~nixery.layers.compression.LayerStream` whose frames end where contents do.

    A name that is not UTF-8 cannot be told in the tables: such a layer has none, and clients fetch
    all of it.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        compression: Compression,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(write, compression, should_stop)
        self._tables: ChunkTables | None = ChunkTables(compression.level)
        # What the archive has had since the last content or entry.
        self._raw = b""
        self._file: tuple[bytes, dict[str, object]] | None = None
        self._content: _ContentHashes | None = None
        self._annotations: dict[str, str] = {}

    def add_header(
        self, name: bytes, *, kind: bytes, mode: int, size: int = 0, target: bytes = b""
    ) -> None:
        header = ustar.header(name, kind=kind, mode=mode, size=size, target=target)
        self.append(header)
        raw, self._raw = self._raw + header, b""
        fields = self._fields(name, kind, mode, target)
        if size:
            self._end_frame()
            self._file = raw, fields
            self._content = _ContentHashes()
        elif self._tables is not None:
            self._tables.add(raw, fields)

    def end_content(self, size: int) -> None:
        if self._file is not None and self._content is not None:
            self._end_frame()
            (raw, fields), self._file = self._file, None
            content, self._content = self._content, None
            if self._tables is not None:
                self._tables.add(raw, fields, size, content.finish())
        self._raw = ustar.padding(size)
        super().end_content(size)

    def end_archive(self) -> None:
        super().end_archive()
        self._end_frame()
        if self._tables is not None:
            contents, tar_split = self._tables.finish(self._raw + ustar.END)
            if contents.is_readable and tar_split.is_readable:
                self._annotations = self._write_tables(contents, tar_split)

    def finish(self) -> PackedLayer:
        return evolve(super().finish(), annotations=self._annotations)

    def _fields(self, name: bytes, kind: bytes, mode: int, target: bytes) -> dict[str, object]:
        """Return an entry of the table of contents, without its content; drop tables if need be."""
        try:
            fields = {"type": _TYPES[kind], "name": name.decode(), "mode": mode}
            return {**fields, "linkName": target.decode()} if target else fields
        except UnicodeDecodeError:
            self._tables = None
            return {}

    def _compress_buffer(self) -> None:
        piece, start = self._buffer[: self._filled], self._size
        super()._compress_buffer()
        if self._content is not None and self._tables is not None:
            self._content.add(piece, start, self._size)

    def _end_frame(self) -> None:
        if self._filled:
            self._compress_buffer()

    def _write_tables(self, contents: Table, tar_split: Table) -> dict[str, str]:
        """Write the tables and the footer; :return: the annotations that clients need."""
        contents_at = self._write_skippable(contents.data)
        tar_split_at = self._write_skippable(tar_split.data)
        places = (
            *(contents_at, len(contents.data), contents.uncompressed_size, _TABLE_FORMAT),
            *(tar_split_at, len(tar_split.data), tar_split.uncompressed_size),
        )
        self._write_skippable(struct.pack("<7Q", *places) + _FOOTER_MAGIC)
        return {
            f"{ANNOTATION_PREFIX}manifest-checksum": contents.digest,
            f"{ANNOTATION_PREFIX}manifest-position": ":".join(map(str, places[:4])),
            f"{ANNOTATION_PREFIX}tarsplit-position": ":".join(map(str, places[4:])),
        }

    def _write_skippable(self, data: bytes) -> int:
        """Write a frame that decompressors skip; :return: the offset of its data."""
        self._write_compressed(_SKIPPABLE + struct.pack("<I", len(data)))
        offset = self._size
        self._write_compressed(data)
        return offset


class _ContentHashes:
    """Hashes the content of a file and of its chunks."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._crc: int | None = None
        self._chunks: list[Chunk] = []

    def add(self, piece: memoryview, start: int, stop: int) -> None:
        """
        Add a chunk.

        :param start: the offset of its frame in the blob.
        :param stop: the offset after it.
        """
        self._digest.update(piece)
        self._crc = crc64.go_iso(piece, self._crc)
        # Most files have one chunk, which is hashed already.
        digest = digest_of(piece) if self._chunks else _digest(self._digest)
        self._chunks.append(Chunk(size=len(piece), digest=digest, start=start, stop=stop))

    def finish(self) -> Content:
        """Return the hashes of all of it."""
        return Content(digest=_digest(self._digest), crc=self._crc or 0, chunks=self._chunks)


def _digest(hashed: hashlib._Hash) -> Digest:
    """Return the digest of all that was hashed so far."""
    return Digest(f"sha256:{hashed.hexdigest()}")
