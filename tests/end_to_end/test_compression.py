"""
Tests of real engines with layers that are compressed otherwise than by gzip.
"""

from __future__ import annotations

import re

from tests.end_to_end.case import (
    EndToEndCase,
    Once,
    containerd,
    demo_registry,
    docker,
    podman,
    skopeo,
)
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.images import check_image
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.wire import DOCKER_MANIFEST, OCI_MANIFEST

zstd_registry = Once(
    lambda: Daemon(demo_set(), name="zstd", options=["--compression", "zstd"]).start()
)
plain_registry = Once(
    lambda: Daemon(demo_set(), name="plain", options=["--compression", "none"]).start()
)

FIRST_DOCKER = 23
"""The first version of Docker that unpacks zstd."""


class CompressionTests(EndToEndCase):
    """One image of each kind, pulled and run by every engine."""

    def test_podman_and_containerd_run_it(self) -> None:
        """podman and containerd run it; skopeo copies it; all of it is what gzip packs, too."""
        daemon = zstd_registry()
        image = f"{daemon.address}/hello"
        for engine in (podman(), containerd()):
            engine.pull(image).checked()
            self.assertIn("Hello, world!", engine.run(image, "hello").checked().stdout)
        skopeo().copy(image, f"dir:{skopeo().directory / 'zstd'}").checked()
        manifest = daemon.registry.manifest("hello", accept=OCI_MANIFEST)
        self.assertEqual(
            {layer["mediaType"] for layer in manifest.json()["layers"]},
            {"application/vnd.oci.image.layer.v1.tar+zstd"},
        )
        theirs = check_image(manifest.body, lambda digest: daemon.registry.blob("hello", digest))
        other = demo_registry().registry
        ours = check_image(other.manifest("hello").body, lambda digest: other.blob("hello", digest))
        self.assertEqual(theirs.config["rootfs"], ours.config["rootfs"])

    def test_zstd_by_docker(self) -> None:
        """Docker runs it, or is told at once why it cannot."""
        image = f"{zstd_registry().address}/hello"
        version = docker().server_version()
        pulled = docker().pull(image)
        if int(version.split(".")[0]) >= FIRST_DOCKER:
            pulled.checked()
            self.assertIn("Hello, world!", docker().run(image, "hello").checked().stdout)
        else:
            self.assertNotEqual(pulled.status, 0)
            self.assertRegex(pulled.output, re.compile("zstd: Docker .* does not know"))

    def test_zstd_for_docker_manifests_only(self) -> None:
        """A client that accepts Docker's manifests alone is told that there is none."""
        answer = zstd_registry().registry.manifest("hello", accept=DOCKER_MANIFEST)
        self.assertEqual(answer.status, 422)
        self.assertIn("zstd", answer.message)

    def test_plain_archives_run_everywhere(self) -> None:
        """Plain archives run everywhere, and are named by manifests of both kinds."""
        daemon = plain_registry()
        image = f"{daemon.address}/hello"
        for engine in (docker(), podman(), containerd()):
            engine.pull(image).checked()
            self.assertIn("Hello, world!", engine.run(image, "hello").checked().stdout)
        for accept in (OCI_MANIFEST, DOCKER_MANIFEST):
            manifest = daemon.registry.manifest("hello", accept=accept)
            self.assertEqual(manifest.headers["content-type"], accept)
            check_image(manifest.body, lambda digest: daemon.registry.blob("hello", digest))
