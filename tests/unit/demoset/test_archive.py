"""Tests for :mod:`demoset.archive`, as far as it runs nothing."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from demoset.apt import Apt
from demoset.archive import find_release
from demoset.debian import Record, Records
from demoset.errors import DemoFailed


class FakeApt(Apt):
    """An archive of a few stanzas."""

    def __init__(self, text: str) -> None:
        super().__init__(Path(), "amd64")
        self.archive = Records(text.encode())

    def record(self, name: str) -> Record | None:
        return self.archive.get(name)


class ReleaseTests(SynchronousTestCase):
    """Tests of the number of Debian's release."""

    def test_release_is_told_by_the_version_of_base_files(self) -> None:
        """The version of base-files begins with the number, also after updates of the release."""
        for version, release in (("12.4+deb12u11", 12), ("13.8", 13), ("14", 14)):
            stanza = f"Package: base-files\nVersion: {version}\nSize: 1\nSHA256: 00\n"
            self.assertEqual(find_release(FakeApt(stanza)), release)

    def test_archive_that_does_not_tell_its_release_is_refused_with_the_remedy(self) -> None:
        """An archive that does not tell its release is refused, with the remedy."""
        error = self.assertRaises(DemoFailed, find_release, FakeApt(""))
        self.assertIn("base-files", error.message)
