"""Tests for :mod:`nixery.config.config`, and for the layers it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.config.config import Config, load_config
from nixery.config.errors import ConfigError, ConfigProblem
from nixery.config.layers import suggest
from nixery.config.settings import SETTINGS
from nixery.layers.compression_levels import Compression
from nixery.sources.source import ChannelSource, GitSource, PathSource
from nixery.sources.tag_policy import TagPolicy

HOME = {"HOME": "/home/somebody"}

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


class ConfigCase(SynchronousTestCase):
    """Base class of the tests of the configuration."""

    def load(
        self,
        file: str | None = None,
        environ: Mapping[str, str] | None = None,
        **command_line: object,
    ) -> Config:
        """Load a configuration out of the text of a file and two mappings."""
        if file is not None:
            self.path = Path(self.mktemp())
            self.path.write_text(file, "utf-8")
            command_line["config"] = str(self.path)
        return load_config(command_line, {**HOME, **(environ or {})})

    def problems(
        self,
        file: str | None = None,
        environ: Mapping[str, str] | None = None,
        **command_line: object,
    ) -> tuple[ConfigProblem, ...]:
        """Return the problems of a configuration that has some."""
        try:
            self.load(file, environ, **command_line)
        except ConfigError as error:
            return error.problems
        raise AssertionError("the configuration was accepted")

    def problem(
        self,
        file: str | None = None,
        environ: Mapping[str, str] | None = None,
        **command_line: object,
    ) -> ConfigProblem:
        """The only thing that is wrong with a configuration."""
        problems = self.problems(file, environ, **command_line)
        self.assertEqual(1, len(problems), problems)
        return problems[0]


class DefaultTests(ConfigCase):
    """Tests of the defaults, without any configuration."""

    def test_defaults(self) -> None:
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

    def test_xdg_directories(self) -> None:
        """State and cache follow the XDG variables, where these are absolute."""
        config = self.load(environ={"XDG_STATE_HOME": "/xdg/state", "XDG_CACHE_HOME": "relative"})
        self.assertEqual(Path("/xdg/state/nixery"), config.state_directory)
        self.assertEqual(Path("/home/somebody/.cache/nixery"), config.cache_directory)

    def test_systemd_directories(self) -> None:
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
        self.assertEqual(NAMES - COMPOSED, fields - {"listen", "source", "rules", "compression"})

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
                        *off,
                    },
                )


class LayerTests(ConfigCase):
    """Tests of the layers, each of which replaces the one below it."""

    def test_variables_of_nixery(self) -> None:
        """The environment variables that users of Nixery know are the settings' own."""
        self.assertEqual(
            {
                "PORT",
                "NIXERY_CHANNEL",
                "NIXERY_PKGS_REPO",
                "NIXERY_PKGS_PATH",
                "NIXERY_STORAGE_BACKEND",
                "STORAGE_PATH",
                "NIX_TIMEOUT",
                "NIX_POPULARITY_URL",
                "GCS_BUCKET",
                "GCS_SIGNING_KEY",
                "GCS_SIGNING_ACCOUNT",
                "GOOGLE_APPLICATION_CREDENTIALS",
            },
            {setting.variable for setting in SETTINGS if setting.variable is not None},
        )

    def test_order(self) -> None:
        """The command line wins over the environment, and that over the file."""
        file = "nix_timeout: 1\nstorage_path: /file\nlayer_budget: 7\n"
        environ = {"NIX_TIMEOUT": "2", "STORAGE_PATH": "/environment"}
        config = self.load(file, environ, nix_timeout="3")
        self.assertEqual(3, config.nix_timeout)
        self.assertEqual(Path("/environment"), config.storage_path)
        self.assertEqual(7, config.layer_budget)

    def test_file_by_variable(self) -> None:
        """NIXERY_CONFIG names the file; the option does so with more weight."""
        one, two = Path(self.mktemp()), Path(self.mktemp())
        one.write_text("layer_budget: 1")
        two.write_text("layer_budget: 2")
        environ = {"NIXERY_CONFIG": str(one)}
        self.assertEqual(1, self.load(environ=environ).layer_budget)
        self.assertEqual(2, self.load(environ=environ, config=str(two)).layer_budget)

    def test_empty_variables_are_unset(self) -> None:
        """An empty variable gives nothing, and contradicts nothing."""
        config = self.load(environ={"PORT": "", "NIXERY_CHANNEL": "", "NIXERY_PKGS_PATH": "/p"})
        self.assertEqual(PathSource(path=Path("/p")), config.source)

    def test_unknown_variables(self) -> None:
        """Kubernetes' variables for a service called nixery are ignored."""
        config = self.load(
            environ={
                "NIXERY_PORT": "tcp://10.0.0.1:8080",
                "NIXERY_PORT_8080_TCP": "tcp://10.0.0.1:8080",
                "NIXERY_SERVICE_HOST": "10.0.0.1",
            }
        )
        self.assertEqual(self.load(), config)

    def test_empty_file(self) -> None:
        """A file without settings, or with settings left empty, changes nothing."""
        self.assertEqual(self.load(), self.load("# nothing\n"))
        self.assertEqual(self.load(), self.load("storage_path:\nchannel:\n"))

    @given(
        st.dictionaries(
            st.sampled_from(["file", "environment", "command line"]), st.integers(1, 10**9)
        )
    )
    @settings(max_examples=30)
    def test_highest_layer_wins(self, layers: dict[str, int]) -> None:
        """The highest of the layers that give a setting decides."""
        config = self.load(
            f"nix_timeout: {layers['file']}" if "file" in layers else None,
            {"NIX_TIMEOUT": str(layers["environment"])} if "environment" in layers else None,
            nix_timeout=layers.get("command line"),
        )
        given = [layers[name] for name in ("command line", "environment", "file") if name in layers]
        self.assertEqual((given or [3600])[0], config.nix_timeout)


