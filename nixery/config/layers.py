"""
Reads the layers of the configuration: the file, the environment, the command line.

Also decides how a higher layer replaces the values of a lower one, and which combinations are
contradictions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from attrs import frozen

from nixery.config.errors import ConfigProblem
from nixery.config.setting import ANY_VALUE, Setting
from nixery.config.settings import SETTINGS
from nixery.config.types import PATH, InvalidValue
from nixery.layers.compression_levels import LEVELS
from nixery.runtime.systemd.credentials import PREFIX, find_credential

__all__ = [
    "CONFIG_VARIABLE",
    "Layer",
    "find_contradictions",
    "merge",
    "read_file",
    "suggest",
    "with_credentials",
]

CONFIG_VARIABLE = "NIXERY_CONFIG"
"""The environment variable that names the configuration file."""


@frozen(kw_only=True)
class Layer:
    """The unparsed values of one layer, by the names of settings."""

    name: str
    given: Mapping[str, object]

    def spell(self, setting: Setting) -> str:
        """Return the setting's name as it is written in this layer."""
        if self.name == "command line":
            return f"--{setting.option}"
        if self.name == "environment":
            return setting.variable or setting.name
        return setting.name


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
) -> Layer:
    """Read the layer of the configuration file; it is empty if there is no file."""
    if command_line.get("config") is not None:
        setting, layer, path = "--config", "command line", str(command_line["config"])
    else:
        setting, layer, path = CONFIG_VARIABLE, "environment", environ.get(CONFIG_VARIABLE, "")
        if not path:
            return Layer(name="file", given={})
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
        return Layer(name=path, given={})
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
        return Layer(name=path, given={})
    known = {setting.name: setting for setting in SETTINGS}
    for name in data:
        if name not in known:
            hint = suggest(str(name).replace("-", "_"), known)
            problems.append(
                ConfigProblem(
                    setting=str(name),
                    value=None,
                    layer=path,
                    expected=f"there is no such setting: {hint}",
                )
            )
    return Layer(
        name=path,
        given={name: value for name, value in data.items() if name in known and value is not None},
    )


def with_credentials(
    layer: Layer, environ: Mapping[str, str], problems: list[ConfigProblem]
) -> Layer:
    """
    Return a layer in which the paths that name credentials are replaced by those of their files.
    """
    given = dict(layer.given)
    for setting in SETTINGS:
        value = given.get(setting.name)
        if setting.kind is PATH and isinstance(value, str) and value.startswith(PREFIX):
            try:
                given[setting.name] = find_credential(value, environ)
            except ValueError as error:
                problems.append(_problem(layer, setting, str(error)))
    return Layer(name=layer.name, given=given)


def merge(
    layers: Iterable[Layer], problems: list[ConfigProblem]
) -> tuple[dict[str, object], dict[str, int]]:
    """
    Return the effective values, parsed, and the rank of the layer that each came from.

    A value that does not parse is added to ``problems``, even if a higher layer replaces it.
    """
    values: dict[str, object] = {}
    ranks: dict[str, int] = {}
    for rank, layer in enumerate(layers):
        groups: dict[str, list[Setting]] = {}
        for setting in SETTINGS:
            if setting.name not in layer.given:
                continue
            given = layer.given[setting.name]
            if setting.group is not None:
                groups.setdefault(setting.group, []).append(setting)
            try:
                values[setting.name] = setting.kind.parse(given)
            except InvalidValue as rejected:
                problems.append(_problem(layer, setting, str(rejected)))
            ranks[setting.name] = rank
        for group, members in groups.items():
            if len(members) > 1:
                spelled = [layer.spell(member) for member in members]
                others = " and ".join(spelled[1:])
                problems.append(
                    _problem(
                        layer, members[0], f"it contradicts {others}: give only one of them here"
                    )
                )
            for other in SETTINGS:
                if other.group == group and other not in members:
                    values.pop(other.name, None)
                    ranks.pop(other.name, None)
    return values, ranks


