"""The context that Nix commands run in: one value for all that run them."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen
from twisted.internet.interfaces import IReactorTime

from nixery.nix import arguments
from nixery.nix.arguments import NixSettings
from nixery.process.spawner import Spawner
from nixery.runtime.workers import Workers

__all__ = ["NixContext"]


@frozen(kw_only=True, eq=False)
class NixContext:
    """
    The context of Nix commands.

    :param spawner: runs the commands.
    :param clock: measures deadlines of several commands together.
    :param workers: for the file system and for parsing long output; not the pool
        that packs layers, whose threads are busy for long.
    :param settings: the settings of Nix commands.
    :param environ: the environment of this process.
    """

    spawner: Spawner
    clock: IReactorTime
    workers: Workers
    settings: NixSettings
    environ: Mapping[str, str] = field(repr=False)
    environment: Mapping[str, str] = field(init=False, repr=False)
    """The environment of the commands."""

    @environment.default
    def _make_environment(self) -> Mapping[str, str]:
        return arguments.environment(self.environ, self.settings)
