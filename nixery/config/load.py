"""
Reads and checks the configuration.

Defaults are overridden by the file, the file by the environment, the environment by the command
line; the settings are declared in :mod:`nixery.config.declarations`. Everything is checked here,
before anything starts, and everything that is wrong is reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from nixery.config.config import GROUPS, Config
from nixery.config.contradictions import find_contradictions
from nixery.config.environment import read_environment
from nixery.config.errors import ConfigError, ConfigProblem
from nixery.config.file import read_file
from nixery.config.layer import COMMAND_LINE, Layer, make_layer, merge, with_credentials
from nixery.config.settings import SETTINGS
from nixery.sources.git_urls import credentials

__all__ = ["load_config"]


def load_config(
    command_line: Mapping[str, object],
    environ: Mapping[str, str],
    passed: Sequence[str] = (),
) -> Config:
    """
    Read and check the configuration.

    :param command_line: texts, and lists of texts for repeated options, by the
        names of settings, former and removed ones included; ``config`` names the
        file. ``None`` counts as not given.
    :param environ: the environment; an empty variable counts as unset, and one that begins as
        those of settings do and is none is warned of.
    :param passed: endpoint strings of sockets that the service manager opened, which are
        listened on beside what is configured, and in place of the default.
    :raises ConfigError: with all that is wrong.
    """
    problems: list[ConfigProblem] = []
    warnings: list[ConfigProblem] = []
    layers = [
        read_file(command_line, environ, problems, warnings),
        read_environment(environ, problems, warnings),
        make_layer(COMMAND_LINE, command_line, problems, warnings),
    ]
    layers = [with_credentials(layer, environ, problems) for layer in layers]
    values, ranks = merge(layers, problems)
    problems += find_contradictions(values, ranks, layers)
    if problems:
        raise ConfigError(problems=tuple(problems))
    warnings += _exposed_passwords(layers[-1])
    return _assemble(values, environ, passed, tuple(warnings))


def _exposed_passwords(command_line: Layer) -> Iterator[ConfigProblem]:
    """Find the URLs with passwords on the command line, which every user of the machine sees."""
    for setting in SETTINGS:
        given = command_line.given.get(setting.name)
        if setting.secret and isinstance(given, str) and credentials(given) is not None:
            yield command_line.problem(
                setting,
                "all users of this machine see the user and the password of a URL among the"
                f" options: give it in the configuration file or by {setting.variables[0]}",
            )


def _assemble(
    given: Mapping[str, object],
    environ: Mapping[str, str],
    passed: Sequence[str],
    warnings: tuple[ConfigProblem, ...],
) -> Config:
    # Any: the declarations know the types of their values, the type checker does not.
    # A test compares the annotations of the fields with the values.
    values: dict[str, Any] = {setting.name: setting.default for setting in SETTINGS}
    values["cpu_workers"] = len(os.sched_getaffinity(0))
    values["state_directory"] = _directory(environ, "STATE", ".local/state")
    values["cache_directory"] = _directory(environ, "CACHE", ".cache")
    values.update(given)
    if values["storage_path"] is None:
        values["storage_path"] = values["state_directory"] / "storage"
    if values["token_key"] is None:
        values["token_key"] = values["state_directory"] / "token-key.pem"
    if values["port"] is not None:
        values["listen"] = (f"tcp:{values['port']}",)
    if passed:
        # The service manager opened them, and clients that connect to them must get an answer.
        # Configured endpoints are used as well; the default one is not.
        configured = values["listen"] if {"listen", "port"} & given.keys() else ()
        values["listen"] = tuple(dict.fromkeys((*passed, *configured)))
    groups: dict[str, Any] = {
        name: group(**{each.name: values[each.name] for each in attrs.fields(group)})
        for name, group in GROUPS.items()
    }
    return Config(**groups, warnings=warnings)


def _directory(environ: Mapping[str, str], purpose: str, fallback: str) -> Path:
    """
    Return the directory for state or cache: the one of systemd, else the one of the XDG base
    directory specification.
    """
    # systemd separates several directories by colons; the first is ours.
    given = environ.get(f"{purpose}_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given).absolute()
    base = environ.get(f"XDG_{purpose}_HOME", "")
    # The specification has relative paths ignored.
    if Path(base).is_absolute():
        return Path(base) / "nixery"
    return Path(environ.get("HOME") or os.path.expanduser("~")) / fallback / "nixery"
