"""
Layers of the configuration: the file, the environment and the command line.

Also decides how a higher layer replaces the values of a lower one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from attrs import evolve, field, frozen

from nixery.config.declarations.removed import REMOVED_SETTINGS
from nixery.config.errors import ConfigProblem
from nixery.config.setting import Setting, option_name, variable_name
from nixery.config.settings import SETTINGS
from nixery.config.types import INCLUDED_FILE, PATH, InvalidValue
from nixery.runtime.systemd.credentials import PREFIX, find_credential

__all__ = [
    "COMMAND_LINE",
    "DEPRECATED_NAMES",
    "ENVIRONMENT",
    "Layer",
    "make_layer",
    "merge",
    "with_credentials",
]

COMMAND_LINE = "command line"
ENVIRONMENT = "environment"

DEPRECATED_NAMES = (
    *(name for setting in SETTINGS for name in setting.former_names),
    *REMOVED_SETTINGS,
)
"""All names that are accepted in the file and on the command line, and warned of."""


@frozen(kw_only=True)
class Layer:
    """
    The unparsed values of one layer.

    :param name: ``command line``, ``environment``, or the path of the file.
    :param given: the values, by the names of settings.
    :param former_names: the former names that some of them were given by, by the present names.
    :param variables: the environment variables that gave them, if the layer is the environment.
    """

    name: str
    given: Mapping[str, object] = field(factory=dict)
    former_names: Mapping[str, str] = field(factory=dict)
    variables: Mapping[str, str] = field(factory=dict)

    def spell(self, setting: Setting) -> str:
        """Return the setting's name as it was written in this layer."""
        return self.spell_name(self.former_names.get(setting.name, setting.name))

    def spell_name(self, name: str) -> str:
        """Return a name as it is written in this layer."""
        if self.name == ENVIRONMENT:
            return self.variables.get(name) or variable_name(name)
        return f"--{option_name(name)}" if self.name == COMMAND_LINE else name

    def problem(self, setting: Setting, expected: str) -> ConfigProblem:
        """Make the error that this layer's value of the setting is wrong."""
        given = self.given[setting.name]
        shown = None if setting.secret or isinstance(given, dict) else str(given)
        return ConfigProblem(
            setting=self.spell(setting), value=shown, layer=self.name, expected=expected
        )

    def is_inverted(self, setting: Setting) -> bool:
        """Return whether the setting's value means the opposite, as its former name has it."""
        return setting.inverted_alias is not None and (
            self.former_names.get(setting.name) == setting.inverted_alias
        )


def make_layer(
    name: str,
    given: Mapping[str, object],
    problems: list[ConfigProblem],
    warnings: list[ConfigProblem],
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Layer:
    """
    Make a layer of values by present, former and removed names.

    :param given: the values; ``None`` counts as not given.
    :param problems: gets an error for each setting that is given by two names.
    :param warnings: gets a warning for each former or removed name.
    :param variables: as in :class:`Layer`.
    """
    given = {key: value for key, value in given.items() if value is not None}
    values = {setting.name: given[setting.name] for setting in SETTINGS if setting.name in given}
    layer = Layer(name=name, variables=variables)
    former_names: dict[str, str] = {}

    def report(to: list[ConfigProblem], key: str, text: str) -> None:
        to.append(
            ConfigProblem(setting=layer.spell_name(key), value=None, layer=name, expected=text)
        )

    for setting in SETTINGS:
        present = layer.spell_name(setting.name)
        for former in setting.former_names:
            if former not in given:
                continue
            if setting.name in values:
                report(problems, former, f"it is a former name of {present}: give only one of them")
                continue
            values[setting.name] = given[former]
            former_names[setting.name] = former
            opposite = " with the opposite value" if former == setting.inverted_alias else ""
            report(warnings, former, f"this name is deprecated: use {present}{opposite}")
    for removed, advice in REMOVED_SETTINGS.items():
        if removed in given:
            text = f"this setting was removed and has no effect: {advice or 'leave it out'}"
            report(warnings, removed, text)
    return evolve(layer, given=values, former_names=former_names)


def with_credentials(
    layer: Layer, environ: Mapping[str, str], problems: list[ConfigProblem]
) -> Layer:
    """
    Return a layer in which the paths that name credentials are replaced by those of their files.
    """
    given = dict(layer.given)
    for setting in SETTINGS:
        value = given.get(setting.name)
        if setting.kind not in (PATH, INCLUDED_FILE):
            continue
        if isinstance(value, str) and value.startswith(PREFIX):
            try:
                given[setting.name] = find_credential(value, environ)
            except ValueError as error:
                problems.append(layer.problem(setting, str(error)))
    return evolve(layer, given=given)


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
                value = setting.kind.parse(given)
                values[setting.name] = not value if layer.is_inverted(setting) else value
            except InvalidValue as rejected:
                problems.append(layer.problem(setting, str(rejected)))
            ranks[setting.name] = rank
        for group, members in groups.items():
            if len(members) > 1:
                spelled = [layer.spell(member) for member in members]
                others = " and ".join(spelled[1:])
                problems.append(
                    layer.problem(members[0], f"it contradicts {others}: give only one of them")
                )
            for other in SETTINGS:
                if other.group == group and other not in members:
                    values.pop(other.name, None)
                    ranks.pop(other.name, None)
    return values, ranks
