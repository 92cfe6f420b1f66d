"""
Tests of the manifests that attach blobs to images.
"""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.artifacts.attachment import (
    IMAGE_ANNOTATION,
    attach_document,
    decode_attachments,
    encode_attachments,
    referrers_index,
    subject_of,
)
from nixery.artifacts.document import (
    CYCLONEDX,
    CYCLONEDX_PREDICATE,
    IN_TOTO,
    PROVENANCE_PREDICATE,
    Document,
)
from nixery.image.manifests import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
    digest_of,
    parse_manifest,
)

IMAGE = Manifest(media_type=DOCKER_MANIFEST, digest=digest_of(b"image"), body=b"image")
SBOM = Document(
    media_type=CYCLONEDX, predicate_type=CYCLONEDX_PREDICATE, data=b'{"bomFormat":"CycloneDX"}'
)
PROVENANCE = Document(
    media_type=IN_TOTO, predicate_type=PROVENANCE_PREDICATE, data=b'{"runDetails":{}}'
)
EMPTY = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


class AttachmentTests(SynchronousTestCase):
    """Tests of the attachment of documents."""

    def test_manifest_has_the_shape_of_an_artifact(self) -> None:
        """The manifest names the artifact's type, the empty config, the blob and the subject."""
        new = attach_document(IMAGE, SBOM)
        (config, _), (blob, blob_type), (body, body_type) = new.blobs
        self.assertEqual((config, blob, blob_type), (b"{}", SBOM.data, CYCLONEDX))
        self.assertEqual(body_type, OCI_MANIFEST)
        self.assertEqual(
            json.loads(body),
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "artifactType": CYCLONEDX,
                "config": {
                    "mediaType": "application/vnd.oci.empty.v1+json",
                    "digest": EMPTY,
                    "size": 2,
                },
                "layers": [
                    {
                        "mediaType": CYCLONEDX,
                        "digest": digest_of(SBOM.data),
                        "size": len(SBOM.data),
                    }
                ],
                "subject": {
                    "mediaType": DOCKER_MANIFEST,
                    "digest": IMAGE.digest,
                    "size": IMAGE.size,
                },
                "annotations": {"org.opencontainers.image.created": "1970-01-01T00:00:01Z"},
            },
        )
        self.assertEqual(
            {blob.digest for blob in parse_manifest(body)} | {digest_of(body)},
            new.attachment.digests,
        )

    def test_provenance_is_attached_as_a_statement_about_the_manifest(self) -> None:
        """The provenance is attached as a statement about the manifest."""
        new = attach_document(IMAGE, PROVENANCE)
        self.assertEqual(
            json.loads(new.blobs[1][0]),
            {
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [{"digest": {"sha256": IMAGE.digest.removeprefix("sha256:")}}],
                "predicateType": PROVENANCE_PREDICATE,
                "predicate": {"runDetails": {}},
            },
        )
        self.assertEqual(
            new.attachment.annotations["in-toto.io/predicate-type"], PROVENANCE_PREDICATE
        )

    def test_index_lists_what_the_manifests_say(self) -> None:
        """The index has for each manifest its descriptor, artifact type and annotations."""
        new = attach_document(IMAGE, SBOM)
        body = new.blobs[2][0]
        self.assertEqual(
            json.loads(referrers_index([new.attachment])),
            {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [
                    {
                        "mediaType": OCI_MANIFEST,
                        "digest": digest_of(body),
                        "size": len(body),
                        "artifactType": CYCLONEDX,
                        "annotations": json.loads(body)["annotations"],
                    }
                ],
            },
        )

    def test_index_of_no_referrers_is_a_valid_oci_index(self) -> None:
        """The index of no referrers is a valid OCI index."""
        self.assertEqual(
            json.loads(referrers_index([])),
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []},
        )

    def test_record_is_read_as_it_was_written(self) -> None:
        """A record of attachments is read as it was written."""
        attachments = tuple(attach_document(IMAGE, each).attachment for each in (SBOM, PROVENANCE))
        record = encode_attachments(IMAGE.digest, attachments)
        self.assertEqual(json.loads(record)["digest"], IMAGE.digest)
        self.assertEqual(decode_attachments(record), attachments)

    def test_record_that_is_none_is_refused(self) -> None:
        """A record that is none is refused with one error."""
        for record in (
            b"",
            b"[]",
            b"[" * 100_000,
            b'{"attachments":[{}]}',
            b'{"attachments":[{"manifest":{"mediaType":"m","digest":"d","size":1}}]}',
            b'{"attachments":1}',
        ):
            self.assertRaises(ValueError, decode_attachments, record)

    def test_subject_is_found(self) -> None:
        """A manifest belongs to its subject, or to the image that its annotation names."""
        self.assertEqual(subject_of(attach_document(IMAGE, SBOM).blobs[2][0]), IMAGE.digest)
        annotated = json.dumps({"annotations": {IMAGE_ANNOTATION: IMAGE.digest}}).encode()
        self.assertEqual(subject_of(annotated), IMAGE.digest)
        for body in (b"{}", b'{"annotations":{}}', b'{"subject":{"digest":"x"}}', b"[]", b"x"):
            self.assertIsNone(subject_of(body))

    @settings(max_examples=50)
    @given(st.binary())
    def test_any_bytes_have_no_subject_or_one(self, body: bytes) -> None:
        """Bytes that are no manifest have no subject, and are no error."""
        self.assertIsNone(subject_of(body))
