"""
One setting of the configuration, as the field of its group declares it.

A group of settings is a frozen class in :mod:`nixery.config.declarations`, and each of its fields
is declared by :func:`setting`: the name and the type of the field are those of the setting's value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypedDict, Unpack

import attrs
from attrs import frozen

from nixery.config.types import Kind

__all__ = [
    "ANY_VALUE",
    "COMPUTED",
    "VARIABLE_PREFIX",
    "Setting",
    "declared_settings",
    "option_name",
    "setting",
    "variable_name",
]

VARIABLE_PREFIX = "NIXERY_"
"""The prefix of the environment variables of settings."""

ANY_VALUE = object()
"""Stands for any value in a setting's ``requires``: the other setting need only have a value."""

COMPUTED = attrs.NOTHING
"""Stands for a default that is determined when the configuration is read."""

_METADATA_KEY = "nixery setting"


@frozen(kw_only=True)
class Setting:
    """
    One setting of the configuration.

    :param name: its name in the configuration file.
    :param kind: the kind of its value.
    :param help: its effect, in one line without a full stop.
    :param default: its value where no layer gives one.
    :param default_text: the default as documentation shows it; ``None``: there is none.
    :param variable: a second environment variable beside that of its name, where there is one.
    :param group: settings of one group are alternatives: one layer gives at most
        one of them, and it replaces those of lower layers.
    :param requires: a setting, and the value that it must have for this one to
        mean anything, or :data:`ANY_VALUE`.
    :param secret: whether its value must never be shown.
    :param aliases: its former names, which still work and warn.
    :param inverted_alias: a former name, of which the values mean the opposite.
    """

    name: str
    kind: Kind
    help: str
    default: object = None
    default_text: str | None = None
    variable: str | None = None
    group: str | None = None
    requires: tuple[str, object] | None = None
    secret: bool = False
    aliases: tuple[str, ...] = ()
    inverted_alias: str | None = None

    @property
    def option(self) -> str:
        """The option of the command line, without its dashes."""
        return option_name(self.name)

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables; the first that is set counts."""
        own = variable_name(self.name)
        return (own,) if self.variable is None else (own, self.variable)

    @property
    def former_names(self) -> tuple[str, ...]:
        """All former names."""
        return self.aliases if self.inverted_alias is None else (*self.aliases, self.inverted_alias)


class _Details(TypedDict, total=False):
    """The parameters of :class:`Setting` that most settings do without."""

    default_text: str
    variable: str
    group: str
    requires: tuple[str, object]
    secret: bool
    aliases: tuple[str, ...]
    inverted_alias: str


# Any: as attrs.field, it stands where a value of the field's type stands.
def setting(kind: Kind, text: str, *, default: object = None, **details: Unpack[_Details]) -> Any:
    """
    Declare a field of a group as a setting.

    :param text: its effect, see ``help`` of :class:`Setting`, which has the other parameters too.
    :param default: :data:`COMPUTED`, if the value must be given when the group is made.
    """
    return attrs.field(
        default=default,
        repr=not details.get("secret", False),
        metadata={_METADATA_KEY: {"kind": kind, "help": text, **details}},
    )


def declared_settings(group: type[attrs.AttrsInstance]) -> Iterator[Setting]:
    """Return the settings that the fields of a group declare, in their order."""
    for attribute in attrs.fields(group):
        default = None if attribute.default is COMPUTED else attribute.default
        details = {"default_text": _text(default), **attribute.metadata[_METADATA_KEY]}
        yield Setting(name=attribute.name, default=default, **details)


def option_name(name: str) -> str:
    """Return the option of the command line for a setting's name, without its dashes."""
    return name.replace("_", "-")


def variable_name(name: str) -> str:
    """Return the environment variable for a setting's name."""
    return VARIABLE_PREFIX + name.upper()


def _text(default: object) -> str | None:
    match default:
        case None:
            return None
        case bool():
            return str(default).lower()
        case float():
            return f"{default:g}"
        case tuple():
            return ", ".join(default)
        case _:
            return str(default)
