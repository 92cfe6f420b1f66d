"""Tests for :mod:`nixery.layers.compression`."""

from __future__ import annotations

import gzip
import hashlib
import random
import shutil
import subprocess
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import ShuttingDown
from nixery.layers.compression import PIECE_BYTES, LayerStream, PackedLayer
from nixery.layers.compression_levels import LEVELS, Compression
from tests.support.trees import expanded

NOISE = random.Random(1).randbytes(3 * PIECE_BYTES)

GZIP = Compression()
ZSTD = Compression(kind="zstd")
NONE = Compression(kind="none")
KINDS = (GZIP, ZSTD, NONE)


def stream(chunks: list[bytes], compression: Compression = GZIP) -> tuple[bytes, PackedLayer]:
    """The compressed bytes of chunks, and what is said of them."""
    written: list[bytes] = []
    layer = LayerStream(written.append, compression)
    for chunk in chunks:
        layer.append(chunk)
    packed = layer.finish()
    return b"".join(written), packed


def unzstd(data: bytes) -> bytes:
    """Decompress data with zstd's own program, where it is installed."""
    if shutil.which("zstd") is None:
        return expanded(data)
    return subprocess.run(
        ["zstd", "--decompress", "--stdout"], input=data, capture_output=True, check=True
    ).stdout


class LayerStreamTests(SynchronousTestCase):
    """Bytes become a compressed stream and two digests."""

    def test_standard_library_reads_the_output_as_gzip(self) -> None:
        """The standard library reads the output as gzip; digests and sizes are right."""
        for length in (0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES):
            for level in (0, 1, 2, 3):
                data = NOISE[: length // 2] + bytes(length - length // 2)
                written, packed = stream([data], Compression(level=level))
                self.assertEqual(gzip.decompress(written), data)
                self.assertEqual(zlib.decompress(written, 31), data)
                self.assert_true(packed, written, data)

    def test_program_zstd_reads_the_output_at_every_level(self) -> None:
        """The program ``zstd`` reads the output at every level; digests are right."""
        data = NOISE[:PIECE_BYTES] + bytes(PIECE_BYTES) + b"the same again\n" * 9000
        for level in LEVELS["zstd"]:
            written, packed = stream([data], Compression(kind="zstd", level=level))
            self.assertEqual(unzstd(written), data)
            self.assert_true(packed, written, data)
            self.assertLess(packed.size, PIECE_BYTES + 2000)
        for length in (0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1):
            written, packed = stream([NOISE[:length]], ZSTD)
            self.assertEqual(unzstd(written), NOISE[:length])
            self.assert_true(packed, written, NOISE[:length])

    def test_uncompressed_layer_is_written_as_it_is_and_has_one_digest(self) -> None:
        """An uncompressed layer is written as it is, and has one digest."""
        for length in (0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES):
            written, packed = stream([NOISE[:length]], NONE)
            self.assertEqual(written, NOISE[:length])
            self.assert_true(packed, written, written)
            self.assertEqual(packed.digest, packed.diff_id)

    def assert_true(self, packed: PackedLayer, written: bytes, data: bytes) -> None:
        """Digests and sizes are those of the bytes."""
        self.assertEqual(packed.digest, "sha256:" + hashlib.sha256(written).hexdigest())
        self.assertEqual(packed.diff_id, "sha256:" + hashlib.sha256(data).hexdigest())
        self.assertEqual(packed.size, len(written))
        self.assertEqual(packed.uncompressed_size, len(data))

    def test_gzip_header_holds_no_time_and_no_name(self) -> None:
        """The gzip header holds no time and no name."""
        written, _ = stream([b"hello"])
        self.assertEqual(written[:10].hex(), "1f8b08000000000000ff")

    def test_one_after_the_other(self) -> None:
        """Nothing of one layer is left in the next one, nor of one level in another."""
        for compression in KINDS:
            first = stream([NOISE], compression)
            stream([bytes(PIECE_BYTES)], Compression(kind="zstd", level=19))
            self.assertEqual(stream([NOISE], compression), first)

    @given(st.lists(st.integers(0, PIECE_BYTES + 10), max_size=8))
    @settings(max_examples=30)
    def test_however_the_bytes_come_the_compressor_is_fed_the_same_pieces(
        self, cuts: list[int]
    ) -> None:
        """However the bytes come, the compressor is fed the same pieces."""
        chunks, start = [], 0
        for cut in cuts:
            chunks.append(NOISE[start : start + cut])
            start = min(start + cut, len(NOISE))
        chunks.append(NOISE[start:])
        for compression in KINDS:
            self.assertEqual(stream(chunks, compression), stream([NOISE], compression))

    def test_read_in_place(self) -> None:
        """Data read into the stream's own buffer give the same result as appended data."""
        for compression in KINDS:
            written: list[bytes] = []
            layer = LayerStream(written.append, compression)
            rest = NOISE[: 2 * PIECE_BYTES + 5]
            while rest:
                room = layer.free_buffer()
                count = min(len(room), 100_000, len(rest))
                room[:count] = rest[:count]
                layer.advance(count)
                rest = rest[count:]
            packed = layer.finish()
            self.assertEqual(
                (b"".join(written), packed), stream([NOISE[: 2 * PIECE_BYTES + 5]], compression)
            )

    def test_size_of_single_write_is_bounded_even_for_data_that_do_not_compress(self) -> None:
        """The size of a single write is bounded, even for data that do not compress."""
        for compression in KINDS:
            pieces: list[bytes] = []
            layer = LayerStream(pieces.append, compression)
            layer.append(NOISE)
            layer.finish()
            self.assertLess(max(map(len, pieces)), 2 * PIECE_BYTES)

    def test_stopped_stream_raises_at_the_next_piece(self) -> None:
        """A stream that is told to stop raises at the next piece and writes nothing more."""
        written: list[bytes] = []
        layer = LayerStream(written.append, Compression(), lambda: True)
        self.assertRaises(ShuttingDown, layer.append, NOISE)
        self.assertEqual(written, [])

    def test_exception_of_the_sink_passes_through_as_it_is(self) -> None:
        """An exception of the sink passes through as it is."""

        def fail(data: bytes) -> None:
            raise OSError("disk on fire")

        layer = LayerStream(fail, Compression())
        error = self.assertRaises(OSError, layer.append, NOISE)
        self.assertEqual(str(error), "disk on fire")
