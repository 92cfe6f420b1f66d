"""Tests for :mod:`nixery.builds.pipeline`, over verified fakes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from attrs import define, field

from nixery.builds.pipeline import ImagePipeline
from nixery.builds.realisation import MAX_REEVALUATIONS
from nixery.errors import StorageError
from nixery.image.closure import RuntimeGraph
from nixery.image.manifests import OCI_MANIFEST, parse_manifest
from nixery.image.packages import Package
from nixery.nix.errors import MissingDerivations, NixUnusable
from nixery.nix.interface import Realisation
from nixery.nix.progress import Progress
from nixery.testing.fakes import FakeNix
from tests.support.builds import PACKAGES, BuilderCase, CountingStorage


@define(kw_only=True, eq=False)
class RecordingNix(FakeNix):
    """Notes what it is asked."""

    calls: list[str] = field(factory=list, init=False)

    async def realise(self, packages: Sequence[Package], progress: Progress) -> Realisation:
        realisation = await super().realise(packages, progress)
        self.calls.append("realised")
        return realisation

    async def closure(self, outputs: Sequence[str]) -> RuntimeGraph:
        self.calls.append("closure")
        return await super().closure(outputs)


class PipelineTests(BuilderCase):
    """Tests of the stages that make one image."""

    def test_an_image_holds_its_packages(self) -> None:
        """The layers hold the closure, and the root leads to it."""
        files = self.files(self.build("hello"))
        glibc, _, hello, *_ = PACKAGES
        self.assertEqual(files[hello.path.path[1:] + "/bin/hello"], b"hello")
        self.assertEqual(files[glibc.path.path[1:] + "/lib/libc.so"], b"c" * 1000)
        self.assertEqual(files["bin/hello"], hello.path.path + "/bin/hello")
        self.assertNotIn("bin/git", files)

    def test_everything_named_is_stored(self) -> None:
        """Manifests, config and layers can be read as soon as the image is there."""
        image = self.build("git/hello")
        for manifest in image.manifests:
            self.assertEqual(self.now(self.storage.read(manifest.digest)), manifest.body)
            info = self.now(self.storage.stat(manifest.digest))
            self.assertEqual(info.media_type, manifest.media_type)
        self.assertEqual(self.now(self.storage.missing(image.digests)), frozenset())

    def test_the_config_knows_shell_and_certificates(self) -> None:
        """Cmd and SSL_CERT_FILE follow what the root holds."""

        def config(name: str) -> dict[str, Any]:
            [digest, *_] = [
                blob.digest
                for blob in parse_manifest(self.build(name).choose_manifest([OCI_MANIFEST]).body)
            ]
            value: dict[str, Any] = json.loads(self.blob(digest))["config"]
            return value

        self.assertEqual(config("bash")["Cmd"], ["/bin/bash"])
        self.assertNotIn("Cmd", config("hello"))
        self.assertIn("SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt", config("hello")["Env"])

    def test_layers_are_shared(self) -> None:
        """An image that shares packages packs what is new, and its root."""
        self.build("hello")
        begun = self.storage.created
        self.build("git/hello")
        # git, bash, and the root: glibc, hello and the certificates are there.
        self.assertEqual(self.storage.created - begun, 3)

    def test_roots_are_released(self) -> None:
        """A build's roots are dropped, whether it succeeds or fails."""
        self.build("hello")
        self.storage.failing = True
        self.failureResultOf(self.request("git"), StorageError)
        self.assertEqual(self.nix.roots, set())

    def test_derivations_that_were_collected(self) -> None:
        """Each collection between evaluation and build costs an evaluation, up to a limit."""
        self.nix.collected_derivations = 2
        self.build("hello")
        self.assertEqual(len(self.nix.evaluations), 3)
        self.nix.collected_derivations = MAX_REEVALUATIONS + 1
        self.failureResultOf(self.request("git"), MissingDerivations)

    def test_what_is_there_is_held(self) -> None:
        """A closure already in the store is rooted, not realised, and gives the same image."""
        self.nix = RecordingNix(
            store=self.directory / "store", packages=PACKAGES, can_root_valid_paths=True
        )
        self.restart()
        built = self.build("hello")
        # In vain at first: the packages were not built.
        self.assertEqual(["realised", "closure"], self.nix.calls)
        self.storage = CountingStorage()
        self.restart()
        self.nix.calls.clear()
        self.assertEqual(built, self.build("hello"))
        self.assertEqual([], [what for what in self.nix.calls if what == "realised"])
        self.assertEqual(1, len(self.nix.rooted))
        self.assertEqual(set(), self.nix.roots)

    def test_what_is_held_is_released(self) -> None:
        """A build that fails lets go of what it held."""
        self.nix = FakeNix(
            store=self.directory / "store", packages=PACKAGES, can_root_valid_paths=True
        )
        self.restart()
        self.build("hello")
        self.storage = CountingStorage()
        self.restart()
        self.storage.failing = True
        self.failureResultOf(self.request("hello"), StorageError)
        self.assertEqual(1, len(self.nix.rooted))
        self.assertEqual(set(), self.nix.roots)

    def test_what_is_lost_is_not_trusted(self) -> None:
        """Layers that were packed without protection are forgotten, and made again."""
        self.nix = FakeNix(
            store=self.directory / "store", packages=PACKAGES, can_root_valid_paths=True
        )
        self.restart()
        built = self.build("hello")
        self.storage = CountingStorage()
        self.restart()
        packing = ImagePipeline._pack

        async def pack(*arguments: Any) -> Any:
            packed = await packing(*arguments)
            self.nix.roots.clear()
            return packed

        patched = self.patch(ImagePipeline, "_pack", pack)
        error = self.failureResultOf(self.request("hello"), NixUnusable).value
        self.assertIn("try again", error.message)
        # That of the root, which holds nothing of the store.
        self.assertEqual(1, len(self.now(self.storage.list_records("layer"))))
        begun = self.storage.created
        patched.restore()
        self.assertEqual(built, self.build("hello"))
        self.assertGreater(self.storage.created, begun)
