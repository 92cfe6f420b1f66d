"""Manifests by digest, and what is kept of them in memory."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.http.registry.errors import ManifestUnknown
from nixery.http.registry.manifests import MAX_CACHED_BYTES, RECHECK_SECONDS, Manifests
from nixery.image.manifests import OCI_MANIFEST, Manifest, digest_of
from nixery.image.names import Digest, parse_image_name
from nixery.storage.interface import BlobInfo
from nixery.testing.memory_storage import MemoryStorage

NAME = parse_image_name("git", "x86_64-linux")
BODY = b"{}"


class CountingStorage(MemoryStorage):
    """Counts how often it is asked."""

    asked = 0

    async def stat(self, digest: Digest) -> BlobInfo:
        self.asked += 1
        return await super().stat(digest)


class ManifestsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.storage = CountingStorage()
        self.manifests = Manifests(self.storage, self.clock.seconds)

    def get(self, digest: Digest) -> Manifest:
        manifest: Manifest = self.successResultOf(self.manifests.get(NAME, digest))
        return manifest

    def put(self, body: bytes, media_type: str = OCI_MANIFEST) -> Digest:
        info: BlobInfo = self.successResultOf(self.storage.put(body, media_type))
        return info.digest

    def test_storage_is_asked_once(self) -> None:
        """The storage is asked once."""
        digest = self.put(BODY)
        wanted = Manifest(media_type=OCI_MANIFEST, digest=digest, body=BODY)
        self.assertEqual([wanted, wanted], [self.get(digest), self.get(digest)])
        self.assertEqual(1, self.storage.asked)

    def test_manifest_read_at_monotonic_time_0_is_kept_as_long_as_any_other(self) -> None:
        """A manifest read at monotonic time 0 is kept as long as any other."""
        self.assertEqual(0, self.clock.seconds())
        digest = self.put(BODY)
        for seconds, asked in (
            (0, 1),
            (RECHECK_SECONDS - 1, 1),
            (1, 2),
            (RECHECK_SECONDS - 1, 2),
            (1, 3),
        ):
            self.clock.advance(seconds)
            self.get(digest)
            self.assertEqual(asked, self.storage.asked)

    def test_storage_is_not_asked_for_what_was_in_hand(self) -> None:
        """The storage is not asked for what was in hand."""
        manifest = Manifest(media_type=OCI_MANIFEST, digest=digest_of(BODY), body=BODY)
        self.manifests.keep(manifest)
        self.assertIs(manifest, self.get(manifest.digest))
        self.assertEqual(0, self.storage.asked)

    def test_after_a_blob_was_missed_the_storage_is_asked_again(self) -> None:
        """After a blob was missed, the storage is asked again."""
        manifest = Manifest(media_type=OCI_MANIFEST, digest=digest_of(BODY), body=BODY)
        self.manifests.keep(manifest)
        self.manifests.invalidate_checks()
        self.failureResultOf(self.manifests.get(NAME, manifest.digest), ManifestUnknown)

    def test_missing_digest_and_other_blobs_are_unknown_manifests(self) -> None:
        """A missing digest and a blob of another kind are unknown manifests, each time."""
        layer = self.put(b"layer", "application/vnd.oci.image.layer.v1.tar+gzip")
        for digest in (layer, digest_of(b"nothing")) * 2:
            error = self.failureResultOf(self.manifests.get(NAME, digest), ManifestUnknown)
            self.assertEqual(digest, error.value.digest)

    def test_least_recently_asked_for_is_read_again(self) -> None:
        """Memory has an end: what was asked for longest ago is read again."""
        bodies = [bytes([number]) * (MAX_CACHED_BYTES // 5) for number in range(6)]
        digests = [digest_of(body) for body in bodies]
        for digest, body in zip(digests, bodies, strict=True):
            self.manifests.keep(Manifest(media_type=OCI_MANIFEST, digest=digest, body=body))
        self.failureResultOf(self.manifests.get(NAME, digests[0]), ManifestUnknown)
        self.assertEqual(bodies[-1], self.get(digests[-1]).body)
