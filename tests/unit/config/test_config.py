"""Tests for :mod:`nixery.config.config`."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nixery.config.config import GROUPS
from nixery.config.declarations.retention import RetentionConfig
from nixery.config.setting import declared_settings
from nixery.sources.source import ChannelSource, GitSource, PathSource
from nixery.sources.tag_policy import TagPolicy
from tests.support.config import ConfigCase


class DefaultTests(ConfigCase):
    """Tests of the defaults, without any configuration."""

    def test_loopback_channel_nixos_unstable_and_storage_in_state_directory(self) -> None:
        """Loopback, the channel nixos-unstable, and storage in the state directory."""
        config = self.load()
        self.assertEqual(("tcp:8080:interface=127.0.0.1",), config.http.listen)
        self.assertEqual(ChannelSource(channel="nixos-unstable"), config.sources.source)
        self.assertEqual("x86_64-linux", config.sources.system)
        self.assertEqual("filesystem", config.storage.storage_backend)
        self.assertEqual(Path("/home/somebody/.local/state/nixery"), config.storage.state_directory)
        self.assertEqual(
            Path("/home/somebody/.local/state/nixery/storage"), config.storage.storage_path
        )
        self.assertEqual(Path("/home/somebody/.cache/nixery"), config.storage.cache_directory)
        self.assertEqual(94, config.layers.layer_budget)
        self.assertGreaterEqual(config.builds.cpu_workers, 1)

    def test_state_and_cache_follow_the_xdg_variables_where_these_are_absolute(self) -> None:
        """State and cache follow the XDG variables, where these are absolute."""
        config = self.load(environ={"XDG_STATE_HOME": "/xdg/state", "XDG_CACHE_HOME": "relative"})
        self.assertEqual(Path("/xdg/state/nixery"), config.storage.state_directory)
        self.assertEqual(Path("/home/somebody/.cache/nixery"), config.storage.cache_directory)

    def test_systemds_directories_come_before_xdgs(self) -> None:
        """systemd's directories come before XDG's; of several, the first is ours."""
        config = self.load(
            environ={
                "STATE_DIRECTORY": "/var/lib/nixery:/var/lib/other",
                "CACHE_DIRECTORY": "/var/cache/nixery",
                "XDG_STATE_HOME": "/xdg/state",
            }
        )
        self.assertEqual(Path("/var/lib/nixery"), config.storage.state_directory)
        self.assertEqual(Path("/var/lib/nixery/storage"), config.storage.storage_path)
        self.assertEqual(Path("/var/cache/nixery"), config.storage.cache_directory)

    def test_values_have_the_declared_types(self) -> None:
        """The value of each setting is what the annotation of its field says."""
        config = self.load(
            "{gcs_bucket: b, gcs_signing_key: k, gcs_signing_account: a, storage_backend: gcs,"
            " gcs_endpoint: 'http://h', auth: htpasswd, htpasswd_file: /h,"
            " google_application_credentials: /c, popularity_url: 'http://h/p', public_url:"
            " 'http://h', build_deadline: 1, tls_certificate: /t, tls_key: /k, port: 1,"
            " signing_key: /s, nix_options_file: /o, pkgs_repo: /r, pkgs_ref: r, overlays: /o,"
            " allow_packages: a, deny_packages: b, builder_id: 'urn:b'}"
        )
        retention = self.load("{max_storage_size: 1, max_image_age: 7, pkgs_path: /p}")
        flake = self.load("{flake: 'path:/f'}")
        for name, group in GROUPS.items():
            hints = get_type_hints(group)
            self.assertTrue(hints, name)
            for field, annotation in hints.items():
                config_of = retention if field in {*RETENTION, "pkgs_path"} else config
                if field == "flake":
                    config_of = flake
                value = getattr(getattr(config_of, name), field)
                self.assertIsInstance(value, _types(annotation), field)
                self.assertIsNotNone(value, field)


RETENTION = {setting.name for setting in declared_settings(RetentionConfig)}


def _types(annotation: Any) -> tuple[type, ...]:
    """Return the types that a value of an annotation may have."""
    arguments, origin = get_args(annotation), get_origin(annotation)
    if origin is UnionType:
        return tuple(kind for each in arguments for kind in _types(each))
    if origin is Literal:
        return tuple({type(each) for each in arguments})
    return (origin or annotation,)


class AlternativeTests(ConfigCase):
    """Settings of which a layer gives one: sources, and where to listen."""

    def test_each_of_the_three_settings_gives_a_source(self) -> None:
        """Each of the three settings gives a source."""
        self.assertEqual(
            GitSource(url="https://example.org/pkgs"),
            self.load(environ={"NIXERY_PKGS_REPO": "https://example.org/pkgs"}).sources.source,
        )
        self.assertEqual(
            ChannelSource(channel="nixos-26.05"), self.load("channel: nixos-26.05").sources.source
        )
        self.assertEqual(PathSource(path=Path("/p")), self.load(pkgs_path="/p").sources.source)

    def test_details_of_a_repository(self) -> None:
        """The reference, kind and base channel of a repository are part of its source."""
        config = self.load(
            "{pkgs_repo: 'https://r', pkgs_ref: stable, pkgs_repo_kind: overlay,"
            " base_channel: nixos-26.05}"
        )
        base = ChannelSource(channel="nixos-26.05")
        self.assertEqual(GitSource(url="https://r", ref="stable", base=base), config.sources.source)

    def test_details_without_a_repository(self) -> None:
        """Details of a repository that is not there are an error."""
        self.assertIn("it needs pkgs_repo too", self.problem("pkgs_ref: stable").expected)
        self.assertIn("overlay", self.problem("base_channel: c", pkgs_repo="/r").expected)

    def test_details_of_a_repository_that_is_replaced(self) -> None:
        """A source of a higher layer puts the details of a lower one out of force."""
        config = self.load("{pkgs_repo: 'https://r', pkgs_ref: stable}", channel="c")
        self.assertEqual(ChannelSource(channel="c"), config.sources.source)

    def test_details_in_a_higher_layer(self) -> None:
        """Details may come from a higher layer than the repository."""
        config = self.load("pkgs_repo: 'https://r'", pkgs_ref="stable")
        self.assertEqual(GitSource(url="https://r", ref="stable"), config.sources.source)

    def test_settings_of_the_tags_that_are_served_become_one_value(self) -> None:
        """The settings of the tags that are served become one value."""
        self.assertEqual(TagPolicy(), self.load().sources.tag_policy)
        config = self.load("{allowed_tags: latest, allow_any_commit: true}")
        self.assertEqual(
            TagPolicy(patterns=("latest",), any_commit=True), config.sources.tag_policy
        )

    def test_a_password_is_not_shown(self) -> None:
        """A configuration that is printed keeps the password of a URL to itself."""
        self.assertNotIn("secret", repr(self.load(pkgs_repo="https://u:secret@h/p")))

    def test_password_among_the_options_is_warned_of_and_shown_nowhere(self) -> None:
        """A password among the options is warned of, elsewhere it is not, and none is shown."""
        for name, url in (
            ("pkgs_repo", "https://u:secret@h/p"),
            ("channel_url", "https://u:secret@h"),
            ("popularity_url", "https://u:secret@h/p"),
        ):
            (warning,) = self.load("{}", {}, **{name: url}).warnings
            self.assertIn("all users of this machine", warning.describe())
            self.assertNotIn("secret", warning.describe())
            self.assertEqual((), self.load(f"{name}: {url}").warnings)
        for name, url in (
            ("pkgs_repo", "ssh://u:secret@h/p"),
            ("nixpkgs_url", "https://u:secret@h/{commit}"),
            ("channel_url", "ftp://u:secret@h"),
        ):
            self.assertNotIn("secret", self.problem("{}", {}, **{name: url}).describe())

    def test_higher_source_replaces_lower(self) -> None:
        """A source of a higher layer replaces one of a lower layer, of any kind."""
        config = self.load("pkgs_path: /p", {"NIXERY_PKGS_REPO": "https://r"}, channel="c")
        self.assertEqual(ChannelSource(channel="c"), config.sources.source)

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
        self.assertEqual(("tcp:5000",), self.load(environ={"PORT": "5000"}).http.listen)

    def test_listen_replaces_port(self) -> None:
        """Endpoints of a higher layer replace a port of a lower one."""
        config = self.load(environ={"PORT": "5000"}, listen=["unix:/run/nixery.sock"])
        self.assertEqual(("unix:/run/nixery.sock",), config.http.listen)

    def test_port_replaces_listen(self) -> None:
        """A port of a higher layer replaces endpoints of a lower one."""
        config = self.load("listen: [tcp:1, tcp:2]", {"PORT": "5000"})
        self.assertEqual(("tcp:5000",), config.http.listen)

    def test_port_and_listen_in_one_layer(self) -> None:
        """Both in one layer contradict each other."""
        problem = self.problem(listen=["tcp:1"], port="2")
        self.assertEqual("--listen", problem.setting)
        self.assertIn("--port", problem.expected)

    def test_file_gives_a_list_of_endpoints_or_one(self) -> None:
        """The file gives a list of endpoints, or one."""
        self.assertEqual(("tcp:1", "tcp:2"), self.load("listen: [tcp:1, tcp:2]").http.listen)
        self.assertEqual(("tcp:1",), self.load("listen: tcp:1").http.listen)


class CompressionTests(ConfigCase):
    """Tests of the setting for the kind of compression and its level."""

    def test_kind_comes_with_the_level_that_suits_it_or_one_of_its_own(self) -> None:
        """A kind of compression comes with the level that suits it best, or one of its own."""
        for given, label in (
            (None, "gzip-1"),
            ("gzip", "gzip-1"),
            ("gzip-0", "gzip-0"),
            ("none", "none"),
            ("zstd", "zstd-1"),
            ("zstd-19", "zstd-19"),
            ("zstd-chunked", "zstd-chunked-1"),
            ("zstd-chunked-3", "zstd-chunked-3"),
        ):
            self.assertEqual(label, self.load(compression=given).layers.compression.label)

    def test_unknown_kinds_and_levels_are_refused_with_those_that_there_are(self) -> None:
        """Unknown kinds and levels are refused, with those that there are."""
        for given in ("lzma", "zstd-0", "gzip-4", "gzip-fast", "zstd-", "zstd-chunked-0"):
            self.assertEqual(
                "give gzip, zstd, zstd-chunked, none, or one with a level: gzip-0 to gzip-3,"
                " zstd-1 to zstd-19, zstd-chunked-1 to zstd-chunked-19",
                self.problem(compression=given).expected,
            )
