"""
Tests of failures below the daemon: the disk is full, files are removed, Nix ignores
its settings.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.end_to_end.daemon import RECHECK, Daemon
from tests.end_to_end.fault_injection import ChaosCase
from tests.end_to_end.images import digest_of
from tests.end_to_end.multiuser_nix import start_stranger
from tests.end_to_end.package_sets import WatchedSet
from tests.end_to_end.processes import private_directory, run
from tests.support.trees import below


class FullDiskTests(ChaosCase):
    """A disk without room for what is asked for."""

    def setUp(self) -> None:
        super().setUp()
        self.packages = WatchedSet()
        self.disk = private_directory("disk")
        self.mount("size=4m", "-t", "tmpfs", "tmpfs")
        self.addCleanup(run, ["umount", "--lazy", str(self.disk)])
        self.daemon = Daemon(
            self.packages.path,
            name="full",
            environ={"STORAGE_PATH": str(self.disk / "storage")},
            # A disk of this size would be taken for full.
            options=["--min-free-space=0"],
        )
        self.daemon.storage = self.disk / "storage"
        self.daemon.start()
        self.addCleanup(self.daemon.kill)

    def mount(self, options: str, *arguments: str) -> None:
        run(["mount", "-o", options, *arguments, str(self.disk)]).checked()

    def fill(self) -> Path:
        """Leave no room at all; the file that takes it."""
        ballast = self.disk / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        except OSError as error:
            self.assertEqual(error.errno, errno.ENOSPC)
        return ballast

    def check_refused(self, name: str) -> None:
        """Check that the client is told why there is no image, and no partial file is left."""
        answer = self.daemon.registry.manifest(name)
        self.assertEqual(answer.status, 507, answer.body)
        self.assertIn("No space left on device", answer.message)
        self.assertIn("free some space", answer.message)
        self.check_tidy(self.daemon)
        for blob in below(self.daemon.storage / "blobs"):
            if blob.is_file():
                self.assertEqual(digest_of(blob.read_bytes()), f"sha256:{blob.name}")

    def test_image_that_does_not_fit_is_refused_until_there_is_room(self) -> None:
        """An image that does not fit is refused until there is room; one that fits is served."""
        self.check_refused("large")
        self.check(self.daemon, "plain")
        self.check_refused("large")
        self.mount("remount,size=64m")
        self.check(self.daemon, "large")
        self.assertEqual(self.packages.builds("large"), 1)

    def test_stored_images_are_served_from_disk_that_is_full_by_new_process_too(self) -> None:
        """Stored images are served from a disk that is full, by a new process too."""
        self.check(self.daemon, "plain")
        ballast = self.fill()
        self.check_refused("known")
        self.check(self.daemon, "plain")
        self.daemon.stop()
        self.daemon.start()
        self.check(self.daemon, "plain")
        self.check_refused("known")
        ballast.unlink()
        self.check(self.daemon, "known")


class RemovedFileTests(ChaosCase):
    """Tests of files that are removed from the storage."""

    def start(self, constants: Mapping[str, object] | None = None) -> Daemon:
        daemon = Daemon(WatchedSet().path, name="removed", constants=constants).start()
        self.addCleanup(daemon.kill)
        return daemon

    def files(self, daemon: Daemon, name: str) -> list[Path]:
        """The blobs that an image needs, but for its manifest."""
        manifest = daemon.registry.manifest(name).json()
        digests = [each["digest"] for each in (manifest["config"], *manifest["layers"])]
        return [self.file(daemon, digest) for digest in digests]

    def file(self, daemon: Daemon, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        return daemon.storage / "blobs" / "sha256" / name[:2] / name

    def test_whichever_is_removed_or_cut_short_the_next_pull_has_it_again(self) -> None:
        """Whichever is removed or cut short, the next pull has it again."""
        daemon = self.start(constants={RECHECK: 0})
        manifest = daemon.registry.manifest("plain")
        files = self.files(daemon, "plain")
        files.append(self.file(daemon, manifest.headers["docker-content-digest"]))
        for path in files:
            path.unlink()
            self.check(daemon, "plain")
            path.with_name(f"{path.name}.json").unlink()
            self.check(daemon, "plain")
            os.truncate(path, 1)
            self.check(daemon, "plain")

    def test_noticed_by_a_client(self) -> None:
        """A client that misses a blob is the last one to do so."""
        daemon = self.start()
        *_, layer = self.files(daemon, "plain")
        layer.unlink()
        answer = daemon.registry.get(f"/v2/plain/blobs/sha256:{layer.name}")
        self.assertEqual(answer.status, 404)
        self.check(daemon, "plain")

    def test_process_that_starts_later_believes_no_record_without_looking(self) -> None:
        """A process that starts later believes no record without looking."""
        daemon = self.start()
        files = self.files(daemon, "plain")
        daemon.stop()
        for path in files:
            path.unlink()
        daemon.start()
        self.check(daemon, "plain")

    def test_storage_that_is_removed_as_a_whole_is_begun_again(self) -> None:
        """A storage that is removed as a whole is begun again."""
        daemon = self.start()
        self.check(daemon, "plain")
        daemon.stop()
        shutil.rmtree(daemon.storage)
        daemon.start()
        self.check(daemon, "plain")


class UntrustedTests(ChaosCase):
    """A registry whose user Nix's own daemon does not trust."""

    def start(self, options: Sequence[str] = (), configuration: str = "") -> Daemon:
        self.packages = WatchedSet()
        return start_stranger(
            self, self.packages.path, configuration=configuration, options=options
        )

    def test_settings_that_nix_ignores_are_logged_at_start_up_by_name(self) -> None:
        """Settings that Nix ignores are logged at start-up, by name; those it heeds are not."""
        daemon = self.start(
            configuration="nix_options: {builders: 'ssh://nowhere', cores: '1', sandbox: 'true'}\n"
        )
        (warning,) = [line for line in daemon.log().splitlines() if "NixCommands#warn" in line]
        self.assertIn("ignores builders, sandbox:", warning)
        self.assertIn("trusted-users", warning)
        self.check(daemon, "plain")

    def test_paths_in_no_cache_are_named_if_nothing_may_be_built(self) -> None:
        """Store paths that are in no cache are refused by name, if nothing may be built."""
        daemon = self.start(["--substitute-only=true"], "nix_options: {substitute: 'false'}\n")
        answer = daemon.registry.manifest("first")
        self.assertEqual(answer.status, 422)
        self.assertIn("no binary cache has first-1.0, shared-1.0,", answer.message)
        self.assertIn("substitute_only", answer.message)
        self.assertEqual(self.packages.builds("shared"), 0)
