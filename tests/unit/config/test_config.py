"""Tests for :mod:`nixery.config.config`."""

from __future__ import annotations

from pathlib import Path

import attrs

from nixery.config.config import Config
from nixery.config.settings import SETTINGS
from nixery.layers.compression_levels import Compression
from nixery.sources.source import ChannelSource, GitSource, PathSource
from nixery.sources.tag_policy import TagPolicy
from tests.support.config import ConfigCase

NAMES = {setting.name for setting in SETTINGS}

COMPOSED = {
    "listen",
    "port",
    "channel",
    "pkgs_repo",
    "pkgs_path",
    "pkgs_repo_kind",
    "pkgs_ref",
    "base_channel",
    "allowed_tags",
    "allow_any_commit",
    "compression",
    "compression_level",
}
"""Settings that are not a field of Config as they are."""


class DefaultTests(ConfigCase):
    """Tests of the defaults, without any configuration."""

    def test_loopback_channel_nixos_unstable_and_storage_in_state_directory(self) -> None:
        """Loopback, the channel nixos-unstable, and storage in the state directory."""
        config = self.load()
        self.assertEqual(("tcp:8080:interface=127.0.0.1",), config.listen)
        self.assertEqual(ChannelSource(channel="nixos-unstable"), config.source)
        self.assertEqual("x86_64-linux", config.system)
        self.assertEqual("filesystem", config.storage_backend)
        self.assertEqual(Path("/home/somebody/.local/state/nixery"), config.state_directory)
        self.assertEqual(Path("/home/somebody/.local/state/nixery/storage"), config.storage_path)
        self.assertEqual(Path("/home/somebody/.cache/nixery"), config.cache_directory)
        self.assertEqual(94, config.layer_budget)
        self.assertGreaterEqual(config.cpu_workers, 1)

    def test_state_and_cache_follow_the_xdg_variables_where_these_are_absolute(self) -> None:
        """State and cache follow the XDG variables, where these are absolute."""
        config = self.load(environ={"XDG_STATE_HOME": "/xdg/state", "XDG_CACHE_HOME": "relative"})
        self.assertEqual(Path("/xdg/state/nixery"), config.state_directory)
        self.assertEqual(Path("/home/somebody/.cache/nixery"), config.cache_directory)

    def test_systemds_directories_come_before_xdgs(self) -> None:
        """systemd's directories come before XDG's; of several, the first is ours."""
        config = self.load(
            environ={
                "STATE_DIRECTORY": "/var/lib/nixery:/var/lib/other",
                "CACHE_DIRECTORY": "/var/cache/nixery",
                "XDG_STATE_HOME": "/xdg/state",
            }
        )
        self.assertEqual(Path("/var/lib/nixery"), config.state_directory)
        self.assertEqual(Path("/var/lib/nixery/storage"), config.storage_path)
        self.assertEqual(Path("/var/cache/nixery"), config.cache_directory)

    def test_fields_and_table_agree(self) -> None:
        """Every setting has its field, and every field its setting."""
        fields = {field.name for field in attrs.fields(Config)}
        self.assertEqual(
            NAMES - COMPOSED, fields - {"listen", "source", "rules", "compression", "warnings"}
        )

    def test_values_have_the_declared_types(self) -> None:
        """A value out of the table is what the annotation of its field says."""
        config = self.load(
            "{gcs_bucket: b, gcs_signing_key: k, gcs_signing_account: a, storage_backend: gcs,"
            " gcs_endpoint: 'http://h', auth: htpasswd, htpasswd_file: /h,"
            " google_application_credentials: /c, popularity_url: 'http://h/p', public_url:"
            " 'http://h', build_deadline: 1, tls_certificate: /t, tls_key: /k}"
        )
        text, number = {"str", "str | None"}, {"float"}
        off = {
            "max_storage_size",
            "max_image_age",
            "trusted_proxies",
            "allow_packages",
            "deny_packages",
        }
        for field in attrs.fields(Config):
            value = getattr(config, field.name)
            annotation = str(field.type)
            if annotation in text or annotation.startswith("Literal['"):
                self.assertIsInstance(value, str, field.name)
            elif annotation.startswith("Path"):
                self.assertIsInstance(value, Path, field.name)
            elif annotation in number:
                self.assertIsInstance(value, float, field.name)
            elif annotation == "bool":
                self.assertIsInstance(value, bool, field.name)
            elif annotation == "int":
                self.assertIsInstance(value, int, field.name)
            elif annotation.startswith("Mapping"):
                self.assertIsInstance(value, dict, field.name)
            else:
                self.assertIn(
                    field.name,
                    {
                        "listen",
                        "source",
                        "rules",
                        "overlays",
                        "compression",
                        "min_free_space",
                        "warnings",
                        *off,
                    },
                )


