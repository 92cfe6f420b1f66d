"""Tests of former names of settings: they have their effect, and are warned of."""

from __future__ import annotations

from nixery.config.config import Config
from nixery.config.declarations.removed import REMOVED_SETTINGS
from nixery.config.layer import DEPRECATED_NAMES
from nixery.config.load import load_config
from nixery.config.settings import SETTINGS
from tests.support.config import FORMER_NAMES, HOME, ConfigCase

INVERTED = "gcs_proxy"

BUCKET = {"GCS_BUCKET": "b", "NIXERY_STORAGE_BACKEND": "gcs"}


class FormerNameTests(ConfigCase):
    """Tests of settings that are given by their former names."""

    def warning(self, config: Config) -> str:
        """Return the only warning."""
        (warning,) = config.warnings
        return warning.describe()

    def test_no_former_name_is_forgotten(self) -> None:
        """No former name is forgotten, and none is the present name of another setting."""
        declared = {old: setting.name for setting in SETTINGS for old in setting.former_names}
        self.assertEqual({old: new for old, (new, _) in FORMER_NAMES.items()}, declared)
        self.assertFalse({setting.name for setting in SETTINGS} & {*DEPRECATED_NAMES})
        self.assertEqual(len(DEPRECATED_NAMES), len({*DEPRECATED_NAMES}))

    def test_former_name_in_file_means_same_and_warning_says_present_one(self) -> None:
        """A former name in the file means the same, and the warning says the present one."""
        for old, (new, value) in FORMER_NAMES.items():
            if old != INVERTED:
                present = self.load(f"{new}: {value}")
                config = self.load(f"{old}: {value}")
                self.assertEqual(present, config)
                self.assertNotEqual(self.load(), config)
                self.assertEqual(
                    f"{old} ({self.path}): this name is deprecated: use {new}",
                    self.warning(config),
                )

    def test_former_option_means_the_same_and_is_spelled_as_given(self) -> None:
        """A former name on the command line means the same, and both are spelled as there."""
        for old, (new, value) in FORMER_NAMES.items():
            if old != INVERTED:
                config = load_config({old: value}, HOME)
                self.assertEqual(load_config({new: value}, HOME), config)
                self.assertNotEqual(self.load(), config)
                self.assertEqual(
                    f"--{old.replace('_', '-')} (command line): this name is deprecated: use"
                    f" --{new.replace('_', '-')}",
                    self.warning(config),
                )

    def test_all_at_once(self) -> None:
        """A file of former names only gives a warning for each, in which the present name is."""
        given = {old: value for old, (_, value) in FORMER_NAMES.items() if old != INVERTED}
        config = self.load("\n".join(f"{old}: {value}" for old, value in given.items()))
        said = {warning.setting: warning.expected for warning in config.warnings}
        self.assertEqual({*given}, {*said})
        for old, text in said.items():
            self.assertTrue(text.endswith(f"use {FORMER_NAMES[old][0]}"), text)

    def test_inverted_setting_has_its_former_meaning_under_its_former_name(self) -> None:
        """An inverted setting has its former meaning under its former name."""
        for value, redirect in (("true", False), ("no", True)):
            config = self.load(f"gcs_proxy: {value}", BUCKET)
            self.assertIs(redirect, config.gcs.gcs_redirect)
            self.assertIn("use gcs_redirect with the opposite value", self.warning(config))
            self.assertIs(
                not redirect, self.load(environ=BUCKET, gcs_redirect=value).gcs.gcs_redirect
            )
        higher = self.load("gcs_proxy: true", BUCKET, gcs_redirect="true")
        self.assertIs(True, higher.gcs.gcs_redirect)

    def test_present_names_cause_no_warning(self) -> None:
        """Present names are not warned of."""
        config = self.load("\n".join(f"{n}: {v}" for n, v in FORMER_NAMES.values()), BUCKET)
        self.assertEqual((), config.warnings)

    def test_both_in_one_layer(self) -> None:
        """Both names in one layer are an error that names both."""
        problem = self.problem("{stop_grace: 3, shutdown_timeout: 3}")
        self.assertEqual("stop_grace", problem.setting)
        self.assertIn("a former name of shutdown_timeout: give only one", problem.expected)
        problem = self.problem(environ=BUCKET, gcs_proxy="yes", gcs_redirect="no")
        self.assertEqual("--gcs-proxy", problem.setting)
        self.assertIn("--gcs-redirect", problem.expected)

    def test_both_in_two_layers(self) -> None:
        """The higher layer wins, whichever name it uses."""
        config = self.load("stop_grace: 3", shutdown_timeout="4")
        self.assertEqual(4, config.builds.shutdown_timeout)
        config = self.load("shutdown_timeout: 3", stop_grace="4")
        self.assertEqual(4, config.builds.shutdown_timeout)

    def test_former_name_without_a_value_gives_nothing_and_contradicts_nothing(self) -> None:
        """A former name without a value gives nothing, and contradicts nothing."""
        config = self.load("{stop_grace: , shutdown_timeout: 3}")
        self.assertEqual((3, ()), (config.builds.shutdown_timeout, config.warnings))

    def test_error_in_the_value_names_the_setting_as_it_was_written(self) -> None:
        """An error in the value names the setting as it was written."""
        self.assertEqual("max_bytes", self.problem("max_bytes: many").setting)
        self.assertEqual("--client-rate", self.problem(client_rate="many").setting)
        self.assertEqual("gcs_proxy", self.problem("gcs_proxy: true").setting)

    def test_misspelt_name_is_answered_with_present_names_only(self) -> None:
        """A misspelt name is answered with present names only."""
        self.assertNotIn("stop_grace", self.problem("stop_grac: 3").expected)


class RemovedSettingTests(ConfigCase):
    """Tests of settings that were removed."""

    def test_whatever_they_are_set_to_has_no_effect_and_each_is_warned_of(self) -> None:
        """Removed settings have no effect, and each is warned of."""
        text = "\n".join(f"{name}: anything" for name in REMOVED_SETTINGS)
        options = dict.fromkeys(REMOVED_SETTINGS, "anything")
        for config in (self.load(text), load_config(options, HOME)):
            self.assertEqual(self.load(), config)
            self.assertEqual(len(REMOVED_SETTINGS), len(config.warnings))
            for warning in config.warnings:
                self.assertIn("was removed and has no effect", warning.describe())
        (warning,) = self.load("compression_level: 0").warnings
        self.assertIn("has no effect: write it behind the kind", warning.describe())
