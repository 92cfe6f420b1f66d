"""Tests for :mod:`nixery.config.environment`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from nixery.config.errors import ConfigError
from nixery.config.settings import SETTINGS
from nixery.config.types import InvalidValue
from nixery.sources.source import PathSource
from tests.support.config import FORMER_NAMES, ConfigCase

CANDIDATES = (
    *("7", "777", "777777", "on", "off", "json", "dominators", "overlay", "zstd", "none"),
    *("aarch64-linux", "https://h", "https://h/{commit}", "10.0.0.1", "/x"),
)
"""Values, of which each setting accepts one that is not its default."""


class EnvironmentTests(ConfigCase):
    """Tests of the settings that variables give."""

    def test_variables_of_nixery(self) -> None:
        """The variables that users of the first Nixery know are those of settings."""
        self.assertLessEqual(
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
            {variable for setting in SETTINGS for variable in setting.variables},
        )

    def test_every_setting_has_a_variable_of_its_name(self) -> None:
        """The variable of a setting means what its option means, for every setting."""
        values = {
            "auth": "htpasswd",
            "auth_rules": '{"alice": ["git", "shell"]}',
            "nix_options": '{"max-jobs": 4}',
            "nix_path": '{"nixpkgs": "/nixpkgs"}',
            "nixpkgs_config": '{"allowUnfree": true}',
            "flake": "github:owner/name",
            "listen": "tcp:1:interface=127.0.0.1",
            "platforms": "x86_64-linux, aarch64-linux",
            "platforms_missing": "fail",
            "storage_backend": "gcs",
        }
        for setting in SETTINGS:
            text = values.get(setting.name) or next(
                text
                for text in CANDIDATES
                if _parses(setting.kind.parse, text) and setting.kind.parse(text) != setting.default
            )
            variable = f"NIXERY_{setting.name.upper()}"
            by_option = self.outcome({}, {setting.name: text})
            self.assertEqual(by_option, self.outcome({variable: text}, {}), variable)
            self.assertNotEqual(self.load(), by_option, variable)

    def outcome(self, environ: Mapping[str, str], options: Mapping[str, str]) -> object:
        """Return the configuration; or, if settings are missing beside this one, which."""
        try:
            return self.load(None, environ, **options)
        except ConfigError as error:
            return [problem.expected for problem in error.problems]

    def test_lists_are_separated_by_commas(self) -> None:
        """A list is separated by commas, whatever it is a list of."""
        config = self.load(
            environ={
                "NIXERY_LISTEN": "tcp:1, unix:/run/nixery.sock",
                "NIXERY_OVERLAYS": "/a,/b c",
                "NIXERY_TRUSTED_PROXIES": "10.0.0.0/8,::1",
                "NIXERY_ALLOW_PACKAGES": "git,htop",
                "NIXERY_ALLOWED_TAGS": "v1.*,v2.*",
            }
        )
        self.assertEqual(("tcp:1", "unix:/run/nixery.sock"), config.http.listen)
        self.assertEqual((Path("/a"), Path("/b c")), config.sources.overlays)
        self.assertEqual(("v1.*", "v2.*"), config.sources.allowed_tags)
        assert config.limits.allow_packages is not None
        self.assertTrue(config.limits.allow_packages.matches("htop"))
        self.assertEqual(2, len(attrs.astuple(config.limits.trusted_proxies, recurse=False)[0]))

    def test_mappings_are_json_in_which_no_name_is_given_twice(self) -> None:
        """A mapping is JSON, and a name that is given twice in it is an error."""
        environ = {
            "NIXERY_AUTH": "htpasswd",
            "NIXERY_HTPASSWD_FILE": "/h",
            "NIXERY_AUTH_RULES": '{"alice": ["git"], "bob": "htop"}',
        }
        self.assertEqual({"alice", "bob"}, {*self.load(environ=environ).access.auth_rules})
        twice = {**environ, "NIXERY_AUTH_RULES": '{"alice": ["git"], "alice": ["*"]}'}
        self.assertEqual("NIXERY_AUTH_RULES", self.problem(environ=twice).setting)

    def test_variable_of_a_settings_name_wins_over_its_second_one(self) -> None:
        """The variable of a setting's name wins over the one of the first Nixery."""
        environ = {"NIXERY_NIX_TIMEOUT": "5", "NIX_TIMEOUT": "6", "PORT": "80"}
        config = self.load(environ=environ)
        self.assertEqual((5, ("tcp:80",)), (config.nix.nix_timeout, config.http.listen))
        self.assertEqual((), config.warnings)

    def test_empty_variables_are_unset(self) -> None:
        """An empty variable gives nothing, and contradicts nothing."""
        config = self.load(
            environ={"PORT": "", "NIXERY_CHANNEL": "", "NIXERY_X": "", "NIXERY_PKGS_PATH": "/p"}
        )
        self.assertEqual(PathSource(path=Path("/p")), config.sources.source)
        self.assertEqual((), config.warnings)

    def test_unknown_variables_are_warned_of_with_the_nearest_one(self) -> None:
        """A variable that looks like a setting and is none is warned of, without its value."""
        config = self.load(environ={"NIXERY_AUHT": "secret", "NIXERY_ZZZ": "x", "OTHER_AUTH": "x"})
        auth, other = (warning.describe() for warning in config.warnings)
        self.assertEqual(
            "NIXERY_AUHT (environment): there is no such setting, and the variable has no effect:"
            " did you mean NIXERY_AUTH?",
            auth,
        )
        self.assertIn("NIXERY_ZZZ (environment): there is no such setting", other)

    def test_variables_of_others_are_ignored(self) -> None:
        """Variables of Kubernetes for its services, and of the tests, are no settings."""
        config = self.load(
            environ={
                "NIXERY_PORT": "tcp://10.0.0.1:8080",
                "NIXERY_PORT_8080_TCP": "tcp://10.0.0.1:8080",
                "NIXERY_PORT_8080_TCP_ADDR": "10.0.0.1",
                "NIXERY_SERVICE_HOST": "10.0.0.1",
                "NIXERY_SERVICE_PORT_HTTP": "8080",
                "NIXERY_MIRROR_PORT": "tcp://10.0.0.2:80",
                "NIXERY_MIRROR_SERVICE_HOST": "10.0.0.2",
                "NIXERY_REQUIRE_ENGINES": "1",
                "NIXERY_TEST_FULL": "1",
            }
        )
        self.assertEqual(self.load(), config)
        self.assertEqual((), config.warnings)

    def test_deprecated_names_are_variables_too(self) -> None:
        """The variable of a former name has its effect, that of a removed setting has none."""
        for old, (new, value) in FORMER_NAMES.items():
            if old == "gcs_proxy":
                continue
            variable = f"NIXERY_{old.upper()}"
            config = self.load(environ={variable: value})
            self.assertEqual(self.load(f"{new}: {value}"), config)
            (warning,) = config.warnings
            self.assertEqual(
                f"{variable} (environment): this name is deprecated: use NIXERY_{new.upper()}",
                warning.describe(),
            )
        config = self.load(environ={"NIXERY_LAYER_UNIT_SIZE": "1"})
        self.assertEqual(self.load(), config)
        self.assertIn("no effect", config.warnings[0].describe())


