"""Reads what the config of an image sets for its containers."""

from __future__ import annotations

import json

from attrs import frozen

__all__ = ["ContainerSettings", "read_container_settings"]


@frozen(kw_only=True)
class ContainerSettings:
    """
    Settings that an image has for its containers.

    :param environment: variables, each as ``NAME=value``.
    :param command: the program that is run unless another one is named, with its arguments; empty:
        one has to be named.
    """

    environment: tuple[str, ...]
    user: str
    working_directory: str
    command: tuple[str, ...]


def read_container_settings(config: bytes) -> ContainerSettings:
    """
    Read what a config sets, with the defaults of OCI's specification.

    :raises ValueError: the bytes are not a config.
    """
    try:
        settings = json.loads(config)["config"]
        return ContainerSettings(
            environment=tuple(map(str, settings.get("Env") or ())),
            user=str(settings.get("User") or "root"),
            working_directory=str(settings.get("WorkingDir") or "/"),
            command=tuple(
                map(str, [*(settings.get("Entrypoint") or ()), *(settings.get("Cmd") or ())])
            ),
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"no config of an image: {error}") from error
