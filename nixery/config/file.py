"""Reads the configuration file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from nixery.config.errors import ConfigProblem
from nixery.config.layer import COMMAND_LINE, DEPRECATED_NAMES, ENVIRONMENT, Layer, make_layer
from nixery.config.settings import SETTINGS
from nixery.config.yaml_loader import load_yaml

__all__ = ["CONFIG_VARIABLE", "read_file", "suggest"]

CONFIG_VARIABLE = "NIXERY_CONFIG"
"""The environment variable that names the configuration file."""


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
        data = load_yaml(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = _reason(error)
        problems.append(
            ConfigProblem(
                setting=setting,
                value=path,
                layer=layer,
                expected=f"cannot read this YAML file: {reason}",
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
                expected="the file must hold one YAML mapping of settings",
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


def _reason(error: Exception) -> str:
    """Return why a file cannot be read, with the line and the column of an error in it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Suggest the name out of ``known`` that a mistyped ``name`` may mean, as a question."""
    spelled = {item.lower(): prefix + item for item in known}
    near = difflib.get_close_matches(name.lower(), spelled, n=3)
    if not near:
        return "twistd nixery --help lists all settings"
    return f"did you mean {' or '.join(spelled[item] for item in near)}?"
