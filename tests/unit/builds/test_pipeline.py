"""Tests for :mod:`nixery.builds.pipeline`, over verified fakes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.logger import capturedLogs, formatEvent

from nixery.builds.build_record import BuildRecord
from nixery.builds.realisation import MAX_REEVALUATIONS
from nixery.errors import StorageError
from nixery.image.closure import RuntimeGraph
from nixery.image.manifests import OCI_MANIFEST, parse_manifest
from nixery.image.packages import Package
from nixery.layers.errors import ReservedName
from nixery.nix.errors import MissingDerivations, NixUnusable
from nixery.nix.interface import Realisation
from nixery.nix.progress import Progress
from nixery.storage.interface import PendingBlob
from nixery.testing.fakes import FakeNix, FakePackage
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

    def test_names_that_a_layer_cannot_have(self) -> None:
        """A file whose name deletes others is named with its packages; nothing is stored."""
        error = self.failureResultOf(self.request("hello/uses-whiteout"), ReservedName).value
        top = next(each for each in PACKAGES if each.attribute == "whiteout").path.path
        self.assertEqual(f"{top}/share/t/.wh.nix", error.path)
        self.assertEqual(("uses-whiteout",), error.packages)
        self.assertIn(f"{top}/share/t/.wh.nix (needed by uses-whiteout)", error.message)
        self.assertEqual(0, self.storage.created)
        self.assertEqual(set(), self.nix.roots)

    def test_layer_with_such_a_name_that_is_stored_already_is_not_used(self) -> None:
        """A closure is checked also where all of its layers are stored."""
        self.build("hello")
        glibc = self.directory / "store" / Path(PACKAGES[0].path.path).name
        self.restart()
        (glibc / "lib" / ".wh.x").touch()
        self.failureResultOf(self.request("git"), ReservedName)

    def test_entries_that_are_not_in_the_root_are_recorded(self) -> None:
        """A package's entries that are not in the root are logged and recorded."""
        other = FakePackage(attribute="other", files={"bin/hello": b"other"})
        self.nix = FakeNix(store=self.directory / "store", packages=(*PACKAGES, other))
        self.restart()
        records: list[BuildRecord] = []
        self.builder.pipeline.on_built = records.append
        with capturedLogs() as events:
            self.build("hello/other")
        logged = [formatEvent(event) for event in events]
        [hello] = [each.path.path for each in PACKAGES if each.attribute == "hello"]
        note = f"/bin/hello is {hello}/bin/hello, not {other.path.path}/bin/hello"
        self.assertEqual([(note,)], [record.notes for record in records])
        self.assertIn(f"hello/other: {note}", logged)

    def test_root_that_was_stored_for_the_same_packages_is_not_taken_for_another(self) -> None:
        """The layer of a root is found by what it holds."""
        built = self.build("hello")
        created = self.storage.created
        # As a version before this one would have kept it, were it the same.
        self.now(self.storage.delete_record("image", self.image_keys()[0]))
        self.restart()
        self.assertEqual(built, self.build("hello"))
        self.assertEqual(created, self.storage.created)
        [hello] = [each.path.path for each in PACKAGES if each.attribute == "hello"]
        (self.directory / "store" / Path(hello).name / "bin" / "more").touch()
        self.now(self.storage.delete_record("image", self.image_keys()[0]))
        self.restart()
        self.assertIn("bin/more", self.files(self.build("hello")))

    def image_keys(self) -> Sequence[str]:
        """The keys of the images that are stored."""
        return self.now(self.storage.list_records("image"))

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
        commit_many = self.storage.commit_many

        async def lose_roots(commits: Sequence[PendingBlob]) -> list[bytes]:
            self.nix.roots.clear()
            return await commit_many(commits)

        patched = self.patch(self.storage, "commit_many", lose_roots)
        error = self.failureResultOf(self.request("hello"), NixUnusable).value
        self.assertIn("try again", error.message)
        # That of the root, which holds nothing of the store.
        self.assertEqual(1, len(self.now(self.storage.list_records("layer"))))
        begun = self.storage.created
        patched.restore()
        self.assertEqual(built, self.build("hello"))
        self.assertGreater(self.storage.created, begun)
