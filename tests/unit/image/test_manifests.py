"""
Tests for ``nixery.image.manifests`` and ``nixery.image.config``.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.image.errors import ImageLimitExceeded, UnknownSystem
from nixery.image.manifests import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    MAX_LAYERS,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Image,
    ImageLayer,
    Manifest,
    build_image,
    digest_of,
    layer_media_type,
    parse_manifest,
    preferred_media_type,
)
from nixery.image.names import Digest
from nixery.image.packages import Package
from tests.support.strategies import packages

digests = st.binary(max_size=4).map(digest_of)

image_layers = st.builds(
    ImageLayer,
    digest=digests,
    size=st.integers(0, 2**50),
    diff_id=digests,
    uncompressed_size=st.integers(0, 2**50),
    compression=st.sampled_from(["gzip", "zstd", "zstd-chunked", "none"]),
    annotations=st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
    contents=st.lists(st.text(max_size=8), max_size=4).map(tuple),
)


def layer(number: int, *contents: str) -> ImageLayer:
    """A layer that differs from those of other numbers."""
    return ImageLayer(
        digest=digest_of(b"blob %d" % number),
        size=1000 + number,
        diff_id=digest_of(b"archive %d" % number),
        uncompressed_size=3000 + number,
        contents=contents,
    )


def package(attribute: str, version: str = "1.0", description: str = "") -> Package:
    return Package(
        requested=(attribute,),
        attribute=attribute,
        name=f"{attribute}-{version}",
        pname=attribute,
        version=version,
        description=description,
        priority=5,
        derivation="/nix/store/x.drv",
        outputs=(),
    )


def build(*layers: ImageLayer, **changes: Any) -> Image:
    """An image, by default a plain one."""
    arguments = {
        "packages": [package("hello", "2.10", "A program")],
        "system": "x86_64-linux",
        "has_shell": False,
        "has_ca_bundle": False,
    }
    return build_image(layers=layers, **{**arguments, **changes})


def config_of(image: Image) -> Any:
    assert image.config is not None
    return json.loads(image.config)


class ManifestTests(SynchronousTestCase):
    """The manifests of :func:`build_image`."""

    @settings(max_examples=50)
    @given(st.lists(image_layers, max_size=6), st.lists(packages(), max_size=3))
    def test_both_manifests_name_the_same_config_and_layers(
        self, layers: list[ImageLayer], wanted: list[Package]
    ) -> None:
        """Both manifests name the same config and layers, by their digests and sizes."""
        image = build(*layers, packages=wanted)
        assert image.config is not None
        expected = [
            (digest_of(image.config), len(image.config)),
            *((each.digest, each.size) for each in layers),
        ]
        types = [OCI_MANIFEST, DOCKER_MANIFEST]
        if any(each.compression.startswith("zstd") for each in layers):
            types.remove(DOCKER_MANIFEST)
        self.assertEqual([manifest.media_type for manifest in image.manifests], types)
        for manifest in image.manifests:
            blobs = parse_manifest(manifest.body)
            self.assertEqual([(blob.digest, blob.size) for blob in blobs], expected)
            self.assertEqual(manifest.blobs(), blobs)
            self.assertEqual(manifest.digest, digest_of(manifest.body))
            self.assertEqual(manifest.size, len(manifest.body))
        self.assertEqual(
            image.digests,
            {digest for digest, _ in expected} | {each.digest for each in image.manifests},
        )

    @settings(max_examples=30)
    @given(st.lists(image_layers, max_size=6), st.lists(packages(), max_size=3), st.data())
    def test_same_input_gives_same_bytes_in_whatever_order_packages_are_given(
        self, layers: list[ImageLayer], wanted: list[Package], data: st.DataObject
    ) -> None:
        """The same input gives the same bytes, in whatever order packages are given."""
        unique = list({each.attribute: each for each in wanted}.values())
        one = build(*layers, packages=unique)
        other = build(*layers, packages=data.draw(st.permutations(unique)))
        self.assertEqual(one, other)
        self.assertEqual(one.config, other.config)

    def test_each_manifest_has_media_types_of_its_family_only(self) -> None:
        """Each manifest speaks the words of its own family only."""
        image = build(layer(1), evolve(layer(2), compression="none"))
        oci, docker = (json.loads(manifest.body) for manifest in image.manifests)
        self.assertEqual((oci["schemaVersion"], docker["schemaVersion"]), (2, 2))
        self.assertEqual(
            [oci["mediaType"], *(blob.media_type for blob in image.manifests[0].blobs())],
            [
                OCI_MANIFEST,
                OCI_CONFIG,
                "application/vnd.oci.image.layer.v1.tar+gzip",
                "application/vnd.oci.image.layer.v1.tar",
            ],
        )
        self.assertEqual(
            [docker["mediaType"], *(blob.media_type for blob in image.manifests[1].blobs())],
            [
                DOCKER_MANIFEST,
                DOCKER_CONFIG,
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "application/vnd.docker.image.rootfs.diff.tar",
            ],
        )
        self.assertEqual(layer_media_type("gzip"), "application/vnd.oci.image.layer.v1.tar+gzip")

    def test_layers_docker_has_no_word_for_are_named_by_oci_alone(self) -> None:
        """Layers that Docker's manifests have no word for are named by OCI's alone."""
        chunked = evolve(layer(3), compression="zstd-chunked", annotations={"a": "b"})
        image = build(layer(1), evolve(layer(2), compression="zstd"), chunked)
        (oci,) = image.manifests
        self.assertEqual(oci.media_type, OCI_MANIFEST)
        self.assertEqual(
            [blob.media_type for blob in oci.blobs()][1:],
            [
                "application/vnd.oci.image.layer.v1.tar+gzip",
                "application/vnd.oci.image.layer.v1.tar+zstd",
                "application/vnd.oci.image.layer.v1.tar+zstd",
            ],
        )
        layers = json.loads(oci.body)["layers"]
        self.assertEqual([None, None, {"a": "b"}], [each.get("annotations") for each in layers])
        self.assertEqual(layer_media_type("zstd"), "application/vnd.oci.image.layer.v1.tar+zstd")

    def test_order_of_layers(self) -> None:
        """The order of layers is that of the arguments, and part of the identity."""
        one, other = build(layer(1), layer(2)), build(layer(2), layer(1))
        self.assertNotEqual(one.manifests, other.manifests)
        self.assertEqual(
            [blob.size for blob in one.manifests[0].blobs()][1:], [layer(1).size, layer(2).size]
        )

    def test_too_many_layers(self) -> None:
        """As many layers as engines take are fine, and one more is an error."""
        layers = [layer(number) for number in range(MAX_LAYERS + 1)]
        self.assertEqual(len(build(*layers[:-1]).manifests[0].blobs()), MAX_LAYERS + 1)
        error = self.assertRaises(ImageLimitExceeded, build, *layers)
        self.assertEqual((error.value, error.limit), (128, 127))
        self.assertIn("128 layers", error.message)

    def test_manifest_too_large(self) -> None:
        """A manifest that clients would not read to its end is an error."""
        monster = evolve(layer(1), digest=Digest("sha256:" + "0" * (4 << 20)))
        error = self.assertRaises(ImageLimitExceeded, build, monster)
        self.assertGreater(error.value, error.limit)

    def test_compression_without_media_type_is_refused_when_layer_is_described(self) -> None:
        """A compression without a media type is refused when the layer is described."""
        self.assertRaises(ValueError, evolve, layer(1), compression="lzma")


class ConfigTests(SynchronousTestCase):
    """The config of :func:`build_image`."""

    def test_config_key_by_key(self) -> None:
        """A config, key by key."""
        image = build(layer(1, "glibc-2.40"), layer(2, "hello-2.10", "gettext-0.22"))
        self.assertEqual(
            config_of(image),
            {
                "architecture": "amd64",
                "os": "linux",
                "created": "1970-01-01T00:00:01Z",
                "config": {
                    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                    "Labels": {
                        "nixery.image.packages": "hello=2.10",
                        "org.opencontainers.image.title": "hello",
                        "org.opencontainers.image.version": "2.10",
                        "org.opencontainers.image.description": "A program",
                    },
                },
                "rootfs": {"type": "layers", "diff_ids": [layer(1).diff_id, layer(2).diff_id]},
                "history": [
                    {
                        "created": "1970-01-01T00:00:01Z",
                        "created_by": "nixery: glibc-2.40",
                    },
                    {
                        "created": "1970-01-01T00:00:01Z",
                        "created_by": "nixery: hello-2.10, gettext-0.22",
                    },
                ],
            },
        )

    def test_shell_and_certificates(self) -> None:
        """A shell is run by default, a bundle of certificates is found by default."""
        container = config_of(build(has_shell=True, has_ca_bundle=True))["config"]
        self.assertEqual(container["Cmd"], ["/bin/bash"])
        self.assertEqual(container["Env"][1:], ["SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt"])

    def test_there_is_config_object_even_if_there_is_nothing_to_say_of_image(self) -> None:
        """There is a ``config`` object even if there is nothing to say of the image."""
        config = config_of(build(packages=[]))
        self.assertEqual(list(config["config"]), ["Env", "Labels"])
        self.assertEqual(config["config"]["Labels"], {})
        self.assertEqual((config["history"], config["rootfs"]["diff_ids"]), ([], []))

    def test_systems_have_the_names_that_go_gives_them(self) -> None:
        """Systems have the names that Go gives them."""
        for system, expected in (
            ("x86_64-linux", ("amd64", None)),
            ("aarch64-linux", ("arm64", "v8")),
            ("i686-linux", ("386", None)),
            ("armv7l-linux", ("arm", "v7")),
            ("armv6l-linux", ("arm", "v6")),
            ("riscv64-linux", ("riscv64", None)),
            ("powerpc64le-linux", ("ppc64le", None)),
        ):
            config = config_of(build(system=system))
            self.assertEqual((config["architecture"], config.get("variant")), expected)
            self.assertEqual(config["os"], "linux")

    def test_unknown_system_error_lists_the_known_ones(self) -> None:
        """A system that images have no name for is an error that says which have one."""
        error = self.assertRaises(UnknownSystem, build, system="x86_64-darwin")
        self.assertIn("x86_64-darwin", error.message)
        self.assertIn("aarch64-linux", error.message)

    def test_labels_of_several(self) -> None:
        """Labels list packages by attribute; what is in every image is no title."""
        image = build(
            packages=[package("htop", "3.3"), package("cacert", "3.101"), package("git", "2.47")]
        )
        self.assertEqual(
            config_of(image)["config"]["Labels"],
            {
                "nixery.image.packages": "cacert=3.101 git=2.47 htop=3.3",
                "org.opencontainers.image.title": "git, htop",
                "org.opencontainers.image.description": "git-2.47, htop-3.3",
            },
        )

    def test_labels_of_what_is_always_there(self) -> None:
        """A package that every image has is the title if nothing else was requested."""
        labels = config_of(build(packages=[package("cacert", "")]))["config"]["Labels"]
        self.assertEqual(labels["org.opencontainers.image.title"], "cacert")
        self.assertNotIn("org.opencontainers.image.version", labels)

    @settings(max_examples=30)
    @given(st.integers(1, 400), st.integers(1, 200), st.sampled_from("aé語"))
    def test_labels_and_history_stay_small(self, count: int, length: int, letter: str) -> None:
        """However many packages and paths there are, labels and history stay small."""
        names = [f"{number}{letter * length}" for number in range(count)]
        image = build(
            layer(1, *names), packages=[package(name, description="d" * 5000) for name in names]
        )
        config = config_of(image)
        for key, value in config["config"]["Labels"].items():
            self.assertLess(len(key.encode()) + len(value.encode()), 4096)
        [entry] = config["history"]
        self.assertLess(len(entry["created_by"].encode()), 1100)
        shown = entry["created_by"].removeprefix("nixery: ").split(", ")
        if shown[-1].startswith("+"):
            self.assertEqual(len(shown) - 1 + int(shown.pop()), count)
        self.assertEqual(shown, names[: len(shown)])


class ChooseTests(SynchronousTestCase):
    """Tests of the choice of the manifest that a client gets."""

    image = build(layer(1))

    families = (
        ({OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, "*/*"}, OCI_MANIFEST),
        ({OCI_MANIFEST}, OCI_MANIFEST),
        ({DOCKER_MANIFEST}, DOCKER_MANIFEST),
        ({DOCKER_MANIFEST, "*/*"}, DOCKER_MANIFEST),
        ({DOCKER_MANIFEST.upper()}, DOCKER_MANIFEST),
        ({"application/vnd.docker.distribution.manifest.v1+prettyjws"}, DOCKER_MANIFEST),
        ({"application/vnd.docker.distribution.manifest.list.v2+json", "*/*"}, DOCKER_MANIFEST),
        ({OCI_INDEX}, OCI_MANIFEST),
        ({"*/*"}, OCI_MANIFEST),
        ({"application/json"}, OCI_MANIFEST),
        (set[str](), OCI_MANIFEST),
    )

    def test_presence_decides_and_without_it_manifest_of_specification_is_served(self) -> None:
        """Presence decides, and without it the manifest of the specification is served."""
        for accepted, expected in self.families:
            self.assertEqual(preferred_media_type(accepted), expected)
            self.assertEqual(self.image.choose_manifest(accepted).media_type, expected)

    @settings(max_examples=50)
    @given(
        st.lists(st.sampled_from([OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, "*/*", "text/html"])),
        st.data(),
    )
    def test_order_of_what_a_client_accepts_does_not_matter(
        self, accepted: list[str], data: st.DataObject
    ) -> None:
        """The order of what a client accepts does not matter."""
        other = data.draw(st.permutations(accepted))
        self.assertEqual(self.image.choose_manifest(accepted), self.image.choose_manifest(other))

    def test_image_with_one_manifest_serves_that_one_to_every_client(self) -> None:
        """An image with one manifest serves that one to every client."""
        image = Image(manifests=self.image.manifests[1:])
        self.assertEqual(image.choose_manifest({OCI_MANIFEST}).media_type, DOCKER_MANIFEST)


class ParseManifestTests(SynchronousTestCase):
    """Tests for :func:`parse_manifest`."""

    def test_body_that_is_no_manifest_is_an_error(self) -> None:
        """A body that is no manifest is an error."""
        digest = "sha256:" + "0" * 64
        blob = {"mediaType": "m", "digest": digest, "size": 1}
        good = {"config": blob, "layers": [blob]}
        self.assertEqual(len(parse_manifest(json.dumps(good).encode())), 2)
        for bad in (
            b"",
            b"\xff",
            b"[]",
            b"[" * 100_000,
            b"1",
            b'{"schemaVersion":2,"manifests":[]}',
            *(
                json.dumps(value).encode()
                for value in (
                    {"layers": [blob]},
                    {"config": blob},
                    {"config": blob, "layers": 1},
                    {"config": {**blob, "digest": "sha256:0"}, "layers": []},
                    {"config": {**blob, "digest": 1}, "layers": []},
                    {"config": {**blob, "size": "many"}, "layers": []},
                    {"config": {**blob, "size": -1}, "layers": []},
                    {"config": {**blob, "size": True}, "layers": []},
                    {"config": {**blob, "mediaType": None}, "layers": []},
                    {"config": blob, "layers": [None]},
                )
            ),
        ):
            self.assertRaises(UnexpectedOutput, parse_manifest, bad)

    @settings(max_examples=50)
    @given(st.binary())
    def test_any_bytes_that_are_no_manifest_raise_the_one_error(self, body: bytes) -> None:
        """Any bytes that are no manifest raise the one error."""
        self.assertRaises(UnexpectedOutput, parse_manifest, body)

    def test_image_of_garbage(self) -> None:
        """An image is not made of manifests that cannot be read."""
        manifest = Manifest(media_type=OCI_MANIFEST, digest=digest_of(b"{}"), body=b"{}")
        self.assertRaises(UnexpectedOutput, Image, manifests=(manifest,))


class SmallThingsTests(SynchronousTestCase):
    """Tests for what else there is."""

    def test_digest_names_its_algorithm(self) -> None:
        """A digest names its algorithm."""
        self.assertEqual(digest_of(b"x"), "sha256:" + hashlib.sha256(b"x").hexdigest())