class AlternativeTests(ConfigCase):
    """Settings of which a layer gives one: sources, and where to listen."""

    def test_each_of_the_three_settings_gives_a_source(self) -> None:
        """Each of the three settings gives a source."""
        self.assertEqual(
            GitSource(url="https://example.org/pkgs"),
            self.load(environ={"NIXERY_PKGS_REPO": "https://example.org/pkgs"}).source,
        )
        self.assertEqual(
            ChannelSource(channel="nixos-26.05"), self.load("channel: nixos-26.05").source
        )
        self.assertEqual(PathSource(path=Path("/p")), self.load(pkgs_path="/p").source)

    def test_details_of_a_repository(self) -> None:
        """The reference, kind and base channel of a repository are part of its source."""
        config = self.load(
            "{pkgs_repo: 'https://r', pkgs_ref: stable, pkgs_repo_kind: overlay,"
            " base_channel: nixos-26.05}"
        )
        base = ChannelSource(channel="nixos-26.05")
        self.assertEqual(GitSource(url="https://r", ref="stable", base=base), config.source)

    def test_details_without_a_repository(self) -> None:
        """Details of a repository that is not there are an error."""
        self.assertIn("pkgs_repo is given", self.problem("pkgs_ref: stable").expected)
        self.assertIn("overlay", self.problem("base_channel: c", pkgs_repo="/r").expected)

    def test_details_of_a_repository_that_is_replaced(self) -> None:
        """A source of a higher layer puts the details of a lower one out of force."""
        config = self.load("{pkgs_repo: 'https://r', pkgs_ref: stable}", channel="c")
        self.assertEqual(ChannelSource(channel="c"), config.source)

    def test_details_in_a_higher_layer(self) -> None:
        """Details may come from a higher layer than the repository."""
        config = self.load("pkgs_repo: 'https://r'", pkgs_ref="stable")
        self.assertEqual(GitSource(url="https://r", ref="stable"), config.source)

    def test_settings_of_the_tags_that_are_served_become_one_value(self) -> None:
        """The settings of the tags that are served become one value."""
        self.assertEqual(TagPolicy(), self.load().rules)
        config = self.load("{allowed_tags: latest, allow_any_commit: true}")
        self.assertEqual(TagPolicy(patterns=("latest",), any_commit=True), config.rules)

    def test_a_password_is_not_shown(self) -> None:
        """A configuration that is printed keeps the password of a URL to itself."""
        self.assertNotIn("secret", repr(self.load(pkgs_repo="https://u:secret@h/p")))

    def test_higher_source_replaces_lower(self) -> None:
        """A source of a higher layer replaces one of a lower layer, of any kind."""
        config = self.load("pkgs_path: /p", {"NIXERY_PKGS_REPO": "https://r"}, channel="c")
        self.assertEqual(ChannelSource(channel="c"), config.source)

    def test_two_sources_in_one_layer(self) -> None:
        """Two sources in one layer are an error that names both."""
        problem = self.problem(environ={"NIXERY_CHANNEL": "c", "NIXERY_PKGS_PATH": "/p"})
        self.assertEqual("NIXERY_CHANNEL", problem.setting)
        self.assertEqual("c", problem.value)
        self.assertIn("NIXERY_PKGS_PATH", problem.expected)

    def test_two_sources_in_a_layer_that_is_replaced(self) -> None:
        """A contradiction is an error also where a higher layer hides it."""
        problem = self.problem("{channel: c, pkgs_path: /p}", pkgs_repo="https://r")
        self.assertEqual(str(self.path), problem.layer)

    def test_port_means_all_interfaces(self) -> None:
        """PORT alone listens on every interface."""
        self.assertEqual(("tcp:5000",), self.load(environ={"PORT": "5000"}).listen)

    def test_listen_replaces_port(self) -> None:
        """Endpoints of a higher layer replace a port of a lower one."""
        config = self.load(environ={"PORT": "5000"}, listen=["unix:/run/nixery.sock"])
        self.assertEqual(("unix:/run/nixery.sock",), config.listen)

    def test_port_replaces_listen(self) -> None:
        """A port of a higher layer replaces endpoints of a lower one."""
        config = self.load("listen: [tcp:1, tcp:2]", {"PORT": "5000"})
        self.assertEqual(("tcp:5000",), config.listen)

    def test_port_and_listen_in_one_layer(self) -> None:
        """Both in one layer contradict each other."""
        problem = self.problem(listen=["tcp:1"], port="2")
        self.assertEqual("--listen", problem.setting)
        self.assertIn("--port", problem.expected)

    def test_file_gives_a_list_of_endpoints_or_one(self) -> None:
        """The file gives a list of endpoints, or one."""
        self.assertEqual(("tcp:1", "tcp:2"), self.load("listen: [tcp:1, tcp:2]").listen)
        self.assertEqual(("tcp:1",), self.load("listen: tcp:1").listen)


class CompressionTests(ConfigCase):
    """The two settings that become one value."""

    def test_compression_comes_with_the_level_that_suits_it(self) -> None:
        """A kind of compression comes with the level that suits it best, or one of its own."""
        self.assertEqual("gzip-1", self.load().compression.label)
        self.assertEqual("gzip-0", self.load("compression_level: 0").compression.label)
        self.assertEqual("none", self.load("compression: none").compression.label)
        config = self.load("{compression: zstd, compression_level: 2}")
        self.assertEqual("zstd-2", config.compression.label)
        config = self.load("compression: zstd", compression_level="19")
        self.assertEqual("zstd-19", config.compression.label)

    def test_higher_compression_puts_lower_level_out_of_force(self) -> None:
        """A level counts for the kind that its own layer knew of."""
        for kind, label in (("none", "none"), ("zstd", Compression(kind="zstd").label)):
            config = self.load("compression_level: 0", compression=kind)
            self.assertEqual(label, config.compression.label)
