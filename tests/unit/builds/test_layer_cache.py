"""Tests for :mod:`nixery.builds.layer_cache`."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, fail

from nixery.builds.layer_cache import LayerCache, LayerRecord
from nixery.errors import StorageError
from tests.unit.builds.test_image_cache import CacheTests


class LayerCacheTests(CacheTests):
    """Layers by layer key."""

    def setUp(self) -> None:
        super().setUp()
        self.cache = LayerCache(storage=self.storage)

    def add(self, cache: LayerCache, key: str, layer: LayerRecord) -> LayerRecord:
        [first] = self.add_all(cache, {key: layer})
        return first

    def add_all(self, cache: LayerCache, layers: Mapping[str, LayerRecord]) -> list[LayerRecord]:
        written = {}
        for key, layer in layers.items():
            writer = self.now(self.storage.create())
            writer.write(bytes(layer.size))
            written[key] = layer, writer
        return self.now(cache.add(written, "application/octet-stream"))

    def test_a_layer_is_found_again(self) -> None:
        """A layer published by one instance is found by all, and its record is read once."""
        layer = self.layer(b"one")
        self.assertIsNone(self.now(self.cache.get("key")))
        self.assertEqual(self.add(self.cache, "key", layer), layer)
        other = LayerCache(storage=self.storage)
        self.storage.reads = 0
        self.assertEqual(self.now(other.get("key")), layer)
        self.assertEqual(self.now(other.get("key")), layer)
        self.assertEqual(self.storage.reads, 1)

    def test_annotations_are_kept_and_records_without_them_are_as_they_were(self) -> None:
        """Annotations are found again; a record without them has the bytes that it always had."""
        plain = self.layer(b"one")
        self.assertNotIn(b"annotations", plain.encode())
        self.assertEqual(plain, LayerRecord.decode(plain.encode()))
        layer = evolve(plain, annotations={"position": "1:2:3:1"})
        self.add(self.cache, "key", layer)
        self.assertEqual(layer, self.now(LayerCache(storage=self.storage).get("key")))
        for wrong in (b"[]", b'{"position":1}'):
            record = plain.encode().replace(b"{", b'{"annotations":' + wrong + b",", 1)
            self.assertRaises(ValueError, LayerRecord.decode, record)

    def test_the_first_published_wins(self) -> None:
        """An instance that packs the same layer to other bytes adopts the published ones."""
        first, second = self.layer(b"one"), self.layer(b"two")
        self.add(self.cache, "key", first)
        other = LayerCache(storage=self.storage)
        self.assertEqual(self.add(other, "key", second), first)
        self.assertEqual(self.now(other.get("key")), first)

    def test_first_record_of_each_layer_published_together_stays(self) -> None:
        """Of several layers each is the first one, whether it was there before or not."""
        first, second, third = (self.layer(name) for name in (b"one", b"two", b"three"))
        self.add(self.cache, "1", first)
        other = LayerCache(storage=self.storage)
        told = self.add_all(other, {"2": second, "1": third, "3": third})
        self.assertEqual([second, first, third], told)
        for cache in (other, LayerCache(storage=self.storage)):
            self.assertEqual([first, second, third], [self.now(cache.get(key)) for key in "123"])

    def test_a_record_whose_blob_is_gone(self) -> None:
        """It is withdrawn, also where it was in memory, and can be published anew."""
        first, second = self.layer(b"one"), self.layer(b"two")
        self.add(self.cache, "key", first)
        self.storage.lose(first.digest)
        self.assertIsNone(self.now(self.cache.get("key")))
        self.assertEqual(self.add(self.cache, "key", second), second)

    def test_unreadable_record_counts_as_none(self) -> None:
        """An unreadable record counts as none."""
        layer = self.layer(b"one")
        for garbage in (b"", b"{}", b"[]", b'{"digest": "sha256:1"}', b"\xff"):
            self.now(self.storage.set_record("layer", "key", garbage))
            cache = LayerCache(storage=self.storage)
            self.assertIsNone(self.now(cache.get("key")), garbage)
            self.now(self.storage.set_record("layer", "key", garbage))
            self.assertEqual(self.add(cache, "key", layer), layer)
            self.assertEqual(self.now(LayerCache(storage=self.storage).get("key")), layer)

    def test_looked_up_together(self) -> None:
        """Those who ask while a layer is looked up are answered at once, or fail at once."""
        layers = [self.layer(str(number).encode()) for number in range(5)]
        for number, layer in enumerate(layers):
            self.add(self.cache, str(number), layer)
        cache = LayerCache(storage=self.storage)
        self.storage.reads = 0
        self.storage.gate = Deferred()
        asked = [Deferred.fromCoroutine(cache.get(str(number))) for number in range(6)]
        asked[1].cancel()
        self.failureResultOf(asked[1], CancelledError)
        gate, self.storage.gate = self.storage.gate, None
        gate.callback(None)
        found = [self.successResultOf(asked[number]) for number in (0, 2, 3, 4, 5)]
        self.assertEqual([layers[0], *layers[2:], None], found)
        self.assertEqual(2, self.storage.reads)
        self.storage.gate = fail(StorageError(operation="read", reason="no"))
        self.failureResultOf(Deferred.fromCoroutine(cache.get("6")), StorageError)
        self.storage.gate = None
        self.assertIsNone(self.now(cache.get("6")))

    def test_memory_is_bounded(self) -> None:
        """The records that were not used for longest are read from storage again."""
        cache = LayerCache(storage=self.storage, max_cached=2)
        for number in range(3):
            self.add(cache, str(number), self.layer(str(number).encode()))
        self.storage.reads = 0
        self.now(cache.get("2"))
        self.assertEqual(self.storage.reads, 0)
        self.now(cache.get("0"))
        self.assertEqual(self.storage.reads, 1)
