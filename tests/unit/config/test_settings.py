"""Tests for :mod:`nixery.config.settings`, the list of all settings."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nixery.config.settings import SETTINGS

NAMES = (
    "listen",
    "port",
    "public_url",
    "allowed_hosts",
    "pull_wait_timeout",
    "tls_certificate",
    "tls_key",
    "auth",
    "htpasswd_file",
    "auth_rules",
    "token_key",
    "signing_key",
    "signing_key_previous",
    "trusted_proxies",
    "requests_per_client",
    "builds_per_client",
    "builds_per_client_per_hour",
    "connections_per_client",
    "idle_timeout",
    "max_unsent_size",
    "max_packages",
    "max_closure_size",
    "allow_packages",
    "deny_packages",
    "channel",
    "pkgs_repo",
    "pkgs_path",
    "flake",
    "allow_unlocked_flake",
    "pkgs_repo_kind",
    "pkgs_ref",
    "submodules",
    "lfs",
    "base_channel",
    "overlays",
    "nix_path",
    "extra_paths",
    "allowed_tags",
    "allow_any_commit",
    "source_ttl",
    "channel_url",
    "nixpkgs_url",
    "system",
    "platforms",
    "platforms_missing",
    "nixpkgs_config",
    "state_directory",
    "cache_directory",
    "storage_backend",
    "storage_path",
    "max_storage_size",
    "max_image_age",
    "min_free_space",
    "gcs_bucket",
    "gcs_signing_key",
    "gcs_signing_account",
    "gcs_redirect",
    "gcs_endpoint",
    "google_application_credentials",
    "nix_timeout",
    "eval_timeout",
    "max_eval_memory",
    "evaluators",
    "allow_import_from_derivation",
    "allow_unpinned_fetches",
    "substitute_only",
    "nix_options",
    "nix_options_file",
    "layer_budget",
    "layer_strategy",
    "compression",
    "popularity_url",
    "cpu_workers",
    "max_builds",
    "build_deadline",
    "shutdown_timeout",
    "evaluation_ttl",
    "stale_while_revalidate",
    "builder_id",
    "provenance_time",
    "web_ui",
    "show_builds",
    "max_build_log_size",
    "show_images",
    "metrics",
    "log_format",
)
"""The names of the settings, in their order; files, options and scripts of users rely on them."""


class SettingsTests(SynchronousTestCase):
    """Tests of the settings as they are listed."""

    def test_names_and_order(self) -> None:
        """Every setting that is declared is listed once, in its place."""
        self.assertEqual(NAMES, tuple(setting.name for setting in SETTINGS))

    def test_help_is_one_line(self) -> None:
        """Every setting has one line of help, and a name that an option can have."""
        for setting in SETTINGS:
            self.assertTrue(setting.help)
            self.assertNotIn("\n", setting.help)
            self.assertFalse(setting.help.endswith("."))
            self.assertRegex(setting.name, r"^[a-z][a-z_]*$")

    def test_each_setting_accepts_its_own_default(self) -> None:
        """A default is a value that its own setting would accept."""
        for setting in SETTINGS:
            if setting.default is not None:
                self.assertEqual(setting.default, setting.kind.parse(setting.default))
