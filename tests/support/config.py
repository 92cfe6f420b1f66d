"""Loads configurations, and reports what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nixery.config.config import Config
from nixery.config.errors import ConfigError, ConfigProblem
from nixery.config.load import load_config

__all__ = ["FORMER_NAMES", "HOME", "ConfigCase"]

HOME = {"HOME": "/home/somebody"}


FORMER_NAMES: dict[str, tuple[str, str]] = {
    "client_builds": ("builds_per_client", "7"),
    "client_builds_hourly": ("builds_per_client_per_hour", "7"),
    "client_connections": ("connections_per_client", "7"),
    "client_rate": ("requests_per_client", "7"),
    "eval_memory": ("max_eval_memory", "777"),
    "gcs_proxy": ("gcs_redirect", "true"),
    "max_age": ("max_image_age", "777777"),
    "max_bytes": ("max_storage_size", "77 GiB"),
    "max_closure": ("max_closure_size", "77 GiB"),
    "min_free": ("min_free_space", "77 MiB"),
    "request_deadline": ("pull_wait_timeout", "7"),
    "revisions": ("allowed_tags", "v7.*"),
    "serve_stale": ("stale_while_revalidate", "7"),
    "site": ("web_ui", "false"),
    "stop_grace": ("shutdown_timeout", "7"),
}
"""The present names of settings, and a value that is no default, by their former names."""


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
