"""Tests for :mod:`nixery.config.file`."""

from __future__ import annotations

from pathlib import Path

from nixery.config.file import suggest
from tests.support.config import ConfigCase


class FileTests(ConfigCase):
    """Tests of files that cannot be read, and of names that are unknown in them."""

    def test_unknown_setting_in_the_file_is_an_error_with_the_nearest_name(self) -> None:
        """An unknown setting in the file is an error with the nearest name."""
        problem = self.problem("storage-paht: /x\n")
        self.assertEqual("storage-paht", problem.setting)
        self.assertIn("storage_path", problem.expected)

    def test_unknown_name_that_is_no_text(self) -> None:
        """YAML has other keys than texts: these are unknown settings too."""
        self.assertEqual("8080", self.problem("8080: x\n").setting)

    def test_name_that_file_gives_twice_is_error_not_last_ones_victory(self) -> None:
        """A name that the file gives twice is an error, not the last one's victory."""
        problem = self.problem("layer_budget: 1\nlayer_budget: 2\n")
        self.assertIn("'layer_budget' is given twice", problem.expected)
        self.assertIn("line 2", problem.expected)

    def test_file_that_is_missing_no_yaml_or_no_mapping_is_error_that_names_it(self) -> None:
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

    def test_error_in_the_yaml_is_told_with_its_line_and_column(self) -> None:
        """An error in the YAML is told with its line and column, in one line."""
        self.assertEqual(
            "cannot read this YAML file: line 2, column 3: mapping values are not allowed here",
            self.problem("a: 1\n b: 2").expected,
        )

    def test_yaml_cannot_run_code(self) -> None:
        """Tags that would make Python objects are refused."""
        self.problem("channel: !!python/object/apply:os.getcwd []\n")

    def test_near_names_are_suggested(self) -> None:
        """Near names are suggested; where there are none, the help is."""
        self.assertEqual("did you mean --port?", suggest("prot", ["port", "listen"], "--"))
        self.assertIn("--help", suggest("zzz", ["port", "listen"]))