class AlternativeTests(ConfigCase):
    """Settings of which a layer gives one: sources, and where to listen."""

    def test_sources(self) -> None:
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

    def test_rules(self) -> None:
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

    def test_several_endpoints(self) -> None:
        """The file gives a list of endpoints, or one."""
        self.assertEqual(("tcp:1", "tcp:2"), self.load("listen: [tcp:1, tcp:2]").listen)
        self.assertEqual(("tcp:1",), self.load("listen: tcp:1").listen)


class ProblemTests(ConfigCase):
    """Tests of the problems that are found, and of their messages."""

    def test_bad_value(self) -> None:
        """A bad value is named with its setting, its layer, and what would be right."""
        problem = self.problem(environ={"PORT": "tcp://10.0.0.1:8080"})
        self.assertEqual(
            "PORT = 'tcp://10.0.0.1:8080' (environment): give a whole number between 1 and 65535",
            problem.describe(),
        )

    def test_all_problems_at_once(self) -> None:
        """All that is wrong is said at once, whichever layer it is in."""
        problems = self.problems(
            "layer_budget: 126\nnix_timout: 3\n", {"PORT": "0"}, system="x86_64-windows"
        )
        self.assertEqual(
            {"layer_budget", "nix_timout", "PORT", "--system"},
            {problem.setting for problem in problems},
        )

    def test_unknown_setting(self) -> None:
        """An unknown setting in the file is an error with the nearest name."""
        problem = self.problem("storage-paht: /x\n")
        self.assertEqual("storage-paht", problem.setting)
        self.assertIn("storage_path", problem.expected)

    def test_unknown_name_that_is_no_text(self) -> None:
        """YAML has other keys than texts: these are unknown settings too."""
        self.assertEqual("8080", self.problem("8080: x\n").setting)

    def test_setting_twice(self) -> None:
        """A name that the file gives twice is an error, not the last one's victory."""
        problem = self.problem("layer_budget: 1\nlayer_budget: 2\n")
        self.assertIn("'layer_budget' is given twice", problem.expected)
        self.assertIn("line 2", problem.expected)

    def test_broken_files(self) -> None:
        """A file that is missing, no YAML, or no mapping is an error that names it."""
        self.assertIn("No such file", self.problem(config="/nowhere/nixery.yaml").expected)
        for text in ("{", "- a\n- b\n", "just text", "a: &a [*b]", "? [1]\n: 2", "a: \x00"):
            problem = self.problem(text)
            self.assertEqual("--config", problem.setting)
            self.assertEqual(str(self.path), problem.value)

    def test_file_that_is_no_text(self) -> None:
        """Bytes that are no UTF-8 are an error too."""
        path = Path(self.mktemp())
        path.write_bytes(b"channel: \xff\xfe")
        self.assertEqual("--config", self.problem(config=str(path)).setting)

    def test_yaml_cannot_run_code(self) -> None:
        """Tags that would make Python objects are refused."""
        self.problem("channel: !!python/object/apply:os.getcwd []\n")

    def test_secrets_are_not_shown(self) -> None:
        """Neither a message nor the representation shows a secret."""
        problem = self.problem(environ={"GCS_SIGNING_KEY": "hush"})
        self.assertNotIn("hush", problem.describe())
        problem = self.problem("nix_options: {access-tokens: [{github.com: hush}]}")
        self.assertNotIn("hush", problem.describe())
        config = self.load("nix_options: {access-tokens: github.com=hush}")
        self.assertNotIn("hush", repr(config))
        self.assertEqual({"access-tokens": "github.com=hush"}, config.nix_options)

    def test_gcs_needs_a_bucket(self) -> None:
        """A bucket storage without a bucket is a contradiction."""
        problem = self.problem(environ={"NIXERY_STORAGE_BACKEND": "gcs"})
        self.assertIn("GCS_BUCKET", problem.expected)

    def test_signing_needs_key_and_account(self) -> None:
        """The key and the account that sign URLs come together."""
        problem = self.problem("{storage_backend: gcs, gcs_bucket: b, gcs_signing_account: a}")
        self.assertEqual("gcs_signing_account", problem.setting)
        self.assertIn("gcs_signing_key", problem.expected)

    def test_bucket_without_gcs(self) -> None:
        """A bucket for a storage in a directory is a contradiction."""
        problem = self.problem(environ={"GCS_BUCKET": "b"})
        self.assertEqual("GCS_BUCKET", problem.setting)
        self.assertIn("storage_backend is gcs", problem.expected)

    def test_higher_backend_puts_lower_details_out_of_force(self) -> None:
        """The command line may choose another storage than the file describes."""
        config = self.load("{storage_backend: gcs, gcs_bucket: b}", storage_backend="filesystem")
        self.assertEqual("filesystem", config.storage_backend)

    def test_compression(self) -> None:
        """A kind of compression comes with the level that suits it best, or one of its own."""
        self.assertEqual("gzip-1", self.load().compression.label)
        self.assertEqual("gzip-0", self.load("compression_level: 0").compression.label)
        self.assertEqual("none", self.load("compression: none").compression.label)
        config = self.load("{compression: zstd, compression_level: 2}")
        self.assertEqual("zstd-2", config.compression.label)
        config = self.load("compression: zstd", compression_level="19")
        self.assertEqual("zstd-19", config.compression.label)

    def test_level_of_another_compression(self) -> None:
        """Levels are those of the kind, and what does not fit is told with what does."""
        problem = self.problem("{compression: zstd, compression_level: 0}")
        self.assertEqual("compression_level", problem.setting)
        self.assertIn("between 1 and 19", problem.expected)
        problem = self.problem(compression_level="4")
        self.assertEqual("--compression-level", problem.setting)
        self.assertIn("with compression gzip, give a level between 0 and 3", problem.expected)
        self.assertIn(
            "leave it out", self.problem("compression: none", compression_level=0).expected
        )
        self.assertEqual(
            "compression", self.problem("{compression: lzma, compression_level: 9}").setting
        )

    def test_higher_compression_puts_lower_level_out_of_force(self) -> None:
        """A level counts for the kind that its own layer knew of."""
        for kind, label in (("none", "none"), ("zstd", Compression(kind="zstd").label)):
            config = self.load("compression_level: 0", compression=kind)
            self.assertEqual(label, config.compression.label)

    def test_misspelt_backend_is_one_problem(self) -> None:
        """A backend that is not understood does not make its details wrong."""
        self.assertEqual(
            "storage_backend", self.problem("{storage_backend: gsc, gcs_bucket: b}").setting
        )

    def test_google_credentials_of_others(self) -> None:
        """Other programs' credentials in the environment contradict nothing."""
        self.load(environ={"GOOGLE_APPLICATION_CREDENTIALS": "/etc/key.json"})

    def test_suggestions(self) -> None:
        """Near names are suggested; where there are none, the help is."""
        self.assertEqual("did you mean --port?", suggest("prot", ["port", "listen"], "--"))
        self.assertIn("--help", suggest("zzz", ["port", "listen"]))