def _parses(parse: Callable[[object], object], text: str) -> bool:
    try:
        parse(text)
    except InvalidValue:
        return False
    return True


class ProblemTests(ConfigCase):
    """Tests of variables with values that their settings do not accept."""

    def test_bad_value_is_named_with_its_variable_and_what_would_be_right(self) -> None:
        """A bad value is named with its variable, its layer, and what would be right."""
        for environ, said in (
            (
                {"PORT": "tcp://10.0.0.1:80"},
                "PORT = 'tcp://10.0.0.1:80' (environment): give a whole number between 1 and 65535",
            ),
            (
                {"NIXERY_PORT": "http"},
                "NIXERY_PORT = 'http' (environment): give a whole number between 1 and 65535",
            ),
            (
                {"NIXERY_AUTH": "htpaswd"},
                "NIXERY_AUTH = 'htpaswd' (environment): give one of none, htpasswd, token",
            ),
        ):
            self.assertEqual(said, self.problem(environ=environ).describe())

    def test_contradictions_name_the_variables(self) -> None:
        """Two variables that contradict each other are named as they were given."""
        problem = self.problem(environ={"NIXERY_LISTEN": "tcp:1", "PORT": "2"})
        self.assertEqual("NIXERY_LISTEN", problem.setting)
        self.assertIn("PORT", problem.expected)
        problem = self.problem(environ={"NIXERY_AUTH": "htpasswd"})
        self.assertEqual("NIXERY_AUTH", problem.setting)
        self.assertIn("htpasswd_file", problem.expected)
