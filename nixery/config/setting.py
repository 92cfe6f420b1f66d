"""One setting of the configuration, as its declaration describes it."""

from __future__ import annotations

from attrs import frozen

from nixery.config.types import Kind

__all__ = ["ANY_VALUE", "Setting", "option_name"]

ANY_VALUE = object()
"""Stands for any value in a setting's ``requires``: the other setting need only have a value."""


@frozen(kw_only=True)
class Setting:
    """
    One setting of the configuration.

    :param name: its name in the configuration file.
    :param kind: the kind of its value.
    :param help: its effect, in one line without a full stop.
    :param default: its value where no layer gives one.
    :param default_text: the default as documentation shows it, if it is determined when the daemon
        starts.
    :param variable: the environment variable, where there is one.
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
    def former_names(self) -> tuple[str, ...]:
        """All former names."""
        return self.aliases if self.inverted_alias is None else (*self.aliases, self.inverted_alias)


def option_name(name: str) -> str:
    """Return the option of the command line for a setting's name, without its dashes."""
    return name.replace("_", "-")
