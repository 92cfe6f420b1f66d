"""Tests for :mod:`nixery.runtime.data_files`."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nixery.runtime.data_files import find_data_directory, nix_directory, web_directory
from nixery.runtime.errors import ResourceMissing


class ResourceTests(SynchronousTestCase):
    """Tests of the location of data files."""

    def setUp(self) -> None:
        self.top = Path(self.mktemp())
        self.package = self.top / "nixery"
        self.package.mkdir(parents=True)

    def test_files_are_found_however_tests_are_run(self) -> None:
        """However these tests are run, the files are found, by a path without symlinks."""
        self.assertTrue((nix_directory() / "resolve.nix").is_file())
        self.assertTrue(web_directory().is_dir())
        self.assertEqual(nix_directory().resolve(), nix_directory())

    def test_in_a_checkout_they_are_beside_the_package(self) -> None:
        """In a checkout they are beside the package."""
        (self.top / "setup.py").touch()
        (self.top / "nix").mkdir()
        self.assertEqual(self.top / "nix", find_data_directory("nix", self.package))

    def test_installed_files_come_first(self) -> None:
        """Installed files come first."""
        (self.top / "setup.py").touch()
        (self.top / "nix").mkdir()
        (self.package / "_nix").mkdir()
        self.assertEqual(self.package / "_nix", find_data_directory("nix", self.package))

    def test_folder_of_another_package(self) -> None:
        """A folder of the right name beside an installation belongs to another package."""
        (self.top / "web").mkdir()
        error = self.assertRaises(ResourceMissing, find_data_directory, "web", self.package)
        self.assertIn("web", str(error))
