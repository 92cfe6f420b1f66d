"""Tests for :mod:`nixery.builds.image_cache`."""

from __future__ import annotations

import json
from collections.abc import Collection, Coroutine, Mapping
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.errors import CachedFailure
from nixery.builds.image_cache import FailureCache, ImageCache
from nixery.builds.layer_cache import LayerRecord
from nixery.image.manifests import OCI_CONFIG, Image, ImageLayer, build_image, digest_of
from nixery.image.names import Digest
from nixery.nix.errors import BuildTimedOut
from nixery.process.errors import CommandOutput
from nixery.testing.memory_storage import MemoryStorage

T = TypeVar("T")


class CountingStorage(MemoryStorage):
    """Storage that counts checks and reads."""

    def __init__(self) -> None:
        super().__init__()
        self.checks = 0
        self.uses = 0
        self.reads = 0
        self.gate: Deferred[None] | None = None

    async def missing(self, digests: Any, *, record_use: bool = True) -> frozenset[Digest]:
        self.checks += 1
        self.uses += record_use
        return await super().missing(digests, record_use=record_use)

    async def get_record(self, kind: str, key: str) -> bytes | None:
        self.reads += 1
        return await super().get_record(kind, key)

    async def get_records(self, kind: str, keys: Collection[str]) -> Mapping[str, bytes]:
        self.reads += 1
        if self.gate is not None:
            await self.gate
        return await super().get_records(kind, keys)


