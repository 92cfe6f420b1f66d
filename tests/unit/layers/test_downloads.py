"""Tests for :mod:`nixery.layers.downloads`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nixery.image.closure import StorePath
from nixery.layers.compression_levels import Compression
from nixery.layers.contents_table import find_tables
from nixery.layers.downloads import (
    ChunkedLayer,
    Download,
    compute_download,
    draw_downloads,
    pack_chunked,
)
from nixery.layers.partial_pull import PartialPull
from nixery.layers.tarball import pack_store_paths
from tests.unit.layers.test_partial_pull import noise


class DownloadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = Path(self.mktemp()).absolute()
        self.store.mkdir()

    def make(self, name: str, files: Mapping[str, bytes]) -> StorePath:
        """Make a store path with files."""
        path = StorePath(f"/nix/store/{name[0] * 32}-{name}")
        for file, data in files.items():
            (self.store / Path(path.path).name).mkdir(exist_ok=True)
            Path(os.fsdecode(self.store / Path(path.path).name / file)).write_bytes(data)
        return path

    def pack(self, *paths: StorePath) -> tuple[tuple[StorePath, ...], ChunkedLayer]:
        packed = pack_chunked([path.path for path in paths], level=1, store=str(self.store))
        return paths, packed

    def test_layer_is_packed_as_a_registry_packs_it(self) -> None:
        """Size and table are those of the layer that a registry stores."""
        path = self.make("a-1", {"x": noise(5000), "y": b"y"})
        _, layer = self.pack(path)
        written: list[bytes] = []
        packed = pack_store_paths(
            [path.path],
            written.append,
            compression=Compression(kind="zstd-chunked"),
            store=str(self.store),
        )
        places = find_tables(packed.annotations, packed.size)
        assert places is not None
        self.assertEqual((packed.size, places), (layer.size, layer.places))
        self.assertEqual(b"".join(written)[places.start : places.stop], layer.table)

    def test_layers_that_are_there_and_files_that_are_there_are_not_downloaded(self) -> None:
        """Whole layers are shared by their paths, files by their contents."""
        common = self.make("common-1", {"c": noise(8000, 1)})
        old = self.make("past-1", {"same": noise(50_000, 2), "changed": noise(9000, 3)})
        new = self.make("new-2", {"same": noise(50_000, 2), "changed": noise(9000, 4)})
        layers = dict([self.pack(common), self.pack(new)])
        sizes: dict[tuple[StorePath, ...], int] = {(common,): 700, (new,): 60}
        found = compute_download("old", dict([self.pack(common), self.pack(old)]), layers, sizes)
        self.assertEqual((1, 2, 60), (found.new_layers, found.layers, found.size))
        self.assertEqual((1, 2), (found.partial.new_files, found.partial.all_files))
        self.assertGreater(found.partial.files, 9000)
        self.assertLess(found.partial.size, 11_000)
        everything = compute_download("nothing", {}, layers, sizes)
        self.assertEqual((760, 3), (everything.size, everything.partial.new_files))

    def test_layer_with_an_odd_name_is_downloaded_whole(self) -> None:
        """A layer with a name that is not UTF-8 has no table, and is downloaded whole."""
        odd = self.make("strange-1", {os.fsdecode(b"\xff"): b"odd"})
        paths, layer = self.pack(odd)
        self.assertIsNone(layer.places)
        for old in ({}, dict([self.pack(self.make("b-1", {"b": b"odd"}))])):
            found = compute_download("x", old, {paths: layer}, {paths: 1})
            self.assertEqual(PartialPull(whole=layer.size), found.partial)
        self.assertEqual(
            PartialPull(), compute_download("x", {paths: layer}, {paths: layer}, {}).partial
        )

    def test_downloads_are_described(self) -> None:
        """Each download is told in numbers; without the compression, under which condition."""
        download = Download(
            present="htop",
            layers=9,
            new_layers=2,
            size=43_300_000,
            partial=PartialPull(
                tables=700_000, files=1_900_000, chunks=50_000, new_files=1, all_files=5400
            ),
        )
        text = draw_downloads("git", [download], chunked=False)
        self.assertIn("Download of git where htop is present:", text)
        self.assertRegex(text, r"whole layers +43\.3 MB  2 of 9 layers are new\n")
        self.assertRegex(text, r"partial pull +2\.\d\d MB  1 of 5400 files are new \(if comp")
        self.assertRegex(text, r"with reflinks +750 kB  ")
        self.assertNotIn("(if", draw_downloads("git", [download], chunked=True))
        self.assertEqual("", draw_downloads("git", [], chunked=True))
