"""Tests for :mod:`nixery.layers.chunked_stream`."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zstandard import ZstdError

from nixery.layers.compression import PIECE_BYTES
from nixery.layers.compression_levels import Compression
from nixery.layers.content_check import read_entries
from nixery.layers.tarball import PackedLayer, TreeEntry, pack_store_paths, pack_tree
from tests.support.partial_pulls import PREFIX, PartialPuller, PulledLayer, digest_of
from tests.unit.layers.test_compression import unzstd

CHUNKED = Compression(kind="zstd-chunked")
PLAIN = Compression(kind="none")

NAME = st.one_of(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1),
    st.sampled_from(["x" * 100, "y" * 200, "ä" * 120]),
).filter(lambda name: name not in (".", "..") and not name.startswith(".wh."))
FILE = st.builds(
    lambda size, seed: hashlib.sha256(bytes([seed])).digest() * (size // 32) + bytes(size % 32),
    st.one_of(st.integers(0, 2000), st.sampled_from([PIECE_BYTES + n for n in (-1, 0, 1)])),
    st.integers(0, 255),
)
ENTRY = st.one_of(
    st.builds(lambda data: ("file", data, b""), FILE),
    st.builds(lambda target: ("symlink", b"", target.encode()), NAME),
    st.just(("directory", b"", b"")),
)


def pull(blob: bytes, annotations: Mapping[str, str]) -> PulledLayer:
    """Pull a layer that nothing is known of."""
    return PartialPuller().pull(
        lambda ranges: [blob[each.start : each.stop] for each in ranges], annotations
    )


class ChunkedStreamTests(SynchronousTestCase):
    def pack(
        self, entries: Mapping[str, tuple[str, bytes, bytes]], compression: Compression
    ) -> tuple[bytes, PackedLayer]:
        written: list[bytes] = []
        packed = pack_tree(
            [
                TreeEntry(path=name.encode(), kind=kind, data=data, target=target)
                for name, (kind, data, target) in entries.items()
            ],
            written.append,
            compression=compression,
        )
        return b"".join(written), packed

    @settings(max_examples=40, deadline=None)
    @given(entries=st.dictionaries(NAME, ENTRY, max_size=8))
    def test_any_tree_unpacks_to_the_plain_archive_whole_and_in_parts(
        self, entries: dict[str, tuple[str, bytes, bytes]]
    ) -> None:
        """Any tree: the blob unpacks to the plain archive, and so do its tables and chunks."""
        blob, packed = self.pack(entries, CHUNKED)
        plain, plain_packed = self.pack(entries, PLAIN)
        self.assertEqual(plain, unzstd(blob))
        self.assertEqual(plain_packed.diff_id, packed.diff_id)
        self.assertEqual((digest_of(blob), len(blob)), (packed.digest, packed.size))
        pulled = pull(blob, packed.annotations)
        self.assertEqual(plain, pulled.archive)
        self.check_headers(plain, pulled.entries, pulled.files)
        self.assertEqual((blob, packed), self.pack(entries, CHUNKED))

    def check_headers(
        self, plain: bytes, table: Sequence[Mapping[str, Any]], files: Mapping[str, bytes]
    ) -> None:
        """The entries say what the headers of the archive say, which clients compare."""
        told = {each["name"].rstrip("/"): each for each in table if each["type"] != "chunk"}
        with tarfile.open(fileobj=io.BytesIO(plain), encoding="utf-8") as archive:
            for member in archive:
                entry = told.pop(member.name)
                self.assertEqual(member.isdir(), entry["name"].endswith("/"))
                self.assertEqual(
                    {b"5": "dir", b"0": "reg", b"2": "symlink"}[member.type], entry["type"]
                )
                self.assertEqual(member.mode, entry["mode"])
                self.assertEqual(member.size, entry.get("size", 0))
                self.assertEqual(member.linkname, entry.get("linkName", ""))
                self.assertEqual("1970-01-01T00:00:01Z", entry["modtime"])
                if member.size:
                    self.assertEqual(digest_of(files[member.name]), entry["digest"])
        self.assertEqual({}, told)

    def test_footer_is_at_the_end(self) -> None:
        """The last 64 bytes say where the tables are, and how they are known."""
        blob, packed = self.pack({"a": ("file", b"data", b"")}, CHUNKED)
        *places, magic = struct.unpack("<7Q8s", blob[-64:])
        self.assertEqual(b"GNUlInUx", magic)
        self.assertEqual(
            [
                packed.annotations[f"{PREFIX}manifest-position"],
                packed.annotations[f"{PREFIX}tarsplit-position"],
            ],
            [":".join(map(str, places[:4])), ":".join(map(str, places[4:]))],
        )

    def test_name_that_is_not_utf_8_leaves_the_tables_out(self) -> None:
        """A layer with a name or a target that is not UTF-8 is plain zstd."""
        for entry in (
            TreeEntry(path=b"\xff", kind="file", data=b"data"),
            TreeEntry(path=b"a", kind="symlink", target=b"\xff"),
        ):
            trees = [entry, TreeEntry(path=b"z", kind="file", data=b"more")]
            written: list[bytes] = []
            packed = pack_tree(trees, written.append, compression=CHUNKED)
            plain: list[bytes] = []
            pack_tree(trees, plain.append, compression=PLAIN)
            self.assertEqual({}, packed.annotations)
            self.assertEqual(b"".join(plain), unzstd(b"".join(written)))

    def test_store_paths_are_packed_as_trees_are(self) -> None:
        """Large files, holes and links of store paths come out of tables and chunks."""
        store = Path(self.mktemp()).absolute()
        top = store / f"{'a' * 32}-x"
        top.mkdir(parents=True)
        (top / "large").write_bytes(os.urandom(3 * PIECE_BYTES + 5))
        with (top / "sparse").open("wb") as sparse:
            sparse.truncate(2 * PIECE_BYTES)
        (top / "empty").touch()
        (top / "link").symlink_to("large")
        written: list[bytes] = []
        plain: list[bytes] = []
        for compression, sink in ((CHUNKED, written), (PLAIN, plain)):
            packed = pack_store_paths(
                [f"/nix/store/{top.name}"], sink.append, compression=compression, store=str(store)
            )
            if compression is CHUNKED:
                blob = b"".join(written)
                pulled = pull(blob, packed.annotations)
        self.assertEqual(b"".join(plain), pulled.archive)
        self.assertEqual(4, sum(each["name"].endswith("/large") for each in pulled.entries))

    def test_names_of_any_length_and_files_under_two_names_keep_their_tables(self) -> None:
        """Names beyond a header's fields, and hard links, are in the tables as in the archive."""
        store = Path(self.mktemp()).absolute()
        deep = store / f"{'a' * 32}-x" / ("d" * 150) / ("ä" * 120)
        deep.mkdir(parents=True)
        (deep / ("f" * 255)).write_bytes(b"data")
        (deep / "other").hardlink_to(deep / ("f" * 255))
        written: list[bytes] = []
        packed = pack_store_paths(
            [f"/nix/store/{'a' * 32}-x"], written.append, compression=CHUNKED, store=str(store)
        )
        blob = b"".join(written)
        pulled = pull(blob, packed.annotations)
        self.assertEqual(unzstd(blob), pulled.archive)
        self.check_headers(pulled.archive, pulled.entries, pulled.files)
        self.assertEqual([b"data"] * 2, list(pulled.files.values()))
        self.assertEqual({255, 5}, {len(Path(name).name) for name in pulled.files})

    def test_chunk_that_several_layers_have_is_fetched_once(self) -> None:
        """A client fetches equal contents once, whatever layers and files they are in."""
        shared = os.urandom(PIECE_BYTES)
        puller = PartialPuller()
        fetched = []
        for name in ("first", "second"):
            blob, packed = self.pack(
                {name: ("file", shared, b""), f"{name}-copy": ("file", shared + b"end", b"")},
                CHUNKED,
            )
            pulled = puller.pull(
                lambda ranges, blob=blob: [  # type: ignore[misc]
                    blob[each.start : each.stop] for each in ranges
                ],
                packed.annotations,
            )
            self.assertEqual(unzstd(blob), pulled.archive)
            fetched.append(pulled.fetched)
        self.assertLess(PIECE_BYTES, fetched[0])
        self.assertLess(fetched[0], 1.1 * PIECE_BYTES)
        # Tables alone.
        self.assertLess(fetched[1], 2000)

    def test_client_refuses_damaged_tables_and_chunks(self) -> None:
        """Clients refuse tables and chunks that are cut off or changed, by their digests."""
        entries = [TreeEntry(path=b"file", kind="file", data=bytes(range(256)) * 16)]
        written: list[bytes] = []
        packed = pack_tree(entries, written.append, compression=CHUNKED)
        blob = b"".join(written)
        contents = int(packed.annotations[f"{PREFIX}manifest-position"].split(":")[0])
        tar_split = int(packed.annotations[f"{PREFIX}tarsplit-position"].split(":")[0])
        offset = pull(blob, packed.annotations).entries[0]["offset"]
        for place in (contents + 9, tar_split + 9, offset + 9):
            changed = bytearray(blob)
            changed[place] ^= 1
            with self.assertRaises((AssertionError, ZstdError)):
                pull(bytes(changed), packed.annotations)
            with self.assertRaises((AssertionError, ZstdError)):
                pull(blob[:place], packed.annotations)

    def test_entries_of_a_layer_of_many_frames_are_read_back(self) -> None:
        """The check of old images reads such a layer to its end."""
        blob, _ = self.pack({f"{n}": ("file", b"data", b"") for n in range(5)}, CHUNKED)
        self.assertEqual(5, len(read_entries(io.BytesIO(blob), "zstd")))