class CacheTests(SynchronousTestCase):
    """Base class for the tests of both caches."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.storage = CountingStorage()

    def now(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def layer(self, data: bytes) -> LayerRecord:
        info = self.now(self.storage.put(data, "application/octet-stream"))
        return LayerRecord(
            digest=info.digest,
            size=info.size,
            diff_id=digest_of(data + b"unpacked"),
            uncompressed_size=2 * info.size,
        )

    def image(self, *layers: LayerRecord) -> Image:
        """An image that is stored with all it names."""
        image = build_image(
            layers=[
                ImageLayer(
                    digest=layer.digest,
                    size=layer.size,
                    diff_id=layer.diff_id,
                    uncompressed_size=layer.uncompressed_size,
                )
                for layer in layers
            ],
            packages=[],
            system="x86_64-linux",
            has_shell=False,
            has_ca_bundle=False,
        )
        assert image.config is not None
        self.now(self.storage.put(image.config, OCI_CONFIG))
        for manifest in image.manifests:
            self.now(self.storage.put(manifest.body, manifest.media_type))
        return image


class ImageCacheTests(CacheTests):
    """Images by image key."""

    def setUp(self) -> None:
        super().setUp()
        self.cache = self.make_cache()

    def make_cache(self) -> ImageCache:
        return ImageCache(
            storage=self.storage, seconds=self.clock.seconds, ttl=3600, recheck_interval=10
        )

    def test_an_image_is_found_again(self) -> None:
        """An image published by one instance is found by all."""
        image = self.image(self.layer(b"one"))
        self.assertIsNone(self.now(self.cache.get("key")))
        self.now(self.cache.add("key", image))
        self.assertEqual(self.now(self.cache.get("key")), image)
        self.assertEqual(self.now(self.make_cache().get("key")), image)
        self.assertIsNone(self.now(self.cache.get("another key")))

    def test_blobs_are_looked_for_now_and_then(self) -> None:
        """A warm answer costs nothing, and every ten seconds one look at the blobs."""
        self.now(self.cache.add("key", self.image(self.layer(b"one"))))
        for _ in range(5):
            self.now(self.cache.get("key"))
        self.assertEqual(self.storage.checks, 0)
        self.clock.advance(10)
        for _ in range(5):
            self.now(self.cache.get("key"))
        self.assertEqual(self.storage.checks, 1)

    def test_an_image_whose_blob_is_gone(self) -> None:
        """It is not known any more: neither here, nor to others."""
        layer = self.layer(b"one")
        self.now(self.cache.add("key", self.image(layer)))
        self.storage.lose(layer.digest)
        self.clock.advance(10)
        self.assertIsNone(self.now(self.cache.get("key")))
        self.assertIsNone(self.now(self.make_cache().get("key")))

    def test_a_manifest_that_is_gone(self) -> None:
        """The same if what is gone is a manifest, which another instance would read."""
        image = self.image(self.layer(b"one"))
        self.now(self.cache.add("key", image))
        self.storage.lose(image.manifests[0].digest)
        self.assertIsNone(self.now(self.make_cache().get("key")))

    def test_report_of_a_missing_blob_makes_the_next_answer_look_for_all_of_them(self) -> None:
        """A report of a missing blob makes the next answer look for all of them."""
        layer = self.layer(b"one")
        self.now(self.cache.add("key", self.image(layer)))
        self.storage.lose(layer.digest)
        self.assertIsNotNone(self.now(self.cache.get("key")))
        self.clock.advance(1)
        self.cache.invalidate_checks()
        self.assertIsNone(self.now(self.cache.get("key")))

    def test_distrust_does_not_last(self) -> None:
        """Once the blobs were seen they are believed again."""
        self.now(self.cache.add("key", self.image(self.layer(b"one"))))
        self.clock.advance(1)
        self.cache.invalidate_checks()
        for _ in range(3):
            self.assertIsNotNone(self.now(self.cache.get("key")))
        self.assertEqual(self.storage.checks, 1)

    def test_memory_has_a_time_to_live(self) -> None:
        """After it, an image is read from storage again."""
        self.now(self.cache.add("key", self.image(self.layer(b"one"))))
        self.storage.reads = 0
        self.clock.advance(3599)
        self.now(self.cache.get("key"))
        self.assertEqual(self.storage.reads, 0)
        self.clock.advance(1)
        self.now(self.cache.get("key"))
        self.assertEqual(self.storage.reads, 1)

    def test_memory_is_bounded(self) -> None:
        """Images take no more memory than they may; one that is too large takes none."""
        image = self.image(self.layer(b"one"))
        size = sum(manifest.size for manifest in image.manifests)
        for limit, reads in ((size - 1, 2), (100 * size, 0)):
            cache = ImageCache(storage=self.storage, seconds=self.clock.seconds, max_bytes=limit)
            self.now(cache.add("key", image))
            self.storage.reads = 0
            for _ in range(2):
                self.assertEqual(self.now(cache.get("key")), image)
            self.assertEqual(self.storage.reads, reads)

    def test_unreadable_record_counts_as_none_and_is_withdrawn(self) -> None:
        """An unreadable record counts as none, and is withdrawn."""
        blob = self.now(self.storage.put(b"no manifest", "text/plain"))
        for garbage in (
            b"",
            b"[]",
            b'{"manifests": [{}]}',
            json.dumps({"manifests": [{"digest": blob.digest, "media_type": "x"}]}).encode(),
        ):
            self.now(self.storage.set_record("image", "key", garbage))
            self.assertIsNone(self.now(self.make_cache().get("key")), garbage)
            self.assertIsNone(self.now(self.storage.get_record("image", "key")))


class FailureCacheTests(SynchronousTestCase):
    """Failures of a short while ago."""

    def test_a_failure_is_told_again_for_a_while(self) -> None:
        """With how it failed, and when it will be tried again."""
        clock = Clock()
        cache = FailureCache(seconds=clock.seconds, ttl=60)
        error = BuildTimedOut(
            derivation="",
            seconds=1,
            setting="NIX_TIMEOUT",
            log=(),
            output=CommandOutput(argv=("x",)),
        )
        cache.check("key")
        cache.add("key", error)
        cache.check("another key")
        clock.advance(59)
        told = self.assertRaises(CachedFailure, cache.check, "key")
        self.assertEqual((told.original, told.retry_after), (error, 1))
        self.assertIn("the next try is possible in 1 s", told.message)
        clock.advance(1)
        cache.check("key")

    def test_memory_is_bounded(self) -> None:
        """The oldest failures are forgotten first."""
        cache = FailureCache(seconds=Clock().seconds, ttl=60, max_entries=2)
        error = BuildTimedOut(
            derivation="",
            seconds=1,
            setting="NIX_TIMEOUT",
            log=(),
            output=CommandOutput(argv=("x",)),
        )
        for number in range(3):
            cache.add(str(number), error)
        cache.check("0")
        self.assertRaises(CachedFailure, cache.check, "2")
