"""Tests for :mod:`demoset.package_set`."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from demoset.archive import ArchiveState
from demoset.package_set import SOURCE, default_directory, prepare
from demoset.recipes import Recipes


class DirectoryTests(SynchronousTestCase):
    def test_under_service_manager_set_is_in_units_first_state_directory(self) -> None:
        """Under a service manager the set is in the unit's first state directory."""
        self.assertEqual(
            default_directory({"STATE_DIRECTORY": "/var/lib/nixery:/var/lib/other"}),
            Path("/var/lib/nixery/demo"),
        )

    def test_user_has_it_in_the_state_home_which_counts_only_if_it_is_absolute(self) -> None:
        """A user has it in the state home, which counts only if it is absolute."""
        self.assertEqual(default_directory({"XDG_STATE_HOME": "/s"}), Path("/s/nixery/demo"))
        self.assertEqual(
            default_directory({"XDG_STATE_HOME": "s"}), Path.home() / ".local/state/nixery/demo"
        )


class PrepareTests(SynchronousTestCase):
    """Tests of preparation: it keeps what is there already, and does not ask apt at all."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.patchelf = Path(self.mktemp())
        self.patchelf.write_bytes(b"patchelf")
        self.asked = 0
        self.release = 13

    def query(self, _: Recipes) -> ArchiveState:
        self.asked += 1
        return ArchiveState(systems={}, release=self.release, busybox=b"busybox")

    def prepare(self, *, refresh: bool = False) -> None:
        prepare(self.directory, refresh=refresh, query=self.query, patchelf=lambda: self.patchelf)

    def test_directory_has_the_expressions_the_seeds_and_the_lock_afterwards(self) -> None:
        """The directory has the expressions, the seeds and the lock afterwards."""
        self.prepare()
        names = {path.name for path in self.directory.iterdir()}
        expressions = {path.name for path in SOURCE.iterdir() if path.suffix in {".nix", ".sh"}}
        self.assertEqual(
            names, expressions | {"packages.json", "popularity.json", "lock.json", "seeds"}
        )
        for seed in ("busybox", "patchelf"):
            self.assertTrue(os.access(self.directory / "seeds/bin" / seed, os.X_OK))

    def test_second_call_makes_no_query_and_changes_no_file(self) -> None:
        """A second call makes no query and changes no file."""
        self.prepare()
        before = {path: path.stat().st_ino for path in self.directory.rglob("*")}
        self.prepare()
        self.assertEqual(self.asked, 1)
        self.assertEqual(before, {path: path.stat().st_ino for path in self.directory.rglob("*")})

    def test_on_request_the_lock_is_made_anew(self) -> None:
        """On request the lock is made anew."""
        self.prepare()
        self.prepare(refresh=True)
        self.assertEqual(self.asked, 2)

    def popularity(self) -> str:
        """The release whose popularity data are beside the lock."""
        data = (self.directory / "popularity.json").read_bytes()
        [release] = [
            path.stem.rpartition("-")[2]
            for path in SOURCE.glob("popularity-*.json")
            if path.read_bytes() == data
        ]
        return release

    def test_popularity_data_are_those_of_the_release_that_the_lock_was_made_on(self) -> None:
        """The popularity data are those of the release that the lock was made on."""
        for release, published in (
            (12, "12"),
            (13, "13"),
            # A release that there are no data for has those of one before, or the oldest.
            (14, "13"),
            (11, "12"),
        ):
            self.release = release
            self.prepare(refresh=True)
            self.assertEqual(self.popularity(), published)
        # The machine has been upgraded, and the lock was kept.
        self.release = 13
        self.prepare()
        self.assertEqual(self.popularity(), "12")

    def test_lock_without_a_release(self) -> None:
        """A lock of an earlier version, which does not say its release, is made anew."""
        self.prepare()
        lock = self.directory / "lock.json"
        lock.write_text(lock.read_text().replace('"release"', '"other"'))
        self.prepare()
        self.assertEqual((self.asked, self.popularity()), (2, "13"))

    def test_lock_that_was_made_for_other_packages_is_made_anew(self) -> None:
        """A lock that was made for other packages is made anew."""
        self.prepare()
        lock = self.directory / "lock.json"
        lock.write_text(lock.read_text().replace('"recipes": "', '"recipes": "x'))
        self.prepare()
        self.assertEqual(self.asked, 2)

    def test_lock_that_cannot_be_read_is_made_anew(self) -> None:
        """A lock that cannot be read is made anew."""
        self.prepare()
        for damaged in ("", "[]", "{}", "{"):
            (self.directory / "lock.json").write_text(damaged)
            self.prepare()
        self.assertEqual(self.asked, 5)

    def test_old_lock_goes_with_the_expressions_of_an_upgrade(self) -> None:
        """After an upgrade the old lock goes with the new expressions."""
        self.prepare()
        (self.directory / "default.nix").write_text("old")
        self.prepare()
        self.assertNotEqual((self.directory / "default.nix").read_text(), "old")
        self.assertEqual(self.asked, 1)
