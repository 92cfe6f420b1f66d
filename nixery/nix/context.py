"""The context that Nix commands run in: one value for all that run them."""

from __future__ import annotations

from collections.abc import Mapping
from signal import SIGKILL, SIGTERM

from attrs import field, frozen
from twisted.internet.interfaces import IReactorTime

from nixery.nix import arguments
from nixery.nix.arguments import NixSettings
from nixery.process.spawner import Command, Spawner
from nixery.runtime.workers import Workers

__all__ = ["NixContext"]

MAX_EVALUATION_BYTES = 64 * 1024 * 1024
"""The most bytes that an evaluation may print; the names of nixpkgs are 0.5 MB."""


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

    def evaluation(self, argv: tuple[str, ...], timeout: float | None = None) -> Command:
        """
        Return a command that evaluates.

        :param timeout: seconds after which it is stopped; ``None`` for no limit.
        """
        return Command(
            argv=argv,
            environment=self.environment,
            timeout=timeout,
            stdout_limit=MAX_EVALUATION_BYTES,
            # Inside a long-running primitive, Nix reacts to SIGKILL only.  A process that
            # may build gets SIGTERM, for it has to stop its builders itself.
            parent_death_signal=SIGTERM if self.settings.allow_import_from_derivation else SIGKILL,
        )
