"""
Partial pulls by podman 5, on file systems of their own.

podman runs where a tree has it, see :mod:`tests.end_to_end.client_tree`; a client of the tests' own
does the same in :mod:`tests.end_to_end.test_compression`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.end_to_end.case import EndToEndCase, Once
from tests.end_to_end.client_tree import ClientTree
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.package_sets import PartialSet
from tests.end_to_end.wire import OCI_MANIFEST

IMAGE = "leaf/odd/latin"

PREPARE = """
truncate -s 3G /run/disk
case $FILE_SYSTEM in ext4) mkfs.ext4 -qF /run/disk;; xfs) mkfs.xfs -q /run/disk;; esac
mkdir -p /run/store
mount -o loop /run/disk /run/store
trap 'umount -l /run/store' EXIT
cat >/etc/containers/storage.conf <<EOF
[storage]
driver = "overlay"
runroot = "/run/podman"
graphroot = "/run/store/storage"
[storage.options.pull_options]
enable_partial_images = "true"
EOF
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
sent() {
    python3 - <<EOF
import re, urllib.request
text = urllib.request.urlopen("http://$REGISTRY/metrics").read().decode()
sent = r'nixery_http_response_bytes_total{route="/v2/[^"]*blobs[^"]*"} (.*)'
print(int(sum(map(float, re.findall(sent, text)))))
EOF
}
contents() { # of the files below nix/store in a directory
    find nix/store -type f -exec sha256sum {} + | LC_ALL=C sort | sha256sum
}
"""

PULL = """
before=$(sent)
podman pull --quiet --tls-verify=false "$REGISTRY/$IMAGE@$DIGEST" >/run/pulled
after=$(sent)
seen=$(cd "$(podman image mount "$(cat /run/pulled)")" && contents)
podman image unmount "$(cat /run/pulled)" >/run/unmounted
mkdir /run/whole
crane export --insecure "$REGISTRY/$IMAGE@$DIGEST" - | tar -xC /run/whole nix/store
whole=$(cd /run/whole && contents)
chmod -R u+w /run/whole
rm -r /run/whole
echo "{\\"sent\\": $((after - before)), \\"seen\\": \\"$seen\\", \\"whole\\": \\"$whole\\"}"
"""


class _Served:
    """A registry with three versions of an image, and what it tells of each update."""

    def __init__(self) -> None:
        self.tree = ClientTree()
        packages = PartialSet()
        self.daemon = Daemon(
            packages.path, name="partial-podman", options=["--compression", "zstd-chunked"]
        ).start()
        registry = self.daemon.registry
        self.digests: list[str] = []
        self.told: list[Mapping[str, Any]] = []
        manifests: list[Mapping[str, Any]] = []
        for change in ({}, {"leaf": "2"}, {"bottom": "2"}):
            packages.change(**change)
            answer = registry.manifest(IMAGE, accept=OCI_MANIFEST)
            manifests.append(answer.json())
            self.digests.append(answer.headers["docker-content-digest"])
            if len(self.digests) > 1:
                old = f"{IMAGE}@{self.digests[-2]}"
                page = registry.get(f"/images/{IMAGE}:latest/compare?with={old}")
                self.told.append(page.json()["partial_pull"])
        self.layers: Sequence[Mapping[str, Any]] = manifests[0]["layers"]

    def pull(self, file_system: str) -> list[Mapping[str, Any]]:
        """Pull one version after the other into an empty storage on such a file system."""
        script = PREPARE + "".join(f"DIGEST={digest}\n{PULL}" for digest in self.digests)
        done = self.tree.run(
            script,
            {
                "REGISTRY": self.daemon.address,
                "IMAGE": IMAGE,
                "FILE_SYSTEM": file_system,
            },
        ).checked()
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


served = Once(_Served)


class PodmanTests(EndToEndCase):
    """podman 5 with ``enable_partial_images``: first pull, small update, update of everything."""

    def check_pulls(self, file_system: str, told: str) -> None:
        """
        Pull, and compare what was sent with what a comparison of the images tells.

        :param told: the name of that in the comparison.
        """
        registry = served()
        registry.tree.require(f"usr/sbin/mkfs.{file_system}")
        chunked = ["annotations" in layer for layer in registry.layers]
        self.assertEqual({True, False}, {*chunked}, "layers with and without tables")
        whole = sum(layer["size"] for layer in registry.layers)
        first, *updates = registry.pull(file_system)
        self.assertLess(first["sent"], 1.1 * whole)
        for pulled, expected in zip(updates, registry.told, strict=True):
            print(f"{file_system}: {pulled['sent']} of {whole} bytes; told: {expected[told]}")
            self.assertLess(pulled["sent"], 0.1 * whole)
            self.assertLess(pulled["sent"], 1.1 * expected[told])
        for pulled in (first, *updates):
            self.assertEqual(pulled["whole"], pulled["seen"])

    def test_update_on_ext4_fetches_the_files_that_changed(self) -> None:
        """On ext4, an update fetches the files that changed and the tables, and is the image."""
        self.check_pulls("ext4", "size")

    def test_update_on_xfs_fetches_the_chunks_that_changed(self) -> None:
        """On XFS with reflinks, an update fetches the chunks that changed."""
        self.check_pulls("xfs", "size_with_reflinks")
