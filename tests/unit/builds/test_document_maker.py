"""The documents about an image are made with it."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from nixery.artifacts import image_documents
from nixery.artifacts.document import CYCLONEDX, IN_TOTO, SPDX
from nixery.builds.document_maker import DocumentMaker
from nixery.builds.documents import DOCUMENTS, read_attachments
from nixery.image.manifests import Image, Manifest
from nixery.testing.fakes import FakeWallClock, InlineWorkers
from tests.support.builds import BuilderCase, CountingStorage

COMMIT = "0123456789" * 4


class DocumentTests(BuilderCase):
    """Tests of the documents about images that are built."""

    def setUp(self) -> None:
        super().setUp()
        self.documents = self.builder.pipeline.documents = DocumentMaker(
            sources=self.sources, nix=self.nix, cpu=InlineWorkers(), builder="https://us.example"
        )

    def attached(self, manifest: Manifest) -> list[tuple[str, bytes]]:
        """The types and the contents of what is attached to a manifest."""
        attachments = self.now(read_attachments(self.storage, DOCUMENTS, manifest.digest))
        return [(each.artifact_type, self.blob(each.blob.digest)) for each in attachments]

    def provenance(self, image: Image) -> Any:
        return json.loads(self.attached(image.manifests[0])[2][1])["predicate"]

    def test_each_manifest_has_them(self) -> None:
        """Both manifests of an image get the same bills of materials, and provenance."""
        image = self.build("hello/git")
        oci, docker = map(self.attached, image.manifests)
        self.assertEqual([kind for kind, _ in oci], [CYCLONEDX, SPDX, IN_TOTO])
        self.assertEqual(oci[:2], docker[:2])
        names = [each["name"] for each in json.loads(oci[0][1])["components"]]
        self.assertEqual(names, ["bash", "cacert", "git", "glibc", "hello"])

    def test_they_do_not_change_the_image(self) -> None:
        """An image has the same digest with and without documents."""
        image = self.build("hello")
        self.storage = CountingStorage()
        self.restart()
        self.assertEqual(self.build("hello"), image)
        self.assertEqual(self.attached(image.manifests[0]), [])

    def test_provenance_has_the_canonical_name_and_no_time(self) -> None:
        """The name is spelled in one way, and tag and time are left out."""
        provenance = self.provenance(self.build("hello/git"))
        definition = provenance["buildDefinition"]
        self.assertEqual(
            definition["externalParameters"], {"image": "git/hello", "system": "x86_64-linux"}
        )
        self.assertEqual(
            definition["resolvedDependencies"][0], {"uri": self.directory.absolute().as_uri()}
        )
        self.assertEqual(provenance["runDetails"]["builder"]["id"], "https://us.example")
        self.assertNotIn("metadata", provenance["runDetails"])

    def test_provenance_has_a_time_if_the_operator_asks(self) -> None:
        """The time at which the image was made is in the provenance on demand."""
        self.documents.wall_clock = FakeWallClock(Clock(), offset=1_800_000_000.5)
        self.assertEqual(
            self.provenance(self.build("hello"))["runDetails"]["metadata"],
            {"finishedOn": "2027-01-15T08:00:00Z"},
        )

    def test_a_bill_of_materials_that_is_too_large_is_left_out(self) -> None:
        """An image with very many store paths is made without one, and the log says so."""
        cyclonedx, spdx, _ = self.attached(self.build("hello/git").manifests[0])
        limit = (len(cyclonedx[1]) + len(spdx[1])) // 2
        self.patch(image_documents, "MAX_DOCUMENT_BYTES", limit)
        self.storage = CountingStorage()
        self.restart()
        self.builder.pipeline.documents = self.documents
        with capturedLogs() as events:
            image = self.build("hello/git")
        kinds = [kind for kind, _ in self.attached(image.manifests[0])]
        self.assertEqual(kinds, [CYCLONEDX, IN_TOTO])
        told = [formatEvent(event) for event in events]
        self.assertTrue(
            any("too many store paths (5) for 1 of" in str(each) for each in told), told
        )

    def test_the_first_provenance_is_kept(self) -> None:
        """Another registry that makes the same image adopts the provenance of the first."""
        image = self.build("hello")
        before = self.attached(image.manifests[0])
        for key in self.now(self.storage.list_records("image")):
            self.now(self.storage.delete_record("image", key))
        self.restart()
        self.builder.pipeline.documents = DocumentMaker(
            sources=self.sources, nix=self.nix, cpu=InlineWorkers(), builder="https://other.example"
        )
        self.assertEqual(self.build("hello"), image)
        self.assertEqual(self.attached(image.manifests[0]), before)
