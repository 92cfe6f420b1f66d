"""
Declares the interface to the Nix of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import field, frozen

from nixery.artifacts.provenance import Origins
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
    :param origins: the origins of the store paths that were made valid for it.
    """

    root: str
    outputs: tuple[str, ...]
    origins: Origins = field(factory=Origins, eq=False)


@frozen(kw_only=True)
class RootedClosure:
    """
    Outputs that were already valid in the store, with their runtime closure.

    :param realisation: the outputs, protected from garbage collection.
    :param graph: their runtime closure.
    """

    realisation: Realisation
    graph: RuntimeGraph


class Nix(Protocol):
    """Evaluates and builds packages with the Nix of this machine."""

    async def check(self) -> str:
        """
        Check that Nix can be used.

        :return: its version, ``2.8.0``.
        :raises NixUnusable: it cannot be used.
        """

    def version(self) -> str:
        """Return the version that :meth:`check` found last; empty if it has found none."""

    def evaluation_identity(self) -> Mapping[str, str]:
        """Return what evaluations depend on besides revisions and names, for cache keys."""

    async def evaluate(
        self, package_set: PackageSet, system: str, requests: Sequence[PackageRequest]
    ) -> Evaluation:
        """
        Look packages up and instantiate their derivations.

        :raises PackagesRefused: some of them do not exist or may not be used.
        :raises EvaluationFailed: the package set itself does not evaluate.
        :raises EvaluationTimedOut: it took too long.
        :raises SourceUnavailable: a host from which it fetches gave no answer.
        :raises NixUnusable: Nix itself failed, or refuses the package set as too old.
        """

    def prewarm(self) -> None:
        """Prepare for a call of :meth:`root_if_valid`, which is then faster."""

    async def root_if_valid(self, outputs: Sequence[str]) -> RootedClosure | None:
        """
        Protect outputs that are already valid in the store, and return their closure.

        :param outputs: store paths.
        :return: ``None`` if something has to be built first, or if this check failed: the
            other methods then report the error.
        """

    async def realise(self, packages: Sequence[Package], progress: Progress) -> Realisation:
        """
        Build or download the chosen outputs of the packages, and root them.

        :raises BuildFailed: a derivation failed.
        :raises BuildTimedOut: a derivation took too long or was silent.
        :raises WrongSystem: there is no builder for the system of a derivation.
        :raises MissingDerivations: a garbage collection removed the derivations, which are
            not protected between an evaluation and this.
        :raises NixUnusable: Nix itself failed.
        """

    async def reevaluate_and_realise(
        self,
        package_set: PackageSet,
        requests: Sequence[PackageRequest],
        evaluation: Evaluation,
        progress: Progress,
    ) -> Realisation:
        """
        Do as :meth:`realise`, with derivations that are evaluated again and then protected.

        This takes longer by the duration of an evaluation.

        :param evaluation: the earlier result for the other parameters; its outputs have to
            be built.
        :raises MissingDerivations: the package set has been changed since, so that other
            outputs were built; evaluate again.  It is possible, and unlikely, that a
            garbage collection is the reason.
        """

    async def closure(self, outputs: Sequence[str]) -> RuntimeGraph:
        """
        Return the runtime closure of valid store paths.

        :raises NixUnusable: Nix itself failed.
        """

    def root_expired(self, realisation: Realisation) -> bool:
        """
        True if the protection of the outputs has ended early.

        Files that were read from them since may have been in the course of deletion.
        """

    async def release(self, realisation: Realisation) -> None:
        """Allow garbage collection of the outputs; never raises."""
