"""Tests for :mod:`tests.clean_roots.machine`."""

from __future__ import annotations

import configparser
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.clean_roots.machine import Machine, debian_sources

MIRROR = "http://mirror.example/debian/"
SECURITY = "http://mirror.example/debian-security/"


class SourcesTests(SynchronousTestCase):
    """The mirrors among apt's sources."""

    def test_sources_may_name_suites_by_other_names_than_releases(self) -> None:
        """Sources may name suites by other names than releases; other releases do not count."""
        targets = (
            f"trixie|trixie|main|http://other.example/\n"
            f"stable|bookworm|contrib|http://contrib.example/\n"
            f"stable|bookworm|main|{MIRROR}\n"
            f"stable-security|bookworm-security|main|{SECURITY}\n"
        )
        self.assertEqual((MIRROR, SECURITY), debian_sources(targets, "bookworm"))

    def test_before_apt_has_read_its_lists_it_knows_names_in_its_sources_alone(self) -> None:
        """Before apt has read its lists, it knows the names in its sources alone."""
        self.assertEqual((MIRROR, None), debian_sources(f"trixie||main|{MIRROR}\n", "trixie"))

    def test_there_may_be_none_of_this_machines_release(self) -> None:
        """There may be none of this machine's release."""
        self.assertIsNone(debian_sources("", "bookworm"))
        self.assertIsNone(debian_sources(f"sid|sid|main|{MIRROR}\n", "bookworm"))


class MachineTests(SynchronousTestCase):
    """Settings that are passed on."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.root = self.directory / "root"
        (self.root / "etc/apt/apt.conf.d").mkdir(parents=True)
        self.authority = self.directory / "authority.pem"
        self.authority.write_text("certificate")
        (self.directory / "index" / "simple").mkdir(parents=True)
        (self.directory / "wheels").mkdir()
        self.machine = Machine(
            mirror=MIRROR,
            security=SECURITY,
            apt=('Acquire::http::Proxy "http://proxy.example:3128";',),
            pip={
                "global.extra-index-url": f"file://{self.directory}/index/simple https://a.example/",
                "global.cert": str(self.authority),
                "install.find-links": str(self.directory / "wheels"),
            },
            environ={"PIP_CERT": str(self.authority), "PIP_TIMEOUT": "9"},
        )

    def test_directories_of_packages_are_seen_in_root_index_with_files_beside_it(self) -> None:
        """Directories of packages are seen in a root, an index with the files beside it."""
        self.assertEqual(
            [self.directory / "index", self.directory / "wheels"], self.machine.directories()
        )

    def test_pip_in_a_root_has_the_machines_settings_and_what_files_they_name(self) -> None:
        """pip in a root has the machine's settings, and what files they name."""
        environ = self.machine.put_into(self.root, "trixie")
        config = configparser.ConfigParser(interpolation=None)
        config.read(self.root / "etc/pip.conf")
        self.assertEqual(
            [f"file://{self.directory}/index/simple", "https://a.example/"],
            config["global"]["extra-index-url"].split(),
        )
        self.assertEqual(str(self.directory / "wheels"), config["install"]["find-links"])
        for name in (config["global"]["cert"], environ["PIP_CERT"]):
            self.assertEqual("certificate", (self.root / name.removeprefix("/")).read_text())
        self.assertEqual("9", environ["PIP_TIMEOUT"])

    def test_apt_in_root_has_machines_mirrors_and_proxies_and_so_has_debootstrap(self) -> None:
        """apt in a root has the machine's mirrors and proxies, and so has debootstrap."""
        self.machine.put_into(self.root, "trixie")
        self.assertEqual(
            [
                f"deb {MIRROR} trixie main",
                f"deb {MIRROR} trixie-updates main",
                f"deb {SECURITY} trixie-security main",
            ],
            (self.root / "etc/apt/sources.list").read_text().splitlines(),
        )
        self.assertIn("proxy.example", (self.root / "etc/apt/apt.conf.d/00machine").read_text())
        self.assertEqual({"http_proxy": "http://proxy.example:3128"}, self.machine.proxies())
