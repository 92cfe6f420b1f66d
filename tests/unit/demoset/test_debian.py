"""
Tests for ``demoset.debian``.
"""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from demoset.debian import Record, Records, parse_uris, upstream_version

AVAILABLE = b"""\
Package: git
Version: 1:2.39.5-0+deb12u3
Pre-Depends: libfirst (>= 1)
Depends: libc6 (>= 2.34), perl:any, media-types | mime-support, zlib1g (>= 1:1.2.2)
Recommends: ca-certificates, patch, less | pager
Description: fast, scalable, distributed revision control system
 Depends: not, a, field
Homepage: https://example.org/git
Tag: role::program,
 works-with::vcs
Section: vcs
Size: 7264380
SHA256: 637a85dd

Package: git
Version: 1:2.39.1
Section: vcs
Size: 1
SHA256: 00

Package: pepperflash
Version: 1
Section: contrib/web
Description-en: a translated archive
Size: 2
SHA256: 11

Package: virtual
Version: 1
"""


class RecordTests(SynchronousTestCase):
    def test_output_of_apt_cache_becomes_a_record(self) -> None:
        """The output of apt-cache becomes a record; versions and architectures are dropped."""
        git = Records(AVAILABLE).get("git")
        self.assertEqual(
            git,
            Record(
                name="git",
                version="1:2.39.5-0+deb12u3",
                section="vcs",
                depends=(
                    ("libfirst",),
                    ("libc6",),
                    ("perl",),
                    ("media-types", "mime-support"),
                    ("zlib1g",),
                ),
                recommends=(("ca-certificates",), ("patch",), ("less", "pager")),
                description="fast, scalable, distributed revision control system",
                homepage="https://example.org/git",
                size=7264380,
                sha256="637a85dd",
            ),
        )

    def test_of_a_section_in_another_area_only_the_section_counts(self) -> None:
        """Of a section in another area only the section counts."""
        flash = Records(AVAILABLE).get("pepperflash")
        assert flash is not None
        self.assertEqual((flash.section, flash.description), ("web", "a translated archive"))

    def test_without_a_file(self) -> None:
        """A stanza without a file to fetch is no package."""
        self.assertIsNone(Records(AVAILABLE).get("virtual"))

    def test_name_that_no_stanza_begins_with_is_none_of_a_package(self) -> None:
        """A name that no stanza begins with is none of a package."""
        for name in ("nothing", "not", "role::program,"):
            self.assertIsNone(Records(AVAILABLE).get(name))
        self.assertIsNone(Records(b"").get("git"))


class UriTests(SynchronousTestCase):
    def test_names_and_uris_are_found(self) -> None:
        """Names and URIs are found; whatever else apt says is not taken for one."""
        self.assertEqual(
            parse_uris(
                "N: a note\n"
                "'http://m/pool/h/hello_2.10-3_amd64.deb' hello_2.10-3_amd64.deb 53080 SHA256:2e\n"
                "'http://m/pool/libstdc%2b%2b6_12_amd64.deb' libstdc++6_12_amd64.deb 1 SHA256:2f\n"
            ),
            {
                "hello": "http://m/pool/h/hello_2.10-3_amd64.deb",
                "libstdc++6": "http://m/pool/libstdc%2b%2b6_12_amd64.deb",
            },
        )


class VersionTests(SynchronousTestCase):
    def test_epoch_and_debians_revision_go(self) -> None:
        """Epoch and Debian's revision go."""
        for version, upstream in {
            "2.10-3": "2.10",
            "1:2.39.5-0+deb12u3": "2.39.5",
            "6.4": "6.4",
            "1.2-3-4": "1.2-3",
            "17.0.21.1+2-1~deb12u1": "17.0.21.1+2",
            "2.0~rc1-1": "2.0_rc1",
        }.items():
            self.assertEqual(upstream_version(version), upstream)

    @settings(max_examples=100)
    @given(st.from_regex(r"([0-9]:)?[0-9][A-Za-z0-9.+~-]{0,20}", fullmatch=True))
    def test_fit_for_a_store_path(self, version: str) -> None:
        """Nothing is left that a store path must not contain."""
        self.assertRegex(upstream_version(version), re.compile(r"\A[A-Za-z0-9+._?=-]+\Z"))
