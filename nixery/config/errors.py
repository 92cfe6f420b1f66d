"""
Errors of the configuration.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError

__all__ = ["ConfigError", "ConfigProblem"]


@frozen(kw_only=True)
class ConfigProblem:
    """
    One error in the configuration.

    :param setting: the setting as its layer spells it.
    :param value: the value that was given, as text; ``None`` where there is
        none to show (an unknown setting, a secret).
    :param layer: the layer that gave it: ``command line``, ``environment``, or the path of a file.
    :param expected: describes a valid value.
    """

    setting: str
    value: str | None
    layer: str
    expected: str

    def describe(self) -> str:
        shown = "" if self.value is None else f" = {self.value!r}"
        return f"{self.setting}{shown} ({self.layer}): {self.expected}"


@frozen(kw_only=True)
class ConfigError(NixeryError):
    """The configuration is unusable; holds all errors in it, at once."""

    problems: tuple[ConfigProblem, ...]

    @property
    def message(self) -> str:
        return "\n".join(problem.describe() for problem in self.problems)
