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

__all__ = ["Built", "WholeSet", "evaluate_all", "realise_all"]

EVALUATED_AT_ONCE = 400
"""Names per evaluation: shared dependencies are evaluated once, and all are one argument."""

BUILT_AT_ONCE = 200
"""Packages per build: Nix stops at the first failure, and then the batch is split."""

_log = Logger()


@frozen(kw_only=True)
class WholeSet:
    """
    The available packages of a set.

    :param packages: one for each derivation and choice of outputs.
    :param refused: the names of those that are not available.
    """

    packages: tuple[Package, ...]
    refused: tuple[str, ...]


@define(kw_only=True, eq=False)
class Built:
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
    told: Callable[[int, int], None],
) -> WholeSet:
    """
    Evaluate packages, and leave out those that are refused.

    :param names: attribute paths.
    :param told: called with the number of those that are done, and of all.
    :raises EvaluationFailed: the set itself does not evaluate.
    :raises NixeryError: Nix failed.
    """
    packages: dict[tuple[str, ...], Package] = {}
    refused: list[str] = []
    for start in range(0, len(names), EVALUATED_AT_ONCE):
        wanted = {
            PackageRequest(name=name, exact=True)
            for name in names[start : start + EVALUATED_AT_ONCE]
        }
        while wanted:
            try:
                evaluation = await nix.evaluate(package_set, system, sorted(wanted))
            except PackagesRefused as error:
                bad = {problem.name for problem in error.problems}
                left = {item for item in wanted if item.name not in bad}
                if left == wanted:
                    raise
                refused += bad
                wanted = left
            else:
                for package in evaluation.packages:
                    outputs = tuple(output.path for output in package.outputs)
                    packages.setdefault(outputs, package)
                wanted = set()
        told(min(start + EVALUATED_AT_ONCE, len(names)), len(names))
    return WholeSet(packages=tuple(packages.values()), refused=tuple(sorted(refused)))


async def realise_all(
    nix: Nix, packages: Sequence[Package], progress: Progress, told: Callable[[int, int], None]
) -> Built:
    """
    Build or download packages, and leave out those that fail.

    :param told: as in :func:`evaluate_all`.
    :raises NixeryError: something other than a build failed.  All realisations have been
        released then.
    """
    built = Built()
    waiting = [
        packages[start : start + BUILT_AT_ONCE] for start in range(0, len(packages), BUILT_AT_ONCE)
    ]
    waiting.reverse()
    try:
        while waiting:
            part = waiting.pop()
            try:
                built.realisations.append(await nix.realise(part, progress))
            except (BuildFailed, BuildTimedOut, WrongSystem) as error:
                if len(part) > 1:
                    middle = len(part) // 2
                    waiting += [part[middle:], part[:middle]]
                    continue
                _log.info("{package}: {error}", package=part[0].attribute, error=error)
                built.failed.append(part[0].attribute)
            told(len(packages) - sum(map(len, waiting)), len(packages))
    except BaseException:
        for realisation in built.realisations:
            await nix.release(realisation)
        raise
    return built
