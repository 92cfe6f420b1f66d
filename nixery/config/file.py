"""Reads the configuration file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from nixery.config.errors import ConfigProblem
from nixery.config.layer import COMMAND_LINE, DEPRECATED_NAMES, ENVIRONMENT, Layer, make_layer
from nixery.config.settings import SETTINGS

__all__ = ["CONFIG_VARIABLE", "read_file", "suggest"]

CONFIG_VARIABLE = "NIXERY_CONFIG"
"""The environment variable that names the configuration file."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """
    Loads YAML safely, and rejects a name that is given twice instead of ignoring one.

    A text that looks like a date or a number and is none is a YAML error that names its position.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        # PyYAML does not catch the exceptions of the types' own constructors.
        except (ValueError, AttributeError, LookupError, OverflowError) as error:
            raise yaml.MarkedYAMLError(
                problem=f"{node.tag.rpartition(':')[2]} cannot be read: {error}",
                problem_mark=node.start_mark,
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_file(
    command_line: Mapping[str, object],
    environ: Mapping[str, str],
    problems: list[ConfigProblem],
    warnings: list[ConfigProblem],
) -> Layer:
    """Read the layer of the configuration file; it is empty if there is no file."""
    if command_line.get("config") is not None:
        setting, layer, path = "--config", COMMAND_LINE, str(command_line["config"])
    else:
        setting, layer, path = CONFIG_VARIABLE, ENVIRONMENT, environ.get(CONFIG_VARIABLE, "")
        if not path:
            return Layer(name="file")
    try:
        # The loader is a SafeLoader.
        data = yaml.load(Path(path).read_text("utf-8"), _UniqueKeyLoader)  # noqa: S506
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        problems.append(
            ConfigProblem(
                setting=setting,
                value=path,
                layer=layer,
                expected=f"name a YAML file that can be read ({reason})",
            )
        )
        return Layer(name=path)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        problems.append(
            ConfigProblem(
                setting=setting,
                value=path,
                layer=layer,
                expected="name a file that holds one YAML mapping of settings",
            )
        )
        return Layer(name=path)
    known = [setting.name for setting in SETTINGS]
    for name in data:
        if name not in known and name not in DEPRECATED_NAMES:
            hint = suggest(str(name).replace("-", "_"), known)
            problems.append(
                ConfigProblem(
                    setting=str(name),
                    value=None,
                    layer=path,
                    expected=f"there is no such setting: {hint}",
                )
            )
    return make_layer(path, data, problems, warnings)


def suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Suggest the name out of ``known`` that a mistyped ``name`` may mean, as a question."""
    near = difflib.get_close_matches(name.lower(), list(known), n=3)
    if not near:
        return "twistd nixery --help lists all settings"
    return f"did you mean {' or '.join(prefix + item for item in near)}?"
