"""
Makes the Nix commands that the configuration describes, for the daemon and for the commands that do
the daemon's work without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.logger import Logger

from nixery.config.config import Config
from nixery.nix.arguments import NixSettings
from nixery.nix.commands import NixCommands
from nixery.nix.enumeration import StoreListing
from nixery.process.spawner import ProcessSpawner, Spawner
from nixery.runtime.data_files import nix_directory
from nixery.runtime.startup import Component
from nixery.runtime.workers import Workers

__all__ = ["NixSubsystem", "make_nix", "make_survey", "nix_settings"]

_log = Logger()


@frozen(kw_only=True)
class NixSubsystem:
    """
    The Nix commands.

    :param components: for a daemon; a command uses ``nix`` as it is.
    """

    nix: NixCommands
    components: tuple[Component, ...]


def make_nix(
    config: Config,
    workers: Workers,
    # Any: the global reactor has no type.
    reactor: Any,
    environ: Mapping[str, str],
    *,
    state_directory: Path | None = None,
    instrument: Callable[[Spawner], Spawner] = lambda spawner: spawner,
) -> NixSubsystem:
    """
    Make the Nix commands of one process.

    :param workers: as :class:`nixery.nix.commands.NixCommands` says.
    :param environ: the environment of this process.
    :param state_directory: the directory for garbage collection roots, if not the configured one:
        the roots of a daemon belong to it alone.
    :param instrument: wraps the spawner of the commands to measure them.
    :raises ResourceMissing: the installation is incomplete.
    """
    nix = NixCommands(
        spawner=instrument(ProcessSpawner(reactor, reactor)),
        clock=reactor,
        workers=workers,
        settings=nix_settings(config, state_directory or config.state_directory),
        resolve=nix_directory() / "resolve.nix",
        environ=environ,
    )

    async def start() -> None:
        version = await nix.check()
        # Remove the garbage collection roots that an earlier run left.
        await nix.sweep()
        _log.info("Nix {version} builds them.", version=version)
        nix.enable_prewarming()

    return NixSubsystem(
        nix=nix, components=(Component(name="Nix side", start=start, stop=nix.stop),)
    )


def make_survey(
    config: Config,
    workers: Workers,
    reactor: Any,  # as above
    environ: Mapping[str, str],
) -> StoreListing:
    """
    Make the object that lists a whole store or package set; the parameters are those of
    :func:`make_nix`.
    """
    return StoreListing(
        spawner=ProcessSpawner(reactor, reactor),
        workers=workers,
        settings=nix_settings(config, config.state_directory),
        expression=nix_directory() / "attributes.nix",
        environ=environ,
    )


def nix_settings(config: Config, state_directory: Path) -> NixSettings:
    """Return the settings for Nix that are configured."""
    return NixSettings(
        state_directory=state_directory,
        home=config.cache_directory,
        timeout=config.nix_timeout,
        max_silent=config.nix_max_silent,
        build_deadline=config.build_deadline,
        eval_timeout=config.eval_timeout,
        max_eval_memory=config.max_eval_memory * 1024**2,
        evaluations=config.max_evaluations,
        allow_import_from_derivation=config.allow_import_from_derivation,
        options=config.nix_options,
        config=config.nixpkgs_config,
        fetch_timeout=config.fetch_timeout,
        source_retention=config.source_retention,
        substitute_only=config.substitute_only,
    )
