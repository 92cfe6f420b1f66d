"""Tests for :mod:`nixery.http.registry.client_support`."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.http.registry.api import Registry
from nixery.http.registry.client_support import check_readable
from nixery.http.registry.errors import UnsupportedClient
from nixery.image.manifests import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    ImageLayer,
    build_image,
    digest_of,
)
from nixery.testing.fakes import InlineWorkers
from nixery.testing.memory_storage import MemoryStorage
from tests.support.http import DOCKER, IMAGE, Connection, FakeImages, make_index, make_root

ZSTD = build_image(
    layers=[
        ImageLayer(
            digest=digest_of(b"layer"),
            size=5,
            diff_id=digest_of(b"archive"),
            uncompressed_size=7,
            compression="zstd",
        )
    ],
    packages=[],
    system="x86_64-linux",
    has_shell=False,
    has_ca_bundle=False,
)
OLD = b"docker/20.10.24+dfsg1 go/go1.19.8 git-commit/5d6db84 kernel/6.1.0 os/linux arch/amd64"
NEW = (b"docker/23.0.1 go/go1.19.5", b"Docker/28.1.0", b"docker/dev", b"containerd/1.6.20", None)


class AbilityTests(SynchronousTestCase):
    """Tests of which clients are refused an image that they could not read."""

    def test_docker_before_23_is_told_at_once_what_it_would_fail_with_in_the_end(self) -> None:
        """Docker before 23 is told at once what it would fail with in the end."""
        accepted = {OCI_MANIFEST, DOCKER_MANIFEST}
        for agent in (OLD, b"docker/1.13.1", b"DOCKER/19.03"):
            error = self.assertRaises(UnsupportedClient, check_readable, ZSTD, agent, accepted)
            self.assertIn("zstd", error.message)
        for other in NEW:
            check_readable(ZSTD, other, accepted)

    def test_client_that_accepts_dockers_manifest_alone_is_refused(self) -> None:
        """A client that accepts Docker's manifest alone is refused: it could not read OCI's."""
        self.assertRaises(UnsupportedClient, check_readable, ZSTD, None, {DOCKER_MANIFEST})
        for accepted in ({DOCKER_MANIFEST, OCI_MANIFEST}, {DOCKER_MANIFEST, "*/*"}, {"*/*"}, set()):
            check_readable(ZSTD, None, accepted)

    def test_index_of_images_with_zstd(self) -> None:
        """Clients that could not read the images are refused the index in the same words."""
        index = make_index("zstd")
        for accepted in ({DOCKER_LIST, DOCKER_MANIFEST}, {DOCKER_LIST}, {DOCKER_MANIFEST}):
            error = self.assertRaises(UnsupportedClient, check_readable, index, None, accepted)
            self.assertIn("only Docker's are accepted", error.message)
        everything = {OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST}
        self.assertRaises(UnsupportedClient, check_readable, index, OLD, everything)
        for accepted in (everything, {OCI_INDEX}, {DOCKER_LIST, OCI_INDEX}, {"*/*"}, set()):
            check_readable(index, None, accepted)
        check_readable(make_index(), OLD, {DOCKER_LIST})

    def test_image_without_zstd_is_for_every_client_whatever_it_accepts(self) -> None:
        """An image without zstd is for every client, whatever it accepts."""
        for image in (IMAGE, evolve(IMAGE, manifests=(DOCKER,))):
            check_readable(image, OLD, {DOCKER_MANIFEST})


class AnswerTests(SynchronousTestCase):
    """The same over HTTP."""

    def test_get_and_head_agree_and_get_explains(self) -> None:
        """GET and HEAD agree, and GET explains."""
        images = FakeImages()
        images.images["zstd", "latest"] = ZSTD
        registry = Registry(images, MemoryStorage(), InlineWorkers(), Clock())
        connection = Connection(make_root(registry=registry))
        path = "/v2/zstd/manifests/latest"
        agent = ("User-Agent", OLD.decode())
        answer = connection.request("GET", path, agent)
        self.assertEqual(422, answer.status)
        self.assertIn("Docker 20", answer.error()["message"])
        self.assertEqual(422, connection.request("HEAD", path, agent).status)
        answer = connection.request(
            "GET", path, ("User-Agent", "containerd/1.6.20"), ("Accept", OCI_MANIFEST)
        )
        self.assertEqual((200, ZSTD.manifests[0].body), (answer.status, answer.body))
