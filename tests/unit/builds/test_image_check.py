"""Tests for :mod:`nixery.builds.image_check`."""

from __future__ import annotations

import json
import os
from tempfile import mkstemp

from nixery.builds.image_cache import IMAGES
from nixery.builds.image_check import CONTENT_RULES
from nixery.image.manifests import Image, ImageLayer, build_image
from nixery.image.names import Digest
from nixery.layers.tarball import Compression, TreeEntry, pack_tree
from nixery.storage.interface import BlobSource, ByteRange, OpenFile
from tests.support.builds import BuilderCase, CountingStorage


class FileStorage(CountingStorage):
    """Storage that opens blobs as files."""

    async def open(
        self,
        digest: Digest,
        part: ByteRange | None = None,
        *,
        redirect: bool = True,
    ) -> BlobSource:
        source = await super().open(digest, part, redirect=redirect)
        descriptor, path = mkstemp()
        os.unlink(path)
        os.write(descriptor, await self.read(digest))
        os.lseek(descriptor, 0, os.SEEK_SET)
        return OpenFile(info=source.info, descriptor=descriptor)


class ImageCheckTests(BuilderCase):
    """Images whose records do not name the rules that they were made by."""

    def store_as_before(self, key: str, image: Image) -> None:
        """Store an image as former versions did, and forget it."""
        self.now(self.builder.pipeline.image_cache.add(key, image))
        record = json.loads(self.record(key))
        self.assertEqual(CONTENT_RULES, record.pop("rules"))
        self.now(self.storage.set_record(IMAGES, key, json.dumps(record).encode()))
        self.restart()

    def record(self, key: str) -> bytes:
        """The record of an image, which has to be there."""
        record = self.now(self.storage.get_record(IMAGES, key))
        assert record is not None
        return record

    def test_sound_image_is_kept_and_marked(self) -> None:
        """An image that is as it would be made now is served without being made."""
        built = self.build("hello/bash")
        [key] = self.now(self.storage.list_records(IMAGES))
        self.store_as_before(key, built)
        realisations = len(self.nix.realisations)
        self.assertEqual(built, self.build("hello/bash"))
        self.assertEqual(realisations, len(self.nix.realisations))
        self.assertEqual(CONTENT_RULES, json.loads(self.record(key))["rules"])

    def test_image_at_fault_is_made_again(self) -> None:
        """An image that deletes its own files is made again, and not served before."""
        built = self.build("hello")
        [key] = self.now(self.storage.list_records(IMAGES))
        written: list[bytes] = []
        packed = pack_tree(
            [TreeEntry(path=b".wh.nix", kind="file", mode=0o444)],
            written.append,
            compression=Compression(),
        )
        self.now(self.storage.put(b"".join(written), ""))
        at_fault = build_image(
            layers=[
                ImageLayer(
                    digest=packed.digest,
                    size=packed.size,
                    diff_id=packed.diff_id,
                    uncompressed_size=packed.uncompressed_size,
                )
            ],
            packages=(),
            system="x86_64-linux",
            has_shell=False,
            has_ca_bundle=False,
        )
        self.store_as_before(key, at_fault)
        self.assertEqual(built, self.build("hello"))
        self.restart()
        self.assertEqual(built, self.build("hello"))


class FileCheckTests(ImageCheckTests):
    """The same, of a storage that opens blobs as files."""

    def setUp(self) -> None:
        super().setUp()
        self.storage = FileStorage()
        self.restart()
