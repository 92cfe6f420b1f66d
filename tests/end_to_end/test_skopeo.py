"""
Images as skopeo sees and copies them, checked byte for byte by code that is not
ours.
"""

from __future__ import annotations

import json

from tests.end_to_end.case import EndToEndCase, demo_registry, skopeo, watched_registry
from tests.end_to_end.images import check_image, digest_of, elf_machine, read_dir, read_oci_layout
from tests.end_to_end.wire import DOCKER_MANIFEST, OCI_MANIFEST

X86_64 = 62
AARCH64 = 183


class SkopeoTests(EndToEndCase):
    """skopeo inspects images and copies them."""

    def test_manifests_digest_the_tags_the_layers_and_the_platform_are_told(self) -> None:
        """The manifest's digest, the tags, the layers and the platform are told."""
        seen = json.loads(skopeo().inspect(f"{demo_registry().address}/hello").checked().stdout)
        manifest = demo_registry().registry.manifest("hello")
        layers = [layer["digest"] for layer in manifest.json()["layers"]]
        self.assertEqual(seen["RepoTags"], ["latest"])
        self.assertEqual(seen["Layers"], layers)
        self.assertEqual((seen["Os"], seen["Architecture"]), ("linux", "amd64"))
        by_digest = skopeo().inspect(f"{demo_registry().address}/hello@{seen['Digest']}")
        self.assertEqual(json.loads(by_digest.checked().stdout)["Layers"], layers)

    def test_bytes_of_manifest_and_of_config_are_ones_that_are_served(self) -> None:
        """The bytes of the manifest and of the config are the ones that are served."""
        image = f"{demo_registry().address}/hello"
        manifest = skopeo().inspect(image, "--raw").checked().stdout.encode()
        stored = demo_registry().registry.manifest("hello", digest_of(manifest))
        self.assertEqual(stored.body, manifest)
        config = skopeo().inspect(image, "--raw", "--config").checked().stdout.encode()
        digest = json.loads(manifest)["config"]["digest"]
        self.assertEqual(demo_registry().registry.blob("hello", digest), config)

    def test_byte_for_byte(self) -> None:
        """Every digest, size and diff ID of a copied image is true."""
        image = f"{demo_registry().address}/shell/git/htop"
        layout = skopeo().directory / "oci"
        skopeo().copy(image, f"oci:{layout}:latest").checked()
        checked = check_image(*read_oci_layout(layout))
        self.assertGreater(len(checked.layers), 10)
        self.assertEqual(checked.config["architecture"], "amd64")

        directory = skopeo().directory / "dir"
        skopeo().copy(image, f"dir:{directory}").checked()
        manifest, blob = read_dir(directory)
        self.assertEqual(check_image(manifest, blob).config, checked.config)
        served = demo_registry().registry.manifest("shell/git/htop", digest_of(manifest))
        self.assertEqual(served.body, manifest)

    def test_manifests_of_both_kinds_are_whole_and_name_the_same_image(self) -> None:
        """The manifests of both kinds are whole and name the same image."""
        registry = demo_registry().registry
        images = []
        for kind in (OCI_MANIFEST, DOCKER_MANIFEST):
            answer = registry.manifest("hello", accept=kind)
            self.assertEqual(answer.headers["content-type"], kind)
            self.assertEqual(answer.json()["mediaType"], kind)
            images.append(check_image(answer.body, lambda digest: registry.blob("hello", digest)))
        self.assertEqual(images[0].layers, images[1].layers)
        self.assertEqual(images[0].config, images[1].config)

    def test_layers_hold_normalised_entries_and_none_of_them_twice(self) -> None:
        """Layers hold normalised entries, and none of them twice."""
        registry = demo_registry().registry
        image = check_image(
            registry.manifest("shell/git/htop").body,
            lambda digest: registry.blob("shell/git/htop", digest),
        )
        seen: dict[str, bool] = {}
        for member, _ in image.members():
            self.assertEqual((member.uid, member.gid), (0, 0), member.name)
            self.assertEqual((member.uname, member.gname), ("", ""), member.name)
            self.assertFalse(member.islnk() or member.isdev(), member.name)
            self.assertIn(member.mtime, (0, 1), member.name)
            # Directories such as /nix are in every layer; whatever else is once.
            if member.name in seen:
                self.assertTrue(seen[member.name] and member.isdir(), member.name)
            seen[member.name] = member.isdir()

    def test_skopeo_shows_the_name_that_does_not_exist_and_those_near_it(self) -> None:
        """skopeo shows the name that does not exist and those near it."""
        finished = skopeo().inspect(f"{demo_registry().address}/helo")
        self.assertNotEqual(finished.status, 0)
        self.assertIn("helo", finished.stderr)
        self.assertIn("hello", finished.stderr)

    def test_skopeo_shows_the_derivation_that_failed_and_the_end_of_its_log(self) -> None:
        """skopeo shows the derivation that failed and the end of its log."""
        finished = skopeo().inspect(f"{watched_registry().address}/needs-failing")
        self.assertNotEqual(finished.status, 0)
        self.assertIn("-failing-skopeo-1.0.drv", finished.stderr)
        self.assertIn("this is why it failed", finished.stderr)

    def test_image_for_arm64_says_so_and_so_do_its_programs(self) -> None:
        """An image for arm64 says so, and so do its programs."""
        registry = demo_registry().registry
        layout = skopeo().directory / "arm64"
        skopeo().copy(f"{demo_registry().address}/arm64/hello", f"oci:{layout}:latest").checked()
        image = check_image(*read_oci_layout(layout))
        self.assertEqual(image.config["architecture"], "arm64")
        self.assertEqual(elf_machine(image.read("/bin/hello")), AARCH64)
        native = check_image(
            registry.manifest("hello").body, lambda digest: registry.blob("hello", digest)
        )
        self.assertEqual(elf_machine(native.read("/bin/hello")), X86_64)
