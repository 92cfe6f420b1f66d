"""Tests for :mod:`nixery.packing.compression`."""

from __future__ import annotations

import gzip
import hashlib
import random
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import ShuttingDown
from nixery.packing.compression import PIECE, Compression, LayerStream, PackedLayer

NOISE = random.Random(1).randbytes(3 * PIECE)


def stream(chunks: list[bytes], level: int = 1) -> tuple[bytes, PackedLayer]:
    """The compressed bytes of chunks, and what is said of them."""
    written: list[bytes] = []
    layer = LayerStream(written.append, Compression(level=level))
    for chunk in chunks:
        layer.append(chunk)
    packed = layer.finish()
    return b"".join(written), packed


class LayerStreamTests(SynchronousTestCase):
    """Bytes become a gzip stream and two digests."""

    def test_readable(self) -> None:
        """What is written is gzip to the standard library; digests and sizes are right."""
        for length in (0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE):
            for level in (0, 1, 2, 3):
                data = NOISE[: length // 2] + bytes(length - length // 2)
                written, packed = stream([data], level=level)
                self.assertEqual(gzip.decompress(written), data)
                self.assertEqual(zlib.decompress(written, 31), data)
                self.assertEqual(packed.digest, "sha256:" + hashlib.sha256(written).hexdigest())
                self.assertEqual(packed.diff_id, "sha256:" + hashlib.sha256(data).hexdigest())
                self.assertEqual(packed.size, len(written))
                self.assertEqual(packed.uncompressed_size, length)

    def test_fixed_header(self) -> None:
        """The gzip header holds no time and no name."""
        written, _ = stream([b"hello"])
        self.assertEqual(written[:10].hex(), "1f8b08000000000000ff")

    @given(st.lists(st.integers(0, PIECE + 10), max_size=8))
    @settings(deadline=None, max_examples=30)
    def test_cuts(self, cuts: list[int]) -> None:
        """However the bytes come, the compressor is fed the same pieces."""
        chunks, start = [], 0
        for cut in cuts:
            chunks.append(NOISE[start : start + cut])
            start = min(start + cut, len(NOISE))
        chunks.append(NOISE[start:])
        self.assertEqual(stream(chunks), stream([NOISE]))

    def test_read_in_place(self) -> None:
        """What is read into the stream's own room is the same as what is appended."""
        written: list[bytes] = []
        layer = LayerStream(written.append, Compression())
        rest = NOISE[: PIECE + 5]
        while rest:
            room = layer.room()
            count = min(len(room), 100_000, len(rest))
            room[:count] = rest[:count]
            layer.advance(count)
            rest = rest[count:]
        packed = layer.finish()
        self.assertEqual((b"".join(written), packed), stream([NOISE[: PIECE + 5]]))

    def test_bounded_writes(self) -> None:
        """What is handed on at once is bounded, even for what does not compress."""
        sizes: list[int] = []
        layer = LayerStream(lambda data: sizes.append(len(data)), Compression())
        layer.append(NOISE)
        layer.finish()
        self.assertLess(max(sizes), 2 * PIECE)

    def test_stop(self) -> None:
        """When told to stop, it raises at the next piece and writes nothing more."""
        written: list[bytes] = []
        layer = LayerStream(written.append, Compression(), lambda: True)
        self.assertRaises(ShuttingDown, layer.append, NOISE)
        self.assertEqual(written, [])

    def test_write_fails(self) -> None:
        """What the sink raises passes through as it is."""

        def fail(data: bytes) -> None:
            raise OSError("disk on fire")

        layer = LayerStream(fail, Compression())
        error = self.assertRaises(OSError, layer.append, NOISE)
        self.assertEqual(str(error), "disk on fire")


class CompressionTests(SynchronousTestCase):
    """The setting."""

    def test_label(self) -> None:
        """The label tells kinds and levels apart."""
        self.assertEqual(Compression().label, "gzip-1")
        self.assertEqual(Compression(level=3).label, "gzip-3")

    def test_refused(self) -> None:
        """Kinds and levels that do not exist are refused."""
        self.assertRaises(ValueError, Compression, kind="lzma")
        self.assertRaises(ValueError, Compression, level=4)
        self.assertRaises(ValueError, Compression, level=-1)
