"""Tests for :mod:`nixery.config.layer`."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.config import ConfigCase


class LayerTests(ConfigCase):
    """Tests of the layers, each of which replaces the one below it."""

    def test_command_line_wins_over_the_environment_and_that_over_the_file(self) -> None:
        """The command line wins over the environment, and that over the file."""
        file = "nix_timeout: 1\nstorage_path: /file\nlayer_budget: 7\n"
        environ = {"NIX_TIMEOUT": "2", "STORAGE_PATH": "/environment"}
        config = self.load(file, environ, nix_timeout="3")
        self.assertEqual(3, config.nix.nix_timeout)
        self.assertEqual(Path("/environment"), config.storage.storage_path)
        self.assertEqual(7, config.layers.layer_budget)

    def test_file_by_variable(self) -> None:
        """NIXERY_CONFIG names the file; the option does so with more weight."""
        one, two = Path(self.mktemp()), Path(self.mktemp())
        one.write_text("layer_budget: 1")
        two.write_text("layer_budget: 2")
        environ = {"NIXERY_CONFIG": str(one)}
        self.assertEqual(1, self.load(environ=environ).layers.layer_budget)
        self.assertEqual(2, self.load(environ=environ, config=str(two)).layers.layer_budget)

    def test_file_without_settings_or_with_settings_left_empty_changes_nothing(self) -> None:
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
        self.assertEqual((given or [3600])[0], config.nix.nix_timeout)


class ProblemTests(ConfigCase):
    """Tests of the problems that are found, and of their messages."""

    def test_all_problems_at_once(self) -> None:
        """All that is wrong is said at once, whichever layer it is in."""
        problems = self.problems(
            "layer_budget: 126\nnix_timout: 3\n", {"PORT": "0"}, system="x86_64-windows"
        )
        self.assertEqual(
            {"layer_budget", "nix_timout", "PORT", "--system"},
            {problem.setting for problem in problems},
        )

    def test_secrets_are_not_shown(self) -> None:
        """Neither a message nor the representation shows a secret."""
        problem = self.problem(environ={"GCS_SIGNING_KEY": "hush"})
        self.assertNotIn("hush", problem.describe())
        problem = self.problem("nix_options: {access-tokens: [{github.com: hush}]}")
        self.assertNotIn("hush", problem.describe())
        config = self.load("nix_options: {access-tokens: github.com=hush}")
        self.assertNotIn("hush", repr(config))
        self.assertEqual({"access-tokens": "github.com=hush"}, config.nix.nix_options)
