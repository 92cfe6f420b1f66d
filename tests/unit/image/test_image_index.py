"""Tests for :mod:`nixery.image.image_index`: the bytes of indexes, and who gets which form."""

from __future__ import annotations

import json
from collections.abc import Mapping

from twisted.trial.unittest import SynchronousTestCase

from nixery.image.errors import PlatformMissing
from nixery.image.image_index import (
    ImageIndex,
    build_index,
    index_manifest,
    index_manifests,
    skip_reason,
)
from nixery.image.manifests import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Image,
    ImageLayer,
    build_image,
    digest_of,
    parse_manifest,
)

AMD64, ARM64 = "x86_64-linux", "aarch64-linux"


def image(system: str, compression: str = "gzip") -> Image:
    layer = ImageLayer(
        digest=digest_of(system.encode()),
        size=10,
        diff_id=digest_of(b"archive" + system.encode()),
        uncompressed_size=20,
        compression=compression,
    )
    return build_image(
        layers=[layer], packages=[], system=system, has_shell=False, has_ca_bundle=False
    )


def index(
    *systems: str, skipped: Mapping[str, str] | None = None, compression: str = "gzip"
) -> ImageIndex:
    images = {system: image(system, compression) for system in systems}
    return build_index(images, AMD64, skipped or {})


class IndexTests(SynchronousTestCase):
    """Indexes of images for two systems."""

    def test_manifest_of_a_system(self) -> None:
        """The manifest of a system is found in both forms, and in nothing else."""
        made = index(AMD64, ARM64)
        for number, form in enumerate(made.manifests):
            for system in (AMD64, ARM64):
                manifest = made.images[system].manifests[number]
                self.assertEqual(manifest.digest, index_manifest(form.body, system))
            self.assertIsNone(index_manifest(form.body, "i686-linux"))
        for body in (b"", b"[]", b"{}", b'{"manifests":[1]}', b'{"manifests":[{"digest":"x"}]}'):
            self.assertIsNone(index_manifest(body, AMD64))

    def test_both_forms(self) -> None:
        """The OCI index names OCI manifests, Docker's list those of Docker, each with platform."""
        made = index(AMD64, ARM64)
        self.assertEqual(
            [manifest.media_type for manifest in made.manifests], [OCI_INDEX, DOCKER_LIST]
        )
        for form, media_type in zip(made.manifests, (OCI_MANIFEST, DOCKER_MANIFEST), strict=True):
            self.assertEqual(form.digest, digest_of(form.body))
            named = [
                next(
                    each for each in made.images[system].manifests if each.media_type == media_type
                )
                for system in (AMD64, ARM64)
            ]
            self.assertEqual(
                json.loads(form.body),
                {
                    "schemaVersion": 2,
                    "mediaType": form.media_type,
                    "manifests": [
                        {
                            "mediaType": media_type,
                            "digest": named[0].digest,
                            "size": named[0].size,
                            "platform": {"architecture": "amd64", "os": "linux"},
                        },
                        {
                            "mediaType": media_type,
                            "digest": named[1].digest,
                            "size": named[1].size,
                            "platform": {"architecture": "arm64", "os": "linux", "variant": "v8"},
                        },
                    ],
                },
            )
            self.assertEqual(made.named_manifests(form), tuple(named))
            self.assertEqual(index_manifests(form.body), tuple(each.digest for each in named))
            self.assertEqual(
                [each.digest for each in parse_manifest(form.body)], [each.digest for each in named]
            )

    def test_all_blobs(self) -> None:
        """An index needs all that its images need; clients pull all of their manifests."""
        made = index(AMD64, ARM64)
        own = {manifest.digest for manifest in made.manifests}
        parts = [each.digests for each in made.images.values()]
        self.assertEqual(made.digests, own.union(*parts))
        self.assertEqual(len(made.all_manifests), 6)

    def test_zstd_has_no_list(self) -> None:
        """Layers that have no media type of Docker's are in an OCI index only."""
        made = index(AMD64, ARM64, compression="zstd")
        self.assertEqual([manifest.media_type for manifest in made.manifests], [OCI_INDEX])

    def test_skipped_platforms(self) -> None:
        """The OCI index tells why a platform is missing; Docker's list has no place for that."""
        made = index(AMD64, skipped={ARM64: "no builder"})
        oci, docker = (json.loads(form.body) for form in made.manifests)
        self.assertEqual(oci["annotations"], {"nixery.platform.skipped.arm64": "no builder"})
        self.assertNotIn("annotations", docker)

    def test_choice(self) -> None:
        """A list is for those who name it, OCI's first; all others get the system's manifest."""
        made = index(ARM64, AMD64)
        oci, docker = made.images[AMD64].manifests
        for accepted, expected in (
            ((DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, DOCKER_MANIFEST), made.manifests[0]),
            ((OCI_INDEX,), made.manifests[0]),
            ((DOCKER_LIST,), made.manifests[1]),
            ((DOCKER_LIST.upper(), OCI_MANIFEST), made.manifests[1]),
            ((OCI_MANIFEST,), oci),
            ((DOCKER_MANIFEST,), docker),
            ((DOCKER_MANIFEST, OCI_MANIFEST), oci),
            (("*/*",), oci),
            ((), oci),
        ):
            self.assertIs(made.choose_manifest(accepted), expected, accepted)

    def test_the_systems_platform_is_missing(self) -> None:
        """A client that accepts no index is told why there is no image for it."""
        made = index(ARM64, skipped={AMD64: "it is only for ARM"})
        self.assertEqual(made.choose_manifest([OCI_INDEX]), made.manifests[0])
        error = self.assertRaises(PlatformMissing, made.choose_manifest, [OCI_MANIFEST])
        self.assertIn("amd64: it is only for ARM", error.message)

    def test_other_indexes(self) -> None:
        """An index of referrers is none of platforms, nor is anything else."""
        for body in (b'{"manifests":[{"digest":"x"}]}', b"{}", b"[]", b"x", b'{"manifests":1}'):
            self.assertEqual(index_manifests(body), ())

    def test_reasons(self) -> None:
        """A reason is the first line of a message, and no longer than people read."""
        self.assertEqual(skip_reason("one\ntwo"), "one")
        self.assertEqual(len(skip_reason("x" * 1000)), 500)
