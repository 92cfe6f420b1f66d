"""
Decompresses small downloads of any supported format.

The format is recognized by the first bytes of a file; names and headers of web servers are
often wrong.  Compressed data of some kilobytes can expand to gigabytes, so the size of the
output is limited too.
"""

from __future__ import annotations

import lzma
import zlib
from typing import Protocol

from nixery.errors import UnexpectedOutput

__all__ = ["decompress"]

_GZIP = b"\x1f\x8b"
_XZ = b"\xfd7zXZ\x00"

_XZ_MEMORY_LIMIT = 256 * 1024**2
"""Memory limit of the decompressor in bytes: ``xz -9`` needs 65 MiB."""

_GZIP_WBITS = 16 + zlib.MAX_WBITS


class _Decompressor(Protocol):
    """The common interface of the standard library's decompressors of one stream."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def decompress(data: bytes, limit: int) -> bytes:
    """
    Decompress data that are compressed with gzip or xz, or not at all.

    Blocks, for as long as decompression takes.

    :param limit: maximum size of the output in bytes.
    :raises UnexpectedOutput: there are more, or the data are cut short or damaged.
    """
    if data.startswith(_GZIP):
        kind, make_decompressor = "gzip", _gzip
    elif data.startswith(_XZ):
        kind, make_decompressor = "xz", _xz
    elif len(data) > limit:
        raise _invalid(f"more than {limit} bytes", data)
    else:
        return data
    chunks: list[bytes] = []
    remaining = data
    # Both formats allow concatenated streams, and xz pads them with zeros.
    while remaining.rstrip(b"\x00"):
        decompressor = make_decompressor()
        try:
            chunks.append(decompressor.decompress(remaining, limit + 1))
        except (zlib.error, lzma.LZMAError, EOFError) as error:
            raise _invalid(f"not {kind} as it should be: {error}", data) from error
        limit -= len(chunks[-1])
        if limit < 0:
            raise _invalid(f"{kind}, too large when unpacked", data)
        if not decompressor.eof:
            raise _invalid(f"{kind}, cut short", data)
        remaining = decompressor.unused_data
    return b"".join(chunks)


def _gzip() -> _Decompressor:
    return zlib.decompressobj(_GZIP_WBITS)


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_LIMIT)


def _invalid(reason: str, data: bytes) -> UnexpectedOutput:
    return UnexpectedOutput(what=f"the data ({reason})", excerpt=repr(data[:20]))
