"""Tests for :mod:`tests.scratch`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.scratch import PREFIX, Scratch


class ScratchTests(SynchronousTestCase):
    """The temporary directory of a run."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.parent = Path(directory.name)

    def there(self) -> list[str]:
        return sorted(os.listdir(self.parent))

    def test_scratch_is_removed_with_protected_files(self) -> None:
        """It goes with all that is in it, though it may be protected, as Nix does."""
        with Scratch(self.parent) as scratch:
            store = scratch.path / "store" / "item"
            store.mkdir(parents=True)
            (store / "file").touch(0o444)
            (store / "link").symlink_to(self.parent)
            store.chmod(0o555)
            store.parent.chmod(0o555)
            self.assertEqual([scratch.path.name], self.there())
        self.assertEqual([], self.there())

    def test_podmans_directory_of_run_time_files_fits_below_it(self) -> None:
        """Podman's directory of run-time files fits below it: 50 characters, it says."""
        random = "x" * 8
        self.assertLess(len(f"/tmp/{PREFIX}{random}/nixery-pod-{random}/run"), 50)

    def test_scratch_is_removed_after_a_failure(self) -> None:
        """It goes after a failure, too."""

        def fail() -> None:
            with Scratch(self.parent):
                raise RuntimeError

        self.assertRaises(RuntimeError, fail)
        self.assertEqual([], self.there())

    def test_every_user_may_have_files_in_it_and_cannot_remove_those_of_others(self) -> None:
        """Every user may have files in it, and cannot remove those of others."""
        with Scratch(self.parent) as scratch:
            self.assertEqual(0o1777, scratch.path.stat().st_mode & 0o7777)

    def test_each_call_tells_what_is_new(self) -> None:
        """Each call tells what is new."""
        with Scratch(self.parent) as scratch:
            self.assertEqual([], scratch.left())
            for name in ("b", "a"):
                (scratch.path / name).touch()
            self.assertEqual(["a", "b"], scratch.left())
            (scratch.path / "a").unlink()
            (scratch.path / "c").touch()
            self.assertEqual(["c"], scratch.left())

    def test_abandoned_scratch_goes_with_the_next_run(self) -> None:
        """That of a run that was killed goes with the next run; others stay."""
        (self.parent / f"{PREFIX}dead" / "below").mkdir(parents=True)
        (self.parent / "other").mkdir()
        (self.parent / f"{PREFIX}link").symlink_to(self.parent / "other")
        with Scratch(self.parent) as first, Scratch(self.parent) as second:
            self.assertEqual(
                sorted(["other", f"{PREFIX}link", first.path.name, second.path.name]), self.there()
            )
