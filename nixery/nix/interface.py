"""
Declares the interface of the Nix of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import frozen

from nixery.image.closure import RuntimeGraph
from nixery.image.names import PackageRequest
from nixery.image.packages import Evaluation, Package
from nixery.nix.progress import Progress
from nixery.sources.source import PackageSet

__all__ = ["RootedClosure", "Nix", "Realisation"]


@frozen(kw_only=True)
class Realisation:
    """
    Outputs that are valid in the store and protected from garbage collection.

    :param root: the identifier to give to :meth:`Nix.release`.
    :param outputs: their store paths, sorted.
    """

    root: str
    outputs: tuple[str, ...]


@frozen(kw_only=True)
class RootedClosure:
    """
    Outputs that were valid in the store already.

    :param realisation: they are protected from garbage collection.
    :param graph: their runtime closure.
    """

    realisation: Realisation
    graph: RuntimeGraph


class Nix(Protocol):
    """The Nix of this machine."""

    async def check(self) -> str:
        """
        Find out whether Nix can be used.

        :return: its version, ``2.8.0``.
        :raises NixUnusable: it cannot.
        """

    def evaluation_identity(self) -> Mapping[str, str]:
        """What shapes evaluations besides revisions and names, for cache keys."""

    async def evaluate(
        self, package_set: PackageSet, system: str, requirements: Sequence[PackageRequest]
    ) -> Evaluation:
        """
        Look packages up and instantiate their derivations.

        :raises PackagesRefused: some of them do not exist or may not be used.
        :raises EvaluationFailed: the package set itself does not evaluate.
        :raises EvaluationTimedOut: it took too long.
        :raises NixUnusable: Nix itself failed, or refuses the package set as too old.
        """

    def prepare(self) -> None:
        """There may soon be a use for :meth:`hold`."""

    async def hold(self, outputs: Sequence[str]) -> RootedClosure | None:
        """
        Protect outputs that are valid in the store already, and tell their closure.

        :param outputs: store paths.
        :return: ``None`` where something has to be built first, or where that cannot be
            told in this way: the other methods then say what is wrong.
        """

    async def realise(self, packages: Sequence[Package], progress: Progress) -> Realisation:
        """
        Build or download the chosen outputs of the packages, and root them.

        :raises BuildFailed: a derivation failed.
        :raises BuildTimedOut: a derivation took too long or was silent.
        :raises WrongSystem: no builder for the system of a derivation.
        :raises MissingDerivations: a garbage collection took the derivations, which
            nothing protects between an evaluation and this.
        :raises NixUnusable: Nix itself failed.
        """

    async def reevaluate_and_realise(
        self,
        package_set: PackageSet,
        requirements: Sequence[PackageRequest],
        evaluation: Evaluation,
        progress: Progress,
    ) -> Realisation:
        """
        As :meth:`realise`, with derivations that are made again and protected from
        then on: this takes as long as an evaluation longer.

        :param evaluation: what the other parameters have led to, and what has to be
            built.
        :raises MissingDerivations: the package set has been changed since, so that
            others are built; evaluate again.  It is possible, and unlikely, that a
            garbage collection is the reason.
        """

    async def closure(self, outputs: Sequence[str]) -> RuntimeGraph:
        """
        The runtime closure of valid store paths.

        :raises NixUnusable: Nix itself failed.
        """

    def lost(self, realisation: Realisation) -> bool:
        """
        Whether what protects the outputs has ended before it should.  What was read of
        them since may have been on its way into the bin.
        """

    async def release(self, realisation: Realisation) -> None:
        """Give outputs free for garbage collection; never raises."""
