"""
The packages of an image, as the Nix side has found them.

Each requirement has an :class:`Answer`, a package or a problem;
:mod:`nixery.nix.resolve_output` reads them from what ``nix/resolve.nix`` prints.
:func:`conclude` makes one :class:`Evaluation` of them, or one error that tells
everything that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve, frozen

from nixery.image.errors import PackageProblem, PackagesRefused, ProblemKind
from nixery.image.names import PackageRequest

__all__ = ["LookupResult", "Evaluation", "Output", "Package", "make_evaluation", "find_refused"]


@frozen(kw_only=True, order=True)
class Output:
    """An output of a derivation: its name (``out``, ``bin``) and its store path."""

    name: str
    path: str


@frozen(kw_only=True)
class Package:
    """
    A package that exists and may be used.

    :param requested: the names it was asked for by, sorted.
    :param attribute: its attribute path, spelled as the package set spells it.
    :param name: ``hello-2.10``.
    :param pname: ``hello``.
    :param version: ``2.10``; empty where the package set gives none.
    :param description: one line; empty where there is none.
    :param priority: which of two packages with the same file wins: the lower.
    :param derivation: the store path of the derivation.
    :param outputs: the chosen outputs, sorted by name.
    """

    requested: tuple[str, ...]
    attribute: str
    name: str
    pname: str
    version: str
    description: str
    priority: int
    derivation: str
    outputs: tuple[Output, ...]


@frozen(kw_only=True)
class Evaluation:
    """
    The packages of an image.

    :param packages: sorted by attribute path; one for each derivation.
    :param left_out: optional requirements that the package set does not have.
    :param system: the system they are for.
    """

    packages: tuple[Package, ...]
    left_out: tuple[str, ...]
    system: str


@frozen(kw_only=True)
class LookupResult:
    """
    What became of one requirement.

    :param requirement: what was asked for.
    :param result: a package, or why there is none.
    """

    requirement: PackageRequest
    result: Package | PackageProblem


def make_evaluation(answers: Iterable[LookupResult], system: str) -> Evaluation:
    """
    The packages of an image.

    Names that lead to the same derivation are one package, called by the attribute
    path that sorts first, with the outputs that any of them chose.

    :raises PackagesRefused: with every problem that there is.
    """
    packages: dict[str, Package] = {}
    problems: list[PackageProblem] = []
    left_out: list[str] = []
    for answer in answers:
        result = answer.result
        if isinstance(result, Package):
            known = packages.get(result.derivation)
            packages[result.derivation] = result if known is None else _merge(known, result)
        elif answer.requirement.optional and result.kind in _ABSENT:
            left_out.append(answer.requirement.name)
        else:
            problems.append(result)
    if problems:
        raise PackagesRefused(problems=tuple(problems))
    return Evaluation(
        packages=tuple(
            sorted(packages.values(), key=lambda package: (package.attribute, package.derivation))
        ),
        left_out=tuple(sorted(left_out)),
        system=system,
    )


def find_refused(
    requirements: Iterable[PackageRequest], refused: frozenset[str]
) -> tuple[PackageProblem, ...]:
    """
    The requirements whose attribute paths lead where clients may not go.

    :param refused: attributes, in lower case.
    """
    problems = []
    for item in requirements:
        through = [part for part in item.name.split(".") if part.lower() in refused]
        if through:
            problems.append(
                PackageProblem(
                    name=item.name,
                    kind=ProblemKind.REFUSED,
                    message=(
                        f"{item.name} leads through {through[0]}, which this registry does"
                        " not serve"
                    ),
                )
            )
    return tuple(problems)


# A set that has something else under a name does not have the package.
_ABSENT = (ProblemKind.NOT_FOUND, ProblemKind.NOT_A_PACKAGE)


def _merge(first: Package, second: Package) -> Package:
    chosen = min(first, second, key=lambda package: package.attribute)
    return evolve(
        chosen,
        requested=tuple(sorted({*first.requested, *second.requested})),
        priority=min(first.priority, second.priority),
        outputs=tuple(sorted({*first.outputs, *second.outputs})),
    )
