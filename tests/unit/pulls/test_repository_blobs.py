"""Tests for :mod:`nixery.pulls.repository_blobs`: the blobs that belong to a name."""

from __future__ import annotations

from attrs import evolve

from nixery.image.manifests import Image
from nixery.image.names import Digest, parse_image_name
from nixery.pulls.repository_blobs import RepositoryBlobs
from nixery.sources.source import Revision
from tests.support.builds import BuilderCase


class RepositoryBlobsTests(BuilderCase):
    """An image whose tag has moved on, and a process that has served none of them."""

    def setUp(self) -> None:
        super().setUp()
        self.first = self.build_at("one", "1.0")
        self.second = self.build_at("two", "2.0")
        self.other = self.build("git")
        self.restart()
        self.repository_blobs = RepositoryBlobs(self.storage, self.builder.pipeline.image_cache)

    def build_at(self, commit: str, version: str) -> Image:
        """Build an image of a revision in which its package has a version."""
        self.sources.revisions["latest"] = Revision(
            identity={"kind": "git", "url": "file:///set", "commit": commit},
            pinned=True,
            label=commit,
        )
        self.nix.packages = [
            evolve(package, version=version) if package.attribute == "hello" else package
            for package in self.nix.packages
        ]
        return self.build("hello")

    def contains(self, digest: Digest, name: str = "hello") -> bool:
        parsed = parse_image_name(name, "x86_64-linux")
        return self.now(self.repository_blobs.contains(parsed, digest))

    def test_manifests_are_told_by_their_digests(self) -> None:
        """Every manifest that was served for a name belongs to it, and to no other name."""
        self.assertNotEqual(self.first.digests, self.second.digests)
        for image in (self.first, self.second):
            for manifest in image.manifests:
                self.assertTrue(self.contains(manifest.digest))
                self.assertFalse(self.contains(manifest.digest, "git"))

    def test_blobs_are_found_without_their_manifest(self) -> None:
        """So does every blob of them: another process may have answered with the manifest."""
        for image in (self.first, self.second):
            for digest in image.digests:
                self.assertTrue(self.contains(digest))
        own = self.other.digests - self.first.digests - self.second.digests
        self.assertTrue(own)
        for digest in own:
            self.assertFalse(self.contains(digest))

    def test_manifest_that_is_gone(self) -> None:
        """A manifest that was collected belongs to no name, and breaks no other digest."""
        gone = self.first.manifests[0].digest
        del self.storage._blobs[gone]
        self.assertFalse(self.contains(gone))
        own = self.second.digests - self.first.digests
        for digest in own:
            self.assertTrue(self.contains(digest))
