"""
Tests of real engines with layers that are compressed otherwise than by gzip.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest

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
from tests.end_to_end.package_sets import PartialSet, demo_set
from tests.end_to_end.partial_node import PartialNode
from tests.end_to_end.processes import private_directory, run
from tests.end_to_end.wire import DOCKER_MANIFEST, OCI_MANIFEST

zstd_registry = Once(
    lambda: Daemon(demo_set(), name="zstd", options=["--compression", "zstd"]).start()
)
chunked_registry = Once(
    lambda: Daemon(demo_set(), name="chunked", options=["--compression", "zstd-chunked"]).start()
)
plain_registry = Once(
    lambda: Daemon(demo_set(), name="plain", options=["--compression", "none"]).start()
)

_PACK = """
import json, resource, sys
from nixery.layers.compression_levels import Compression
from nixery.layers.tarball import pack_store_paths
from tests.support.partial_pulls import PREFIX, read_table

pieces = []
packed = pack_store_paths(
    [f"/nix/store/{'a' * 32}-sparse"],
    lambda data: pieces.append(data) or len(data),
    compression=Compression(kind="zstd-chunked"),
    store=sys.argv[1],
)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
blob = b"".join(pieces)
entries = read_table(blob, packed.annotations)
chunks = [each["chunkDigest"] for each in entries if "chunkDigest" in each]
print(json.dumps({
    "memory": memory, "size": packed.size, "chunks": len(chunks), "different": len(set(chunks)),
}))
"""
"""Packs a store path, and tells what became of it."""

CHECKOUT = Path(__file__).resolve().parents[2]

FULL = os.environ.get("NIXERY_TEST_FULL") == "1"

FIRST_DOCKER = 23
"""The first version of Docker that unpacks zstd."""


class CompressionTests(EndToEndCase):
    """One image of each kind, pulled and run by every engine."""

    def test_podman_and_containerd_run_it(self) -> None:
        """podman and containerd run it; skopeo copies it; all of it is what gzip packs, too."""
        self.check_zstd(zstd_registry())

    def test_chunked_layers_are_zstd_to_everybody(self) -> None:
        """Engines without partial pulls run images with chunked layers, as zstd."""
        self.check_zstd(chunked_registry())

    def test_partial_pull_fetches_what_has_changed(self) -> None:
        """Partial pulls fetch the files that have changed, and make the same archives of them."""
        packages = PartialSet()
        daemon = Daemon(
            packages.path, name="partial", options=["--compression", "zstd-chunked"]
        ).start()
        self.addCleanup(daemon.stop)
        node = PartialNode(daemon.registry)
        counted = self.counted(daemon)
        whole, fetched = node.pull("leaf")
        # Of equal chunks only one is fetched.
        self.assertLess(0.9 * whole, fetched)
        self.assertLess(fetched, 1.1 * whole)
        self.assertEqual(fetched, self.counted(daemon) - counted)
        for change in ({"leaf": "2"}, {"bottom": "2"}):
            old = self.digest(daemon)
            packages.change(**change)
            whole, fetched = node.pull("leaf")
            self.assertLess(fetched, 0.1 * whole)
            told = daemon.registry.get(f"/images/leaf:latest/compare?with=leaf@{old}").json()
            # The puller takes chunks from all files, and there are headers between the parts.
            expected = told["partial_pull"]["size_with_reflinks"]
            self.assertLess(abs(expected - fetched), 0.03 * expected)
            self.assertIn("leaf", [each["name"] for each in told["packages"]["rebuilt"]])
            image = daemon.registry.get("/images/leaf:latest").json()
            self.assertEqual(old, image["earlier"][0]["digest"])

    def test_image_of_odd_entries_is_pulled_from_its_tables(self) -> None:
        """Long names, holes and empty files are pulled from tables; layers without are whole."""
        packages = PartialSet()
        daemon = Daemon(
            packages.path, name="odd", options=["--compression", "zstd-chunked"]
        ).start()
        self.addCleanup(daemon.stop)
        node = PartialNode(daemon.registry)
        counted = self.counted(daemon)
        _, fetched = node.pull("odd/latin")
        self.assertEqual(fetched, self.counted(daemon) - counted)
        manifest = daemon.registry.manifest("odd/latin", accept=OCI_MANIFEST).json()
        self.assertEqual({True, False}, {"annotations" in layer for layer in manifest["layers"]})

    def test_sparse_file_of_5_gib_is_packed_in_bounded_memory(self) -> None:
        """A sparse file of 5 GiB becomes chunks of which a client fetches one, in little memory."""
        if not FULL:
            raise SkipTest("heavy: tests/run full")
        store = private_directory("sparse")
        top = store / f"{'a' * 32}-sparse"
        top.mkdir()
        with (top / "holes").open("wb") as file:
            file.truncate(5 * 2**30)
        packed = run([sys.executable, "-c", _PACK, str(store)], cwd=CHECKOUT, seconds=600).checked()
        told = json.loads(packed.stdout)
        # A fifth of that is the interpreter with its modules.
        self.assertLess(told["memory"], 200 * 2**20)
        self.assertLess(told["size"], 64 * 2**20)
        self.assertEqual(5 * 2**30 // 2**18, told["chunks"])
        self.assertEqual(1, told["different"])

    def counted(self, daemon: Daemon) -> int:
        """The bytes of blobs that the daemon has counted."""
        text = daemon.registry.get("/metrics").body.decode()
        sent = re.findall(
            r'^nixery_http_response_bytes_total{route="/v2/[^"]*blobs[^"]*"} (.*)$', text, re.M
        )
        return int(sum(map(float, sent)))

    def digest(self, daemon: Daemon) -> str:
        """The digest of the image, as a node knows it that has pulled it."""
        manifest = daemon.registry.manifest("leaf", accept=OCI_MANIFEST)
        return manifest.headers["docker-content-digest"]

    def check_zstd(self, daemon: Daemon) -> None:
        image = f"{daemon.address}/hello"
        for engine in (podman(), containerd()):
            engine.pull(image).checked()
            self.assertIn("Hello, world!", engine.run(image, "hello").checked().stdout)
        skopeo().copy(image, f"dir:{private_directory('copy')}").checked()
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
