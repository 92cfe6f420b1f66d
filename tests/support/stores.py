"""Images of a few bytes in a directory, for the tests of what takes care of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.trial.unittest import SynchronousTestCase

from nixery.artifacts.document import CYCLONEDX, CYCLONEDX_PREDICATE, Document
from nixery.artifacts.keys import KeyRing
from nixery.artifacts.signing_key import SigningKey
from nixery.builds.documents import plan_documents
from nixery.builds.image_cache import IMAGES, ImageCache
from nixery.builds.layer_cache import LAYERS, LayerRecord
from nixery.image.canonical_json import canonical_json
from nixery.image.image_index import build_index, index_manifests
from nixery.image.manifests import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Image,
    Manifest,
    digest_of,
    parse_manifest,
)
from nixery.image.names import Digest, Tag, parse_image_name
from nixery.pulls.referrers import Referrers
from nixery.pulls.signatures import ImageSigner
from nixery.storage.errors import BlobsMissing
from nixery.storage.filesystem.backend import FilesystemStorage
from nixery.storage.filesystem.garbage_collector import collect, run_blocking, scan
from nixery.storage.filesystem.gc_policy import CollectionResult, Policy
from nixery.storage.filesystem.scan import Inventory
from nixery.testing.fakes import InlineWorkers
from tests.support.garbage import set_garbage_apart
from tests.support.trees import below
from tests.unit.storage.test_contract import LAYER, finish

OLD = 30 * 86400.0


class StoreCase(SynchronousTestCase):
    """A storage in a directory of its own."""

    def setUp(self) -> None:
        set_garbage_apart(self)
        # There is no power failure in these tests, and fsync is slow.
        self.patch(os, "fsync", lambda _: None)
        self.root = Path(self.mktemp()).absolute()
        self.storage = self.open_storage()

    def open_storage(self) -> FilesystemStorage:
        storage = FilesystemStorage(self.root, InlineWorkers())
        finish(storage.start())
        return storage

    def layer(self, data: bytes) -> Digest:
        """Store a layer as the packer does."""
        digest = digest_of(data)
        writer = finish(self.storage.create())
        writer.write(data)
        finish(writer.commit(digest, len(data), LAYER))
        record = LayerRecord(digest=digest, size=len(data), diff_id=digest, uncompressed_size=1)
        finish(self.storage.add_record(LAYERS, digest[7:], record.encode()))
        return digest

    def name(self, image: str, *layers: bytes) -> tuple[Digest, ...]:
        """
        Publish an image of layers that are stored, or are not.

        :return: its manifests.
        :raises BlobsVanished: they are not.
        """
        blobs, record = self.parts(image, *layers)
        needs = [digest_of(data) for data in layers]
        finish(self.storage.publish(blobs, needs, (IMAGES, image, record)))
        return tuple(digest_of(body) for body, _ in blobs[1:])

    def parts(self, image: str, *layers: bytes) -> tuple[list[tuple[bytes, str]], bytes]:
        """The config and the manifests of an image, and its record."""
        config = canonical_json({"name": image})
        bodies = [
            canonical_json(
                {
                    "schemaVersion": 2,
                    "mediaType": media_type,
                    "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": 1},
                    "layers": [
                        {"mediaType": LAYER, "digest": digest_of(data), "size": len(data)}
                        for data in layers
                    ],
                }
            )
            for media_type in (OCI_MANIFEST, DOCKER_MANIFEST)
        ]
        digests = tuple(digest_of(body) for body in bodies)
        record = canonical_json(
            {"manifests": [{"digest": each, "media_type": OCI_MANIFEST} for each in digests]}
        )
        blobs = [(config, OCI_CONFIG), (bodies[0], OCI_MANIFEST), (bodies[1], DOCKER_MANIFEST)]
        return blobs, record

    def image(self, image: str, *layers: bytes) -> tuple[Digest, ...]:
        """Make, publish and serve an image, as a build does that is raced by collections."""
        while True:
            for data in layers:
                self.layer(data)
            try:
                manifests = self.name(image, *layers)
            except BlobsMissing:
                continue
            finish(self.storage.add_record("name", f"n-{image}", image.encode()))
            finish(self.storage.set_record("served", f"n-{image}/latest", image.encode()))
            return manifests

    def index(self, name: str, images: Mapping[str, Sequence[bytes]]) -> tuple[Digest, ...]:
        """
        Make, publish and serve an index of images by their names, as a build does.

        :return: the OCI index, and Docker's list.
        """
        while True:
            try:
                return self._index(name, images)
            except BlobsMissing:
                continue

    def _index(self, name: str, images: Mapping[str, Sequence[bytes]]) -> tuple[Digest, ...]:
        platforms = {}
        for (image, layers), system in zip(
            images.items(), ("x86_64-linux", "aarch64-linux"), strict=True
        ):
            for data in layers:
                self.layer(data)
            self.name(image, *layers)
            blobs, _ = self.parts(image, *layers)
            platforms[system] = Image(
                manifests=tuple(
                    Manifest(media_type=media_type, digest=digest_of(body), body=body)
                    for body, media_type in blobs[1:]
                )
            )
        index = build_index(platforms, "x86_64-linux", {})
        finish(ImageCache(storage=self.storage, seconds=lambda: 0.0).add(name, index))
        finish(self.storage.add_record("name", f"n-{name}", name.encode()))
        finish(self.storage.set_record("served", f"n-{name}/latest", name.encode()))
        return tuple(each.digest for each in index.manifests)

    def attach(self, *manifests: Digest, name: str = "git", tag: str = "latest") -> set[Digest]:
        """Attach a document to an image, and sign it; return the digests of what is attached."""
        before = self.stored()
        inventory = self.inventory()
        image = Image(
            manifests=tuple(
                Manifest(media_type=OCI_MANIFEST, digest=digest, body=inventory.blobs.read(digest))
                for digest in manifests
            )
        )
        sbom = Document(
            media_type=CYCLONEDX,
            predicate_type=CYCLONEDX_PREDICATE,
            data=b'{"of":"%s"}' % name.encode(),
        )
        plan = finish(
            plan_documents(self.storage, image, {each.digest: [sbom] for each in image.manifests})
        )
        finish(self.storage.publish(plan.blobs, plan.needs, plan.records[-1], plan.records[:-1]))
        signer = ImageSigner(storage=self.storage, cpu=InlineWorkers(), host="reg.example")
        key = SigningKey(private_key=Ed25519PrivateKey.from_private_bytes(b"k" * 32))
        parsed = parse_image_name(name, "x86_64-linux")
        finish(signer.add_signatures(key, parsed, Tag(tag), image))
        referrers = Referrers(
            storage=self.storage,
            image_cache=ImageCache(storage=self.storage, seconds=lambda: 0.0),
            cpu=InlineWorkers(),
            signer=signer,
        )
        signer.keys = KeyRing(signing=key)
        for digest in manifests:
            finish(referrers.signatures(parsed, digest))
        return self.stored() - before

    def age(self, seconds: float = OLD, *digests: Digest) -> None:
        """Let time pass since blobs were used last: all, or some."""
        then = time.time() - seconds
        for path in below(self.root / "blobs"):
            wanted = not digests or f"sha256:{path.name}" in digests
            if not path.suffix and wanted and path.is_file():
                os.utime(path, (then, then))

    def settle(self) -> None:
        """Let a second pass: files that have just changed are left alone."""
        time.sleep(1.05)

    def collect(self, **policy: float | bool | None) -> CollectionResult:
        return run_blocking(collect(str(self.root), Policy(**policy)))  # type: ignore[arg-type]  # fields by their names

    def inventory(self) -> Inventory:
        inventory = Inventory(root=str(self.root))
        run_blocking(scan(inventory))
        return inventory

    def stored(self) -> set[Digest]:
        inventory = self.inventory()
        return {digest for digest in inventory.files if inventory.is_complete(digest)}

    def images(self) -> set[str]:
        return set(finish(self.storage.list_records(IMAGES)))

    def assert_sound(self) -> None:
        """Check that all that records and manifests name exists, and that all blobs are whole."""
        inventory = self.inventory()
        there = {digest for digest in inventory.files if inventory.is_complete(digest)}
        for key, manifests in inventory.images.items():
            for digest in manifests or ():
                self.assertIn(digest, there, key)
        for digest in there:
            noted = inventory.descriptions[digest]
            assert noted is not None
            body = b""
            if noted[0] in (OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST):
                body = Path(inventory.path(digest)).read_bytes()
            # An index of referrers keeps nothing of what it lists.
            if noted[0] in (OCI_MANIFEST, DOCKER_MANIFEST) or index_manifests(body):
                for blob in parse_manifest(body):
                    self.assertIn(blob.digest, there, json.loads(body))
