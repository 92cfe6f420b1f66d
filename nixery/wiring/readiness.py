"""Makes the checks by which the daemon tells whether it is ready."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from nixery.nix.commands import NixCommands
from nixery.observability.metrics import Metrics, SampledMetric
from nixery.observability.readiness import Check, Readiness
from nixery.sources.interface import Sources
from nixery.sources.source import Source, has_revisions
from nixery.sources.tag_policy import LATEST
from nixery.wiring.storage import StorageSubsystem

__all__ = ["DaemonReadiness", "make_readiness"]

CHECK_TTL_SECONDS = 5.0
"""Seconds for which the result of a check of this machine is used."""

SOURCE_CHECK_TTL_SECONDS = 60.0
"""
Seconds for which the result of a check is used that asks other hosts for the revision of a branch
or a channel.
"""


@frozen(kw_only=True)
class DaemonReadiness:
    """
    The readiness of the daemon.

    :param stored: the storage, which may not be usable yet.
    :param checks: the checks of all that the daemon depends on.
    """

    stored: StorageSubsystem
    checks: Readiness

    async def faults(self) -> Sequence[str]:
        """Return the reasons why the daemon is not ready, a sentence each."""
        return [*self.stored.unready(), *await self.checks.faults()]


def make_readiness(
    source: Source,
    clock: IReactorTime,
    *,
    stored: StorageSubsystem,
    nix: NixCommands,
    sources: Sources,
    metrics: Metrics | None,
) -> DaemonReadiness:
    """
    Make the checks.

    :param metrics: show the results.
    """
    checks = Readiness(
        checks=(
            Check(name="storage", check=stored.check, ttl=CHECK_TTL_SECONDS),
            Check(name="Nix", check=nix.probe, ttl=CHECK_TTL_SECONDS),
            Check(
                name="package source",
                check=lambda: sources.resolve(LATEST),
                ttl=SOURCE_CHECK_TTL_SECONDS if has_revisions(source) else CHECK_TTL_SECONDS,
            ),
        ),
        clock=clock,
    )
    if metrics is not None:
        metrics.add_sampled(
            SampledMetric(
                name="nixery_check_success",
                help="Whether what the daemon stands on could be used when it was tried last.",
                labels=("check",),
                read=lambda: [((name,), float(well)) for name, well in checks.last_results()],
            )
        )
    return DaemonReadiness(stored=stored, checks=checks)
