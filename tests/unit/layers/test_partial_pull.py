"""Tests for :mod:`nixery.layers.contents_table` and :mod:`nixery.layers.partial_pull`."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zstandard import ZstdCompressor

from nixery.image.manifests import digest_of
from nixery.layers import contents_table
from nixery.layers.compression import PIECE_BYTES, PackedLayer
from nixery.layers.compression_levels import Compression
from nixery.layers.contents_table import (
    ListedChunk,
    ListedFile,
    TablePlaces,
    find_tables,
    read_files,
)
from nixery.layers.partial_pull import MAX_GAP_BYTES, MAX_RANGES, PartialPull, PullCounter
from nixery.layers.tarball import TreeEntry, pack_tree
from nixery.storage.interface import ByteRange
from tests.support.partial_pulls import PartialPuller
from tests.unit.layers.test_chunked_stream import ENTRY, NAME

CHUNKED = Compression(kind="zstd-chunked")


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress."""
    count = -(-size // 32)
    return b"".join(hashlib.sha256(b"%d %d" % (seed, n)).digest() for n in range(count))[:size]


def pack(files: Mapping[str, bytes]) -> tuple[bytes, PackedLayer]:
    written: list[bytes] = []
    entries = [TreeEntry(path=name.encode(), kind="file", data=files[name]) for name in files]
    packed = pack_tree(entries, written.append, compression=CHUNKED)
    return b"".join(written), packed


def places_of(packed: PackedLayer) -> TablePlaces:
    places = find_tables(packed.annotations, packed.size)
    assert places is not None
    return places


def files_of(blob: bytes, packed: PackedLayer) -> list[ListedFile]:
    places = places_of(packed)
    return list(read_files(blob[places.start : places.stop], places))


def partial_pull_of(table: bytes, places: TablePlaces) -> PartialPull:
    counter = PullCounter()
    counter.pull(read_files(table, places), places.size)
    return counter.result()


def partial_pull(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> PartialPull:
    counter = PullCounter()
    counter.hold(files_of(*pack(old)))
    blob, packed = pack(new)
    counter.pull(files_of(blob, packed), places_of(packed).size)
    return counter.result()


class ContentsTableTests(SynchronousTestCase):
    @settings(max_examples=40, deadline=None)
    @given(entries=st.dictionaries(NAME, ENTRY, max_size=8))
    def test_files_of_any_layer_are_read_as_clients_read_them(
        self, entries: dict[str, tuple[str, bytes, bytes]]
    ) -> None:
        """The files and chunks of any layer are those that a client fetches."""
        written: list[bytes] = []
        packed = pack_tree(
            [
                TreeEntry(path=name.encode(), kind=kind, data=data, target=target)
                for name, (kind, data, target) in entries.items()
            ],
            written.append,
            compression=CHUNKED,
        )
        blob = b"".join(written)
        asked: list[list[ByteRange]] = []

        def read(ranges: object) -> list[bytes]:
            assert isinstance(ranges, list)
            asked.append(ranges)
            return [blob[each.start : each.stop] for each in ranges]

        PartialPuller().pull(read, packed.annotations)
        files = files_of(blob, packed)
        # Of equal chunks the client takes the last one.
        chunks = {chunk.key: chunk for file in files for chunk in file.chunks}
        self.assertEqual(
            {(each.start, each.stop) for ranges in asked[1:] for each in ranges},
            {(chunk.start, chunk.stop) for chunk in chunks.values()},
        )
        self.assertEqual(sum(each.stop - each.start for each in asked[0]), places_of(packed).size)

    def test_tables_of_many_pieces_are_read(self) -> None:
        """A table that is larger than a piece of it is read to its end."""
        names = [f"{'x' * 90}/{number:05}" for number in range(3000)]
        blob, packed = pack({name: name.encode() for name in names})
        self.assertEqual(3000, len(files_of(blob, packed)))

    def test_pieces_of_a_table_may_end_anywhere(self) -> None:
        """A table is read alike whatever its pieces are."""
        blob, packed = pack({"ä": noise(PIECE_BYTES + 1), "b": b"b", "c": b""})
        whole = files_of(blob, packed)
        for size in (1, 2, 3, 7, 50):
            self.patch(contents_table, "PIECE_BYTES", size)
            self.assertEqual(whole, files_of(blob, packed))

    @given(st.binary(max_size=200), st.booleans())
    def test_any_table_is_read_or_refused(self, data: bytes, begun: bool) -> None:
        """Any table is read, or is a ValueError."""
        text = (b'{"version":1,"entries":[' if begun else b"") + data
        table = ZstdCompressor().compress(text)
        places = TablePlaces(
            start=1, stop=2, uncompressed_size=len(text), digest=digest_of(table), size=0
        )
        for each in (table, data):
            with contextlib.suppress(ValueError):
                partial_pull_of(each, evolve(places, digest=digest_of(each)))

    def test_entries_that_are_none_are_refused(self) -> None:
        """Entries whose fields have other types are refused, and so are places of nothing."""
        right = {"type": "reg", "digest": "sha256:" + "0" * 64, "offset": 1, "endOffset": 2}
        for wrong in (
            {"offset": "1"},
            {"offset": None},
            {"endOffset": 1},
            {"endOffset": [2]},
            {"digest": 5},
            {"digest": "sha256:xyz"},
            {"type": "chunk"},
        ):
            text = json.dumps(
                {"version": 1, "entries": [{**right, **wrong}]}, separators=(",", ":")
            )
            table = ZstdCompressor().compress(text.encode())
            places = TablePlaces(
                start=1, stop=2, uncompressed_size=len(text), digest=digest_of(table), size=0
            )
            with self.subTest(wrong=wrong), self.assertRaises(ValueError):
                partial_pull_of(table, places)

    def test_layer_without_annotations_has_no_tables(self) -> None:
        """A layer without annotations has no tables."""
        self.assertIsNone(find_tables({}, 100))

    def test_damaged_tables_are_refused(self) -> None:
        """Annotations and tables that cannot be right are refused."""
        blob, packed = pack({"a": b"data"})
        annotations = packed.annotations
        position = next(name for name in annotations if name.endswith("manifest-position"))
        for wrong in ("", "1:2", "x:1:1:1", "-1:1:1:1", f"1:{len(blob)}:1:1", "1:1:999999999:1"):
            with self.assertRaises(ValueError):
                find_tables({**annotations, position: wrong}, packed.size)
        with self.assertRaises(ValueError):
            find_tables({key: annotations[key] for key in annotations if key != position}, 100)
        places = places_of(packed)
        table = blob[places.start : places.stop]
        for text in (
            b"",
            b"[]",
            b'{"version":1,"entries":[',
            b'{"version":1,"entries":[{"type":"reg"},',
            b'{"version":1,"entries":[{}]}',
            b'{"version":1,"entries":[{"type":"reg","digest":"sha256:00"}]}',
            b'{"version":1,"entries":[{"type":"chunk","offset":1}]}',
            b'{"version":1,"entries":[\xff',
            b'{"version":1,"entries":["' + b"x" * 3_000_000,
        ):
            with self.subTest(text=text[:60]):
                data = ZstdCompressor().compress(text)
                wrong_places = evolve(places, digest=digest_of(data), uncompressed_size=len(text))
                with self.assertRaises(ValueError):
                    list(read_files(data, wrong_places))
        with self.assertRaises(ValueError):
            list(read_files(table[:-1], places))
        cut = table[: len(table) // 2]
        with self.assertRaises(ValueError):
            list(read_files(cut, evolve(places, digest=digest_of(cut))))
        with self.assertRaises(ValueError):
            list(read_files(table, evolve(places, uncompressed_size=0, digest=places.digest[:-1])))


class PullCounterTests(SynchronousTestCase):
    def test_nothing_but_tables_is_fetched_of_files_that_are_there(self) -> None:
        """Files are known by their contents, whatever their names and layers are."""
        found = partial_pull({"a": noise(5000), "b": noise(10, 1)}, {"c": noise(5000)})
        self.assertEqual((0, 0, 0, 1), (found.files, found.chunks, found.new_files, 1))
        self.assertEqual(found.tables, found.size)
        self.assertGreater(found.tables, 100)

    def test_changed_file_is_fetched_whole_or_by_its_chunks(self) -> None:
        """With reflinks only the chunk that has changed is fetched."""
        data = noise(4 * PIECE_BYTES)
        changed = data[: PIECE_BYTES + 9] + b"changed" + data[PIECE_BYTES + 16 :]
        found = partial_pull({"a": data}, {"a": changed})
        self.assertGreater(found.files, len(data))
        self.assertLess(found.files, 1.01 * len(data))
        self.assertGreater(found.chunks, PIECE_BYTES)
        self.assertLess(found.chunks, 1.01 * PIECE_BYTES)
        self.assertEqual(found.size - found.files, found.reflink_size - found.chunks)

    def test_only_chunk_of_a_file_is_not_looked_for(self) -> None:
        """A file of one chunk is not taken from a larger file: the table has no chunk's digest."""
        data = noise(PIECE_BYTES)
        found = partial_pull({"a": data + b"more"}, {"a": data})
        # Its digest is known, as that of a chunk, and is looked for as that of a file.
        self.assertEqual(0, found.new_files)
        found = partial_pull({}, {"a": data, "b": data})
        self.assertEqual(2, found.new_files)
        self.assertGreater(found.chunks, 2 * PIECE_BYTES)

    def test_layers_that_are_not_chunked_are_fetched_whole(self) -> None:
        """A layer without tables is fetched whole."""
        counter = PullCounter()
        counter.pull_whole(700)
        self.assertEqual(PartialPull(whole=700), counter.result())
        self.assertEqual((700, 700), (counter.result().size, counter.result().reflink_size))

    def count(self, ranges: list[tuple[int, int]]) -> int:
        counter = PullCounter()
        counter.pull(
            [
                ListedFile(key=key, chunks=(ListedChunk(key=key, start=start, stop=stop),))
                for key, (start, stop) in enumerate(ranges)
            ],
            0,
        )
        return counter.result().files

    def test_small_gaps_are_fetched_too(self) -> None:
        """The bytes of a small gap are fetched, those of a larger one are not."""
        for gap, fetched in ((1, 21), (MAX_GAP_BYTES, 1044), (MAX_GAP_BYTES + 1, 20)):
            self.assertEqual(fetched, self.count([(10, 20), (20 + gap, 30 + gap)]))

    def test_smallest_gaps_are_fetched_where_there_are_too_many_ranges(self) -> None:
        """Ranges are joined at the smallest gaps until the client may ask for them."""
        step = 10_000
        ranges = [(1 + n * step, 1001 + n * step) for n in range(MAX_RANGES - 1)]
        self.assertEqual(1000 * len(ranges), self.count(ranges))
        end = ranges[-1][1]
        more = [(end + 5000, end + 6000), (end + 14_000, end + 15_000)]
        # 1,025 ranges become 1,023: the client joins one more than it has to.
        self.assertEqual(1000 * (len(ranges) + 2) + 5000 + 8000, self.count([*ranges, *more]))