def find_contradictions(
    values: Mapping[str, object], ranks: Mapping[str, int], layers: list[Layer]
) -> Iterator[ConfigProblem]:
    """Find combinations of values that are valid one by one and contradict each other."""
    by_name = {setting.name: setting for setting in SETTINGS}
    for setting in SETTINGS:
        if setting.requires is None or setting.name not in ranks:
            continue
        other, needed = setting.requires
        if other in ranks and other not in values:
            continue  # its value did not parse, so what was meant is unknown
        actual = values.get(other, by_name[other].default)
        # If a higher layer chooses something else, a lower one's details have no effect; layers
        # exist for that.
        group = by_name[other].group
        choosing = [
            ranks[each.name]
            for each in SETTINGS
            if each.name in ranks and (each.name == other or (group and each.group == group))
        ]
        overridden = max(choosing, default=-1) > ranks[setting.name]
        if needed is ANY_VALUE and actual is None:
            only = f"it means something only where {other} is given"
        elif needed is not ANY_VALUE and actual != needed:
            only = f"it means something only where {other} is {needed}, and that is {actual}"
        else:
            continue
        if not overridden:
            yield _problem(layers[ranks[setting.name]], setting, only)
    if "compression_level" in values:
        yield from _check_level(values, ranks, layers, by_name)
    yield from _check_auth(values, ranks, layers, by_name)
    if values.get("storage_backend") == "gcs" and "storage_backend" in ranks:
        layer = layers[ranks["storage_backend"]]
        if "gcs_bucket" not in ranks:
            yield _problem(
                layer, by_name["storage_backend"], "name the bucket too: GCS_BUCKET or gcs_bucket"
            )
        for one, two in (
            ("gcs_signing_key", "gcs_signing_account"),
            ("gcs_signing_account", "gcs_signing_key"),
        ):
            if one in ranks and two not in ranks:
                yield _problem(layers[ranks[one]], by_name[one], f"give {two} too, or neither")


def _check_auth(
    values: Mapping[str, object],
    ranks: Mapping[str, int],
    layers: list[Layer],
    by_name: Mapping[str, Setting],
) -> Iterator[ConfigProblem]:
    """Check the settings for passwords, rules, anonymous clients and tokens against ``auth``."""
    if "auth" in ranks and "auth" not in values:
        return
    auth = values.get("auth", "none")
    rules = values.get("auth_rules")
    if auth == "none":
        for name in ("htpasswd_file", "auth_rules"):
            if name in ranks and ranks.get("auth", -1) <= ranks[name]:
                yield _problem(
                    layers[ranks[name]],
                    by_name[name],
                    "it means something only where auth is htpasswd or token: without that,"
                    " everybody may pull everything",
                )
        return
    if "htpasswd_file" not in ranks:
        yield _problem(
            layers[ranks["auth"]],
            by_name["auth"],
            "name the file of the passwords too: htpasswd_file (htpasswd -B -c FILE USER makes"
            " one)",
        )
    if auth != "token" and isinstance(rules, Mapping) and "anonymous" in rules:
        yield _problem(
            layers[ranks["auth_rules"]],
            by_name["auth_rules"],
            "pulls without logging in (anonymous) need auth: token; with a plain password, clients"
            " either always send one or never",
        )
    if auth == "token" and "port" in ranks and "public_url" not in ranks:
        yield _problem(
            layers[ranks["auth"]],
            by_name["auth"],
            "give public_url too: it is where clients of other machines fetch their tokens",
        )


def _check_level(
    values: Mapping[str, object],
    ranks: Mapping[str, int],
    layers: list[Layer],
    by_name: Mapping[str, Setting],
) -> Iterator[ConfigProblem]:
    """Check the compression level: each kind of compression has its own range."""
    kind = values.get("compression", by_name["compression"].default)
    rank = ranks["compression_level"]
    if "compression" in ranks and ("compression" not in values or ranks["compression"] > rank):
        return
    levels = LEVELS[str(kind)]
    if len(levels) == 1:
        expected = f"leave it out: with compression {kind} there are no levels"
    elif values["compression_level"] in levels:
        return
    else:
        expected = f"with compression {kind}, give a level between {levels[0]} and {levels[-1]}"
    yield _problem(layers[rank], by_name["compression_level"], expected)


def _problem(layer: Layer, setting: Setting, expected: str) -> ConfigProblem:
    given = layer.given[setting.name]
    shown = None if setting.secret or isinstance(given, dict) else str(given)
    return ConfigProblem(
        setting=layer.spell(setting), value=shown, layer=layer.name, expected=expected
    )


def suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Suggest the name out of ``known`` that a mistyped ``name`` may mean, as a question."""
    near = difflib.get_close_matches(name.lower(), list(known), n=3)
    if not near:
        return "twistd nixery --help lists all settings"
    return f"did you mean {' or '.join(prefix + item for item in near)}?"
