"""Makes slow preparations once the daemon listens, while no client waits for them."""

from __future__ import annotations

from importlib import import_module

from twisted.internet.defer import Deferred

from nixery.config.declarations.sources import SourceConfig
from nixery.nix.commands import NixCommands
from nixery.runtime.startup import Component
from nixery.runtime.workers import Workers
from nixery.sources.interface import Sources
from nixery.sources.source import PathSource
from nixery.sources.tag_policy import LATEST
from nixery.wiring.readiness import DaemonReadiness

__all__ = ["make_warm_up"]


def make_warm_up(
    config: SourceConfig,
    cpu: Workers,
    *,
    nix: NixCommands,
    sources: Sources,
    readiness: DaemonReadiness,
) -> Component:
    """Make the component that begins the preparations; the daemon waits for none of them."""

    async def prepare_evaluation() -> None:
        # The revision of other sources is unknown without a request to another host.
        if isinstance(config.source, PathSource):
            package_set = await sources.fetch(await sources.resolve(LATEST))
            for system in config.platforms or (config.system,):
                nix.prepare_evaluation(package_set, system)
                await nix.recall_names(package_set, system)

    async def start() -> None:
        for preparation in (
            readiness.faults(),
            cpu.run(import_module, "networkx"),  # which divides images into layers
            prepare_evaluation(),
        ):
            Deferred.fromCoroutine(preparation).addErrback(lambda _: None)

    return Component(name="warm-up", start=start)