class AuthTests(ConfigCase):
    """Users, and what is for them."""

    def test_rules(self) -> None:
        """Rules are patterns by the names of users; one pattern needs no list."""
        config = self.load(
            "{auth: htpasswd, htpasswd_file: /h, auth_rules: {a: [git, shell], b: x}}"
        )
        self.assertEqual({*config.auth_rules}, {"a", "b"})
        self.assertEqual(config.token_key, config.state_directory / "token-key.pem")

    def test_contradictions(self) -> None:
        """Settings that contradict each other are refused, with what to do."""
        for text, words in (
            ("{auth: htpasswd}", "htpasswd_file"),
            ("{auth: token}", "htpasswd_file"),
            ("{htpasswd_file: /h}", "only where auth is"),
            ("{auth_rules: {a: [git]}}", "only where auth is"),
            ("{auth: htpasswd, htpasswd_file: /h, token_key: /k}", "only where auth is token"),
            (
                "{auth: htpasswd, htpasswd_file: /h, auth_rules: {anonymous: [git]}}",
                "need auth: token",
            ),
            ("{auth: token, htpasswd_file: /h, port: 80}", "public_url"),
            ("{auth: basic, htpasswd_file: /h}", "htpasswd, token"),
            ("{auth: token, htpasswd_file: /h, auth_rules: {a: [shell/*]}}", "write shell, git"),
            ("{auth: token, htpasswd_file: /h, auth_rules: {a: [1]}}", "list of patterns"),
            ("{auth: token, htpasswd_file: /h, auth_rules: [a]}", "mapping"),
        ):
            with self.assertRaises(ConfigError) as raised:
                self.load(text)
            self.assertIn(words, raised.exception.message, text)
