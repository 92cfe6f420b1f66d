"""
Evaluates and builds a package set as a whole.

An image fails if one of its packages is unavailable.  In a whole set some always are: they
are left out and reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field, frozen
from twisted.logger import Logger

from nixery.image.errors import PackagesRefused
from nixery.image.names import PackageRequest
from nixery.image.packages import Package
from nixery.nix.errors import BuildFailed, BuildTimedOut, WrongSystem
from nixery.nix.interface import Nix, Realisation
from nixery.nix.progress import Progress
from nixery.sources.source import PackageSet

__all__ = ["RealisedSet", "EvaluatedSet", "evaluate_all", "realise_all"]

EVALUATION_BATCH_SIZE = 400
"""Names per evaluation: shared dependencies are evaluated once, and all are one argument."""

BUILD_BATCH_SIZE = 200
"""Packages per build: Nix stops at the first failure, and then the batch is split."""

_log = Logger()


@frozen(kw_only=True)
class EvaluatedSet:
    """
    The available packages of a set.

    :param packages: one for each derivation and choice of outputs.
    :param refused: the names of those that are not available.
    """

    packages: tuple[Package, ...]
    refused: tuple[str, ...]


@define(kw_only=True, eq=False)
class RealisedSet:
    """
    The result of building a set.

    :param realisations: to be released when they are not needed any more.
    :param failed: the attribute paths of packages that failed.
    """

    realisations: list[Realisation] = field(factory=list)
    failed: list[str] = field(factory=list)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the store paths, sorted."""
        return tuple(sorted({path for each in self.realisations for path in each.outputs}))


async def evaluate_all(
    nix: Nix,
    package_set: PackageSet,
    system: str,
    names: Sequence[str],
    on_progress: Callable[[int, int], None],
) -> EvaluatedSet:
    """
    Evaluate packages, and leave out those that are refused.

    :param names: attribute paths.
    :param on_progress: called with the number of those that are done, and of all.
    :raises EvaluationFailed: the set itself does not evaluate.
    :raises NixeryError: Nix failed.
    """
    packages: dict[tuple[str, ...], Package] = {}
    refused: list[str] = []
    for start in range(0, len(names), EVALUATION_BATCH_SIZE):
        requests = {
            PackageRequest(name=name, exact=True)
            for name in names[start : start + EVALUATION_BATCH_SIZE]
        }
        while requests:
            try:
                evaluation = await nix.evaluate(package_set, system, sorted(requests))
            except PackagesRefused as error:
                refused_names = {problem.name for problem in error.problems}
                remaining = {item for item in requests if item.name not in refused_names}
                if remaining == requests:
                    raise
                refused += refused_names
                requests = remaining
            else:
                for package in evaluation.packages:
                    outputs = tuple(output.path for output in package.outputs)
                    packages.setdefault(outputs, package)
                requests = set()
        on_progress(min(start + EVALUATION_BATCH_SIZE, len(names)), len(names))
    return EvaluatedSet(packages=tuple(packages.values()), refused=tuple(sorted(refused)))


async def realise_all(
    nix: Nix,
    packages: Sequence[Package],
    progress: Progress,
    on_progress: Callable[[int, int], None],
) -> RealisedSet:
    """
    Build or download packages, and leave out those that fail.

    :param on_progress: as in :func:`evaluate_all`.
    :raises NixeryError: something other than a build failed.  All realisations have been
        released then.
    """
    result = RealisedSet()
    batches = [
        packages[start : start + BUILD_BATCH_SIZE]
        for start in range(0, len(packages), BUILD_BATCH_SIZE)
    ]
    batches.reverse()
    try:
        while batches:
            batch = batches.pop()
            try:
                result.realisations.append(await nix.realise(batch, progress))
            except (BuildFailed, BuildTimedOut, WrongSystem) as error:
                if len(batch) > 1:
                    middle = len(batch) // 2
                    batches += [batch[middle:], batch[:middle]]
                    continue
                _log.info("{package}: {error}", package=batch[0].attribute, error=error)
                result.failed.append(batch[0].attribute)
            on_progress(len(packages) - sum(map(len, batches)), len(packages))
    except BaseException:
        for realisation in result.realisations:
            await nix.release(realisation)
        raise
    return result
