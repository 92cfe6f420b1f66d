"""Tests for :mod:`nixery.config.contradictions`."""

from __future__ import annotations

from nixery.config.errors import ConfigError
from tests.support.config import ConfigCase


class ContradictionTests(ConfigCase):
    """Tests of values that are valid one by one."""

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
        self.assertIn("it needs storage_backend: gcs", problem.expected)

    def test_higher_backend_puts_lower_details_out_of_force(self) -> None:
        """The command line may choose another storage than the file describes."""
        config = self.load("{storage_backend: gcs, gcs_bucket: b}", storage_backend="filesystem")
        self.assertEqual("filesystem", config.storage.storage_backend)

    def test_misspelt_backend_is_one_problem(self) -> None:
        """A backend that is not understood does not make its details wrong."""
        self.assertEqual(
            "storage_backend", self.problem("{storage_backend: gsc, gcs_bucket: b}").setting
        )

    def test_google_credentials_of_others(self) -> None:
        """Other programs' credentials in the environment contradict nothing."""
        self.load(environ={"GOOGLE_APPLICATION_CREDENTIALS": "/etc/key.json"})


class AuthTests(ConfigCase):
    """Users, and what is for them."""

    def test_rules_are_patterns_by_the_names_of_users(self) -> None:
        """Rules are patterns by the names of users; one pattern needs no list."""
        config = self.load(
            "{auth: htpasswd, htpasswd_file: /h, auth_rules: {a: [git, shell], b: x}}"
        )
        self.assertEqual({*config.access.auth_rules}, {"a", "b"})
        self.assertEqual(config.access.token_key, config.storage.state_directory / "token-key.pem")

    def test_settings_that_contradict_each_other_are_refused_with_what_to_do(self) -> None:
        """Settings that contradict each other are refused, with what to do."""
        for text, words in (
            ("{auth: htpasswd}", "htpasswd_file"),
            ("{auth: token}", "htpasswd_file"),
            ("{htpasswd_file: /h}", "it needs auth: htpasswd or token"),
            ("{auth_rules: {a: [git]}}", "it needs auth: htpasswd or token"),
            ("{auth: htpasswd, htpasswd_file: /h, token_key: /k}", "it needs auth: token"),
            (
                "{auth: htpasswd, htpasswd_file: /h, auth_rules: {anonymous: [git]}}",
                "need auth: token",
            ),
            ("{auth: token, htpasswd_file: /h, port: 80}", "public_url"),
            ("{signing_key: /k}", "give public_url too"),
            ("{signing_key_previous: /k}", "it needs signing_key too"),
            ("{auth: basic, htpasswd_file: /h}", "htpasswd, token"),
            ("{auth: token, htpasswd_file: /h, auth_rules: {a: [shell/*]}}", "write shell, git"),
            ("{auth: token, htpasswd_file: /h, auth_rules: {a: [1]}}", "list of patterns"),
            ("{auth: token, htpasswd_file: /h, auth_rules: [a]}", "mapping"),
            ("{flake: 'path:/f', pkgs_path: /p}", "it contradicts flake"),
            ("{flake: 'path:/f', channel: c}", "it contradicts flake"),
            ("{flake: 'path:/f', pkgs_repo: /r}", "it contradicts flake"),
            ("{flake: 'path:/f', pkgs_ref: main}", "it needs pkgs_repo too"),
            ("{flake: 'path:/f', overlays: /o}", "import nixpkgs { overlays"),
            ("{flake: 'path:/f', nixpkgs_config: {allowUnfree: true}}", "import nixpkgs"),
            ("{flake: 'path:/f', nix_path: {n: /n}}", "make what it needs an input"),
            ("{flake: 'path:/f', extra_paths: /n}", "make what it needs an input"),
            ("{flake: 'path:/f', allow_unpinned_fetches: true}", "make what it needs an input"),
            ("{platforms: [aarch64-linux]}", "add x86_64-linux, which is the system"),
            ("{pkgs_path: /p, allow_unlocked_flake: true}", "it needs flake too"),
        ):
            with self.assertRaises(ConfigError) as raised:
                self.load(text)
            self.assertIn(words, raised.exception.message, text)
