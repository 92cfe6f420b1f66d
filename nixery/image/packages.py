"""
The packages of an image, as Nix has found them.

Each requested package has a :class:`LookupResult` with a package or a problem;
:mod:`nixery.nix.resolve_output` reads them from the output of ``nix/resolve.nix``.
:func:`make_evaluation` makes one :class:`Evaluation` of them, or one error with all
problems.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve, frozen

from nixery.image.closure import RuntimeGraph, StorePath
from nixery.image.declarations import License
from nixery.image.errors import PackageProblem, PackagesRefused, ProblemKind
from nixery.image.names import PackageRequest

__all__ = [
    "LookupResult",
    "Evaluation",
    "Output",
    "Package",
    "attributes_with",
    "make_evaluation",
    "refused_problems",
]


@frozen(kw_only=True, order=True)
class Output:
    """An output of a derivation: its name (``out``, ``bin``) and its store path."""

    name: str
    path: str


@frozen(kw_only=True)
class Package:
    """
    A package that exists and may be used.

    :param requested: the names that it was requested by, sorted.
    :param attribute: its attribute path, spelled as in the package set.
    :param name: ``hello-2.10``.
    :param pname: ``hello``.
    :param version: ``2.10``; empty if the package set gives none.
    :param description: one line; empty if there is none.
    :param priority: decides between packages with the same file; the lower one wins.
    :param derivation: the store path of the derivation.
    :param outputs: the chosen outputs, sorted by name.
    :param other_outputs: the derivation's other outputs, sorted by name.
    :param licenses: the declared licences, sorted; empty if there are none, or they cannot be read.
    :param cpe: the declared name in the CPE dictionary, version 2.3; empty if there is none.
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
    other_outputs: tuple[Output, ...] = ()
    licenses: tuple[License, ...] = ()
    cpe: str = ""


@frozen(kw_only=True)
class Evaluation:
    """
    The evaluated packages of an image.

    :param packages: sorted by attribute path; one for each derivation.
    :param missing_optional: optional requested packages that the package set does not have.
    :param system: the system they are for.
    """

    packages: tuple[Package, ...]
    missing_optional: tuple[str, ...]
    system: str

    @property
    def output_paths(self) -> list[str]:
        """The store paths of the packages' chosen outputs, sorted."""
        return sorted({output.path for each in self.packages for output in each.outputs})


@frozen(kw_only=True)
class LookupResult:
    """
    The result for one requested package.

    :param request: the package that was requested.
    :param result: the package, or the problem.
    """

    request: PackageRequest
    result: Package | PackageProblem


def make_evaluation(results: Iterable[LookupResult], system: str) -> Evaluation:
    """
    Combine the results of the look-ups into the packages of an image.

    Names that lead to the same derivation become one package, with the attribute
    path that sorts first, and the outputs that any of them chose.

    :raises PackagesRefused: there are problems; it has all of them.
    """
    packages: dict[str, Package] = {}
    problems: list[PackageProblem] = []
    missing_optional: list[str] = []
    for lookup in results:
        result = lookup.result
        if isinstance(result, Package):
            previous = packages.get(result.derivation)
            packages[result.derivation] = result if previous is None else _merge(previous, result)
        elif lookup.request.optional and result.kind in _ABSENT:
            missing_optional.append(lookup.request.name)
        else:
            problems.append(result)
    if problems:
        raise PackagesRefused(problems=tuple(problems))
    return Evaluation(
        packages=tuple(
            sorted(packages.values(), key=lambda package: (package.attribute, package.derivation))
        ),
        missing_optional=tuple(sorted(missing_optional)),
        system=system,
    )


def refused_problems(
    requests: Iterable[PackageRequest], refused: frozenset[str]
) -> tuple[PackageProblem, ...]:
    """
    Return a problem for each requested package whose attribute path leads through a refused
    attribute.

    :param refused: attributes, in lower case.
    """
    problems = []
    for request in requests:
        refused_parts = [part for part in request.name.split(".") if part.lower() in refused]
        if refused_parts:
            problems.append(
                PackageProblem(
                    name=request.name,
                    kind=ProblemKind.REFUSED,
                    message=(
                        f"{request.name} leads through {refused_parts[0]}, which this registry does"
                        " not serve"
                    ),
                )
            )
    return tuple(problems)


# A set in which a name is not a package does not have the package either.
_ABSENT = (ProblemKind.NOT_FOUND, ProblemKind.NOT_A_PACKAGE)


def _merge(first: Package, second: Package) -> Package:
    base = min(first, second, key=lambda package: package.attribute)
    outputs = {*first.outputs, *second.outputs}
    return evolve(
        base,
        requested=tuple(sorted({*first.requested, *second.requested})),
        priority=min(first.priority, second.priority),
        outputs=tuple(sorted(outputs)),
        other_outputs=tuple(sorted({*first.other_outputs, *second.other_outputs} - outputs)),
    )


def attributes_with(evaluation: Evaluation, graph: RuntimeGraph, path: str) -> tuple[str, ...]:
    """Return the attributes of the packages whose closure has a store path, sorted."""
    return tuple(
        sorted(
            package.attribute
            for package in evaluation.packages
            if any(
                each.path == path
                for each in graph.subgraph(
                    StorePath(output.path) for output in package.outputs
                ).paths
            )
        )
    )
