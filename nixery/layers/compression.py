"""
Make a layer from the bytes of an archive: hash, compress, hash again and write in one pass.

A layer has two identities, the digest of the compressed bytes that are stored and sent, and
the diff ID of the uncompressed archive.  Both are computed in the same pass over the same
bytes, and that pass is bound by the hardware: ISA-L deflates at ten times the speed of
zlib, zstd is nearly as fast, SHA-256 uses the processor's own instructions, and
all of them release the interpreter lock, so that several layers are packed at once.

The two hashes have no threads of their own, because there are as many packing
threads as processors already, and a piece that stays on its processor is still
in its cache when it is hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Protocol

from attrs import field, frozen
from isal import isal_zlib
from zstandard import ZstdCompressor

from nixery.errors import ShuttingDown
from nixery.image.names import Digest
from nixery.layers import ustar
from nixery.layers.compression_levels import Compression

__all__ = ["PIECE_BYTES", "Compression", "LayerStream", "PackedLayer"]

PIECE_BYTES = 1 << 18
"""
The number of bytes that the compressor is fed at a time, except for the last piece of a
layer.  All pieces are full and of one size: the output of a compressor may depend on how
its input is divided, and ISA-L's does.  This size still fits a processor's own cache,
and is large enough for the interpreter's cost per piece to be negligible: 64 KiB and
1 MiB are both some percent slower.  Changing it changes the digests of all layers.
"""

_GZIP_WINDOW = 31  # the largest window, with gzip's header and trailer


@frozen(kw_only=True)
class PackedLayer:
    """
    A layer as it was written.

    :param digest: of the compressed bytes.
    :param size: their number.
    :param diff_id: the digest of the uncompressed archive.
    :param uncompressed_size: its size in bytes.
    :param annotations: those that its descriptors need.
    """

    digest: Digest
    size: int
    diff_id: Digest
    uncompressed_size: int
    annotations: Mapping[str, str] = field(factory=dict, hash=False)


class LayerStream:
    """
    Takes the bytes of an archive, writes the layer, and computes its digests and sizes.

    Holds one piece of input and the compressor's output for it: memory does not
    depend on the layer's size.  Belongs to one thread.

    :param write: takes the compressed bytes, some ten or hundred KiB at a time;
        its exceptions are passed on, and nothing more is written after one.
    :param should_stop: called before each piece.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        compression: Compression,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        self._write = write
        self._should_stop = should_stop
        self._buffer = memoryview(bytearray(PIECE_BYTES))
        self._filled = 0
        self._compressor = _make_compressor(compression)
        self._diff_id = hashlib.sha256()
        # The two digests of an uncompressed layer are equal: it is hashed once.
        self._digest = self._diff_id if compression.kind == "none" else hashlib.sha256()
        self._size = 0
        self._uncompressed_size = 0

    def add_header(
        self, name: bytes, *, kind: bytes, mode: int, size: int = 0, target: bytes = b""
    ) -> None:
        """
        Append the header of an entry; a file's content follows, unless it is empty.

        The parameters are those of :func:`nixery.layers.ustar.header`.

        :raises ShuttingDown: ``should_stop`` said so.
        """
        self.append(ustar.header(name, kind=kind, mode=mode, size=size, target=target))

    def end_content(self, size: int) -> None:
        """
        Append what follows the content of a file of ``size`` bytes.

        :raises ShuttingDown: ``should_stop`` said so.
        """
        self.append(ustar.padding(size))

    def end_archive(self) -> None:
        """
        Append what follows the last entry.

        :raises ShuttingDown: ``should_stop`` said so.
        """
        self.append(ustar.END)

    def append(self, data: bytes) -> None:
        """
        Take ``data``, which is copied: for headers and other small things.

        :raises ShuttingDown: ``should_stop`` said so.
        """
        end = self._filled + len(data)
        if end < PIECE_BYTES:
            self._buffer[self._filled : end] = data
            self._filled = end
            return
        rest = memoryview(data)
        while rest:
            count = min(len(rest), PIECE_BYTES - self._filled)
            self.free_buffer()[:count] = rest[:count]
            self.advance(count)
            rest = rest[count:]

    def free_buffer(self) -> memoryview:
        """
        Return the free part of the buffer, at least one byte, to read the next bytes into.

        Bytes in it become part of the archive only when :meth:`advance` is called.
        """
        return self._buffer[self._filled :]

    def advance(self, count: int) -> None:
        """
        Take the first ``count`` bytes of :meth:`free_buffer`.

        :raises ShuttingDown: ``should_stop`` said so.
        """
        self._filled += count
        if self._filled == PIECE_BYTES:
            self._compress_buffer()

    def finish(self) -> PackedLayer:
        """
        Compress what is left and end the layer.

        :raises ShuttingDown: ``should_stop`` said so.
        """
        if self._filled:
            self._compress_buffer()
        self._write_compressed(self._compressor.flush())
        return PackedLayer(
            digest=Digest(f"sha256:{self._digest.hexdigest()}"),
            size=self._size,
            diff_id=Digest(f"sha256:{self._diff_id.hexdigest()}"),
            uncompressed_size=self._uncompressed_size,
        )

    def _compress_buffer(self) -> None:
        if self._should_stop is not None and self._should_stop():
            raise ShuttingDown
        piece = self._buffer[: self._filled]
        self._diff_id.update(piece)
        self._uncompressed_size += self._filled
        self._filled = 0
        self._write_compressed(self._compressor.compress(piece))

    def _write_compressed(self, data: bytes) -> None:
        if data:
            if self._digest is not self._diff_id:
                self._digest.update(data)
            self._size += len(data)
            self._write(data)


class _Compressor(Protocol):
    """The interface of the compressors."""

    def compress(self, data: memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _FrameCompressor:
    """Compresses each piece to a frame of its own."""

    def __init__(self, level: int) -> None:
        self._compressor = ZstdCompressor(level=level)

    def compress(self, data: memoryview, /) -> bytes:
        return self._compressor.compress(data)

    def flush(self) -> bytes:
        return b""


class _NullCompressor:
    """Compresses nothing."""

    def compress(self, data: memoryview, /) -> bytes:
        # The buffer is overwritten by the next piece, and the sink may keep what it gets.
        return bytes(data)

    def flush(self) -> bytes:
        return b""


def _make_compressor(compression: Compression) -> _Compressor:
    if compression.kind == "none":
        return _NullCompressor()
    if compression.kind == "zstd-chunked":
        return _FrameCompressor(compression.level)
    if compression.kind == "zstd":
        # The frame's header is fixed, too: it has no size, which is not known yet.
        return ZstdCompressor(level=compression.level).compressobj()
    # The header that this writes is fixed: no name, no time, system 255.
    deflater: _Compressor = isal_zlib.compressobj(
        compression.level, isal_zlib.DEFLATED, _GZIP_WINDOW
    )
    return deflater
