"""Tests for :mod:`nixery.inspection.image_comparer`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import StorageError
from nixery.image.manifests import ImageLayer, Manifest, build_image
from nixery.image.names import Digest
from nixery.inspection import image_comparer
from nixery.inspection.comparison import Comparison
from nixery.inspection.image_comparer import ImageComparer
from nixery.inspection.manifest_summary import summarize_manifest
from nixery.inspection.page_data import PageData, summary_page_data
from nixery.layers.compression_levels import Compression
from nixery.layers.tarball import TreeEntry, pack_tree
from nixery.storage.interface import ByteRange
from nixery.testing.fakes import InlineWorkers
from nixery.testing.memory_storage import MemoryStorage
from tests.support.partial_pulls import PartialPuller

Layer = Mapping[str, bytes]

PROGRAM = hashlib.sha256(b"program").digest() * 3000
LIBRARY = hashlib.sha256(b"library").digest() * 2000


class ReadingStorage(MemoryStorage):
    """Counts the parts that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.failure: Exception | None = None
        self.opening: Deferred[None] | None = None

    async def read_part(self, digest: Digest, part: ByteRange) -> bytes:
        self.reads += 1
        if self.opening is not None:
            await self.opening
        if self.failure is not None:
            raise self.failure
        return await super().read_part(digest, part)


@define
class Summaries:
    """Reports that have layers alone."""

    storage: MemoryStorage
    configs: dict[Digest, bytes] = field(factory=dict)

    async def page_data(self, manifest: Manifest) -> PageData:
        return summary_page_data(summarize_manifest(manifest, self.configs[manifest.digest]))


class ImageComparerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.storage = ReadingStorage()
        self.summaries = Summaries(self.storage)
        self.comparer = ImageComparer(
            catalog=self.summaries, storage=self.storage, cpu=InlineWorkers()
        )
        self.blobs: dict[Digest, bytes] = {}
        self.layers: list[ImageLayer] = []

    def image(self, *layers: Layer, kinds: Sequence[str] = ()) -> Manifest:
        """Store an image whose layers have these files."""
        self.layers = []
        for files, kind in zip(layers, kinds or ["zstd-chunked"] * len(layers), strict=True):
            written: list[bytes] = []
            packed = pack_tree(
                [TreeEntry(path=name.encode(), kind="file", data=files[name]) for name in files],
                written.append,
                compression=Compression(kind=kind),
            )
            data = b"".join(written)
            self.blobs[packed.digest] = data
            self.storage.keep(packed.digest, data, "application/octet-stream")
            self.layers.append(
                ImageLayer(
                    digest=packed.digest,
                    size=packed.size,
                    diff_id=packed.diff_id,
                    uncompressed_size=packed.uncompressed_size,
                    compression=kind,
                    annotations=packed.annotations,
                    contents=("x",),
                )
            )
        image = build_image(
            layers=self.layers,
            packages=[],
            system="x86_64-linux",
            has_shell=False,
            has_ca_bundle=False,
        )
        assert image.config is not None
        manifest = image.manifests[0]
        self.summaries.configs[manifest.digest] = image.config
        return manifest

    def compare(self, old: Manifest, new: Manifest) -> Comparison:
        return self.successResultOf(Deferred.fromCoroutine(self.comparer.compare(old, new)))

    def test_partial_pull_is_what_a_client_fetches(self) -> None:
        """The figure is that of a client with the old image, to the byte."""
        files = {f"f{number}": b"%d" % number * 4000 for number in range(30)}
        old = self.image({"a": PROGRAM, "b": LIBRARY}, files)
        # The layers are cut anew, a file is changed, and one has another name.
        new = self.image(
            {"new": PROGRAM + b"changed", "b2": LIBRARY, **files}, {"other": b"o" * 90_000}
        )
        layers = self.layers
        found = self.compare(old, new)
        self.assertEqual(2, found.chunked)
        self.assertTrue(found.held_chunked)
        self.assertEqual(found.new_size, sum(layer.size for layer in layers))
        assert found.partial is not None
        self.assertEqual((2, 33), (found.partial.new_files, found.partial.all_files))

        puller = PartialPuller()
        self.image({"a": PROGRAM, "b": LIBRARY}, files)
        for layer in self.layers:
            self.pull(puller, layer)
        self.assertEqual(found.partial.size, sum(self.pull(puller, each) for each in layers))
        self.assertLess(found.partial.size, found.new_size)

    def pull(self, puller: PartialPuller, layer: ImageLayer) -> int:
        blob = self.blobs[layer.digest]
        pulled = puller.pull(
            lambda ranges: [blob[each.start : each.stop] for each in ranges], layer.annotations
        )
        return pulled.fetched

    def test_shared_layers_cost_nothing(self) -> None:
        """Nothing is fetched of layers that are there, and an equal image is there."""
        old = self.image({"a": PROGRAM}, {"b": LIBRARY})
        new = self.image({"a": PROGRAM}, {"c": b"c" * 100})
        found = self.compare(old, new)
        assert found.partial is not None
        self.assertEqual((1, 1), (found.partial.all_files, found.chunked))
        same = self.compare(old, old)
        assert same.partial is not None
        self.assertEqual((0, 0, ()), (same.partial.size, same.chunked, same.new))

    def test_layers_that_are_not_chunked_are_fetched_whole(self) -> None:
        """Layers of another kind are fetched whole, and give no files."""
        plain = self.image({"a": PROGRAM}, kinds=["zstd"])
        chunked = self.image({"a": PROGRAM})
        mixed = self.image({"b": PROGRAM}, {"c": LIBRARY}, kinds=["zstd-chunked", "zstd"])
        found = self.compare(chunked, plain)
        assert found.partial is not None
        self.assertEqual(0, found.chunked)
        self.assertEqual(found.new_size, found.partial.size)
        self.assertEqual(0, self.storage.reads)

        found = self.compare(plain, chunked)
        assert found.partial is not None
        self.assertFalse(found.held_chunked)
        self.assertEqual((1, 1), (found.partial.new_files, found.chunked))

        found = self.compare(chunked, mixed)
        assert found.partial is not None
        self.assertEqual((0, self.layers[1].size), (found.partial.files, found.partial.whole))

    def test_answers_are_kept(self) -> None:
        """The tables of a pair of images are read once, also for those who ask meanwhile."""
        old, new = self.image({"a": PROGRAM}), self.image({"b": PROGRAM}, {"c": LIBRARY})
        self.storage.opening = Deferred()
        first = Deferred.fromCoroutine(self.comparer.compare(old, new))
        second = Deferred.fromCoroutine(self.comparer.compare(old, new))
        self.storage.opening.callback(None)
        self.assertEqual(self.successResultOf(first), self.successResultOf(second))
        self.assertEqual(3, self.storage.reads)
        self.compare(old, new)
        self.assertEqual(3, self.storage.reads)

    def test_client_that_leaves_holds_nobody_up(self) -> None:
        """A comparison whose client has left is given up, and others go on."""
        old, new = self.image({"a": PROGRAM}), self.image({"b": PROGRAM})
        self.storage.opening = Deferred()
        left = Deferred.fromCoroutine(self.comparer.compare(old, new))
        left.cancel()
        self.failureResultOf(left)
        self.storage.opening = None
        self.assertIsNotNone(self.compare(old, new).partial)

    def test_nothing_is_said_of_layers_that_cannot_be_read(self) -> None:
        """Partial pulls are not known if a layer is gone, damaged or too large; the rest is."""
        old, new = self.image({"a": PROGRAM}), self.image({"b": PROGRAM})
        [layer] = new.blobs()[1:]
        data = self.blobs[layer.digest]
        self.storage.lose(layer.digest)
        found = self.compare(old, new)
        self.assertEqual((None, 1), (found.partial, len(found.new)))

        self.storage.keep(layer.digest, data[::-1], "application/octet-stream")
        self.assertIsNone(self.compare(old, new).partial)
        self.storage.lose(layer.digest)

        self.storage.keep(layer.digest, data, "application/octet-stream")
        for limit in ("MAX_TABLES_BYTES", "MAX_SMALL_BYTES"):
            patched = self.patch(image_comparer, limit, 10)
            self.assertIsNone(self.compare(old, new).partial)
            patched.restore()
        self.assertIsNotNone(self.compare(old, new).partial)

    def test_manifest_with_wrong_annotations(self) -> None:
        """Nothing is said of partial pulls if annotations are damaged."""
        old, new = self.image({"a": PROGRAM}), self.image({"b": PROGRAM})
        wrong = evolve(
            new, body=new.body.replace(b'manifest-position":"', b'manifest-position":"x')
        )
        self.assertNotEqual(new.body, wrong.body)
        self.assertIsNone(self.compare(old, wrong).partial)

    def test_failure_of_the_storage_is_passed_on(self) -> None:
        """A storage that fails is no answer."""
        self.storage.failure = StorageError(operation="read", reason="out of order")
        old, new = self.image({"a": PROGRAM}), self.image({"b": PROGRAM})
        comparing = Deferred.fromCoroutine(self.comparer.compare(old, new))
        self.failureResultOf(comparing, StorageError)
