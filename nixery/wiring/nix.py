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
from nixery.nix.context import NixContext
from nixery.nix.dry_run import DryRunner
from nixery.nix.enumeration import StoreListing
from nixery.nix.package_indexes import PackageIndexes
from nixery.process.spawner import ProcessSpawner, Spawner
from nixery.runtime.data_files import nix_directory
from nixery.runtime.startup import Component
from nixery.runtime.workers import Workers

__all__ = [
    "NixSubsystem",
    "make_nix",
    "make_nix_context",
    "make_package_indexes",
    "make_store_listing",
]

_log = Logger()


@frozen(kw_only=True)
class NixSubsystem:
    """
    The Nix commands.

    :param dry_runner: asks what would be built and downloaded.
    :param components: for a daemon; a command uses ``nix`` as it is.
    """

    nix: NixCommands
    dry_runner: DryRunner
    components: tuple[Component, ...]


def make_nix_context(
    config: Config,
    workers: Workers,
    # Any: the global reactor has no type.
    reactor: Any,
    environ: Mapping[str, str],
    *,
    state_directory: Path | None = None,
    instrument: Callable[[Spawner], Spawner] = lambda spawner: spawner,
) -> NixContext:
    """
    Make the context of the Nix commands of one process.

    :param workers: as :class:`nixery.nix.context.NixContext` says.
    :param environ: the environment of this process; git finds credentials through it, and it may
        name proxies.
    :param state_directory: the directory for garbage collection roots, if not the configured one:
        the roots of a daemon belong to it alone.
    :param instrument: wraps the spawner of the commands to measure them.
    """
    return NixContext(
        spawner=instrument(ProcessSpawner(reactor, reactor)),
        clock=reactor,
        workers=workers,
        settings=nix_settings(config, state_directory or config.storage.state_directory),
        environ=environ,
    )


def make_nix(context: NixContext) -> NixSubsystem:
    """
    Make the Nix commands of one process.

    :raises ResourceMissing: the installation is incomplete.
    """
    nix = NixCommands(context, resolve=nix_directory() / "resolve.nix")

    async def start() -> None:
        version = await nix.check()
        # Remove the garbage collection roots that an earlier run left.
        await nix.sweep()
        _log.info("Nix {version} builds the packages.", version=version)
        nix.keep_evaluators()

    return NixSubsystem(
        nix=nix,
        dry_runner=DryRunner(context),
        components=(Component(name="Nix side", start=start, stop=nix.stop),),
    )


def make_package_indexes(
    context: NixContext, nix: NixCommands, *, building: Callable[[], bool]
) -> PackageIndexes:
    """
    Make the indexes of the package sets that a daemon uses.

    :param building: tells whether images are being made.
    """
    indexes = PackageIndexes(
        context.settings.home / "package-indexes",
        context.workers,
        context.settings.evaluation_identity(),
    )
    nix.enable_indexing(indexes, building)
    return indexes


def make_store_listing(context: NixContext) -> StoreListing:
    """
    Make the object that lists a whole store or package set.

    :raises ResourceMissing: the installation is incomplete.
    """
    return StoreListing(context, expression=nix_directory() / "attributes.nix")


def nix_settings(config: Config, state_directory: Path) -> NixSettings:
    """Return the settings for Nix that are configured."""
    nix = config.nix
    return NixSettings(
        state_directory=state_directory,
        home=config.storage.cache_directory,
        timeout=nix.nix_timeout,
        # A build that prints nothing for so long hangs, or is one that wants more time in all.
        max_silent=max(1, nix.nix_timeout // 2),
        build_deadline=config.builds.build_deadline,
        eval_timeout=nix.eval_timeout,
        max_eval_memory=nix.max_eval_memory * 1024**2,
        evaluations=config.builds.max_builds,
        evaluators=nix.evaluators,
        allow_import_from_derivation=nix.allow_import_from_derivation,
        allow_unpinned_fetches=nix.allow_unpinned_fetches,
        options=nix.nix_options,
        options_file=nix.nix_options_file,
        config=config.sources.nixpkgs_config,
        substitute_only=nix.substitute_only,
    )
