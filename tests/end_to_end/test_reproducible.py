"""
Bit for bit: the same packages give the same image, wherever it is made.
"""

from __future__ import annotations

import json
import pwd
import sys
from collections.abc import Mapping

from tests.end_to_end.case import EndToEndCase, demo_registry
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.engines import require
from tests.end_to_end.images import CheckedImage, check_image
from tests.end_to_end.multiuser_nix import start_stranger
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.wire import DOCKER_MANIFEST, OCI_MANIFEST, Registry
from tests.listing import statuses_below
from tests.support.sboms import cyclonedx_problems, spdx_problems

IMAGE = "shell/git/htop"

KINDS = (OCI_MANIFEST, DOCKER_MANIFEST)

ELSEWHERE = {
    "LANG": "de_DE.UTF-8",
    "LC_ALL": "tr_TR.UTF-8",
    "TZ": "Asia/Kathmandu",
    "PYTHONHASHSEED": "4711",
}


class ReproducibleTests(EndToEndCase):
    """Two registries that have nothing but the machine in common."""

    def manifests(self, registry: Registry, name: str = IMAGE) -> Mapping[str, str]:
        """The digests of an image's manifests, by their media types."""
        answers = {kind: registry.manifest(name, accept=kind) for kind in KINDS}
        self.assertEqual({answer.status for answer in answers.values()}, {200}, answers)
        return {kind: answers[kind].headers["docker-content-digest"] for kind in KINDS}

    def documents(self, registry: Registry) -> list[bytes]:
        """The bills of materials of the image, and its provenance."""
        names = ("sbom.cdx.json", "sbom.spdx.json", "provenance.json")
        answers = [registry.get(f"/images/{IMAGE}:latest/{name}") for name in names]
        self.assertEqual({answer.status for answer in answers}, {200}, answers)
        return [answer.body for answer in answers]

    def image(self, registry: Registry, name: str) -> CheckedImage:
        answer = registry.manifest(name)
        self.assertEqual(answer.status, 200, answer.body)
        return check_image(answer.body, lambda digest: registry.blob(name, digest))

    def test_another_state_umask_and_locale(self) -> None:
        """State directory, umask, locale, time zone and hash seed change nothing."""
        other = Daemon(demo_set(), name="elsewhere", umask=0o077, environ=ELSEWHERE).start()
        self.addCleanup(other.kill)
        ours = self.manifests(demo_registry().registry)
        self.assertEqual(self.manifests(other.registry), ours)
        theirs, documents = map(self.documents, (other.registry, demo_registry().registry))
        self.assertEqual(theirs[:2], documents[:2])
        cyclonedx, spdx, provenance = documents
        self.assertEqual([], cyclonedx_problems(cyclonedx))
        self.assertEqual([], spdx_problems(spdx))
        statement = json.loads(provenance)
        self.assertEqual(
            {"sha256": ours[OCI_MANIFEST].removeprefix("sha256:")},
            statement["subject"][0]["digest"],
        )
        self.assertEqual(
            {"image": IMAGE, "system": "x86_64-linux"},
            statement["predicate"]["buildDefinition"]["externalParameters"],
        )
        components = {each["name"]: each for each in json.loads(cyclonedx)["components"]}
        self.assertLessEqual({"git", "htop", "coreutils"}, components.keys())

    def test_image_does_not_depend_on_the_user(self) -> None:
        """Neither does the user, who reaches the store through Nix's daemon."""
        ours = self.manifests(demo_registry().registry)
        other = start_stranger(self, demo_set(), umask=0o027, environ=ELSEWHERE)
        self.assertEqual(self.manifests(other.registry), ours)
        owners = {status.st_uid for status in statuses_below(other.storage)}
        self.assertEqual({pwd.getpwuid(owner).pw_name for owner in owners}, {"nobody"})

    def test_compressed_otherwise_layers_have_same_diff_ids_in_same_order(self) -> None:
        """Compressed otherwise, layers have the same diff IDs in the same order."""
        other = Daemon(demo_set(), name="level", options=["--compression", "gzip-0"]).start()
        self.addCleanup(other.kill)
        theirs = self.image(other.registry, "hello")
        ours = self.image(demo_registry().registry, "hello")
        self.assertEqual(theirs.config["rootfs"], ours.config["rootfs"])
        self.assertNotEqual(theirs.manifest["layers"], ours.manifest["layers"])

    def test_on_a_processor_with_other_features_layers_have_the_same_diff_ids(self) -> None:
        """On a processor with other features, layers have the same diff IDs."""
        emulator = "qemu-x86_64"
        require(emulator)
        other = Daemon(
            demo_set(),
            name="processor",
            interpreter=[emulator, "-cpu", "qemu64", sys.executable],
        ).start()
        self.addCleanup(other.kill)
        theirs = self.image(other.registry, "hello")
        ours = self.image(demo_registry().registry, "hello")
        self.assertEqual(theirs.config["rootfs"], ours.config["rootfs"])
        # Compressed bytes do depend on it, or else nothing was tried here.
        self.assertNotEqual(theirs.manifest["layers"], ours.manifest["layers"])
