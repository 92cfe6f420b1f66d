"""
Reads the layer of the environment.

Each setting has a variable of its name, ``NIXERY_AUTH``; some have a second one, by which users of
the first Nixery know them.  A list is separated by commas, and a mapping is JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from nixery.config.errors import ConfigProblem
from nixery.config.file import CONFIG_VARIABLE, suggest
from nixery.config.layer import DEPRECATED_NAMES, ENVIRONMENT, Layer, make_layer
from nixery.config.setting import VARIABLE_PREFIX, Setting, variable_name
from nixery.config.settings import SETTINGS

__all__ = ["read_environment"]

_OF_OTHERS = re.compile(
    # Those of the project's own tests, and those of which Kubernetes sets some for each Service
    # whose name begins with "nixery".
    r"NIXERY_(TEST_.*|REQUIRE_ENGINES|FUZZ_CHILD|(.*_)?PORT(_.*)?|(.*_)?SERVICE_.*)"
)

_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")


def read_environment(
    environ: Mapping[str, str], problems: list[ConfigProblem], warnings: list[ConfigProblem]
) -> Layer:
    """
    Make the layer of the environment; an empty variable counts as unset.

    :param warnings: gets one for each variable that looks like a setting and is none.
    """
    given: dict[str, object] = {}
    variables: dict[str, str] = {}
    for setting in SETTINGS:
        variable = _variable_in_force(setting, environ)
        if variable is None:
            continue
        text = environ[variable]
        variables[setting.name] = variable
        if setting.kind.is_list:
            given[setting.name] = [part for part in text.split(",") if part.strip()]
        else:
            given[setting.name] = text
    known = {CONFIG_VARIABLE, *(own for setting in SETTINGS for own in setting.variables)}
    for name in DEPRECATED_NAMES:
        variable = variable_name(name)
        known.add(variable)
        given[name] = environ.get(variable) or None
    names = [variable_name(setting.name) for setting in SETTINGS]
    for variable, text in sorted(environ.items()):
        if (
            text
            and variable.startswith(VARIABLE_PREFIX)
            and variable not in known
            and not _OF_OTHERS.fullmatch(variable)
        ):
            hint = suggest(
                variable.removeprefix(VARIABLE_PREFIX),
                [name.removeprefix(VARIABLE_PREFIX) for name in names],
                VARIABLE_PREFIX,
            )
            warnings.append(
                ConfigProblem(
                    setting=variable,
                    value=None,
                    layer=ENVIRONMENT,
                    expected=f"there is no such setting, and the variable has no effect: {hint}",
                )
            )
    return make_layer(ENVIRONMENT, given, problems, warnings, variables)


def _variable_in_force(setting: Setting, environ: Mapping[str, str]) -> str | None:
    """Return the variable that gives the setting its value, if one does: its own comes first."""
    for variable in setting.variables:
        text = environ.get(variable)
        if text and not (variable == "NIXERY_PORT" and _SERVICE_LINK.match(text)):
            return variable
    return None
