"""
Describe what an image would contain that has not been built: pure functions.

The packages in its name, those that ``shell`` stands for, and those that every image has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen

from nixery.http.ui.image_views import place
from nixery.http.ui.package_query import PackageQueries
from nixery.image.errors import PackageProblem, PackagesRefused
from nixery.image.image_index import platform_label
from nixery.image.names import ARCH_META_PACKAGES, MULTI, SHELL, PackageRequest, Tag
from nixery.image.packages import LookupResult, Package, make_evaluation

__all__ = ["PlatformResults", "PreviewPackage", "packages_refused", "preview_packages"]

PlatformResults = Mapping[str, Sequence[LookupResult]]
"""The results for each system of an index; empty for an image of one system."""

EVERY_IMAGE = "every image"
"""Stands for the packages that all images contain."""


@frozen(kw_only=True)
class PreviewPackage:
    """
    A package that the image would contain, or why it cannot.

    :param name: as in the name of the image.
    :param part_of: what brings it: ``shell``, or :data:`EVERY_IMAGE`; empty: it is named itself.
    :param attribute: its name in the package set; empty: there is a problem.
    :param problem: a sentence; empty: there is none.
    :param near: names that may have been meant, with the paths of the images that have them.
    :param missing: of an index, why platforms lack it, by their labels.
    """

    name: str
    part_of: str = ""
    attribute: str = ""
    version: str = ""
    description: str = ""
    problem: str = ""
    near: tuple[tuple[str, str], ...] = ()
    missing: Mapping[str, str]


def preview_packages(
    queries: PackageQueries, results: Sequence[LookupResult], platforms: PlatformResults, tag: Tag
) -> list[PreviewPackage]:
    """
    Return the packages of an image, those first that its name lists.

    :param results: for all package requests of the name.
    :param tag: of the image, for links.
    """
    found = {each.request: each.result for each in results}
    repository = queries.name.repository

    def describe(
        request: PackageRequest, name: str, part_of: str = "", component: str = ""
    ) -> PreviewPackage:
        result = found[request]
        missing = dict(_missing_platforms(request, platforms))
        if isinstance(result, Package):
            return PreviewPackage(
                name=name,
                part_of=part_of,
                attribute=result.attribute,
                version=result.version,
                description=result.description,
                missing=missing,
            )
        return PreviewPackage(
            name=name,
            part_of=part_of,
            problem=result.message,
            near=tuple(
                (each, place(f"{_exchange(repository, component, each)}:{tag}"))
                for each in result.candidates
            ),
            missing=missing,
        )

    packages = []
    for query in queries.queries:
        if query.package_request is not None:
            packages.append(describe(query.package_request, query.typed, component=query.component))
        elif query.component not in (MULTI, *ARCH_META_PACKAGES):
            packages += [
                describe(PackageRequest(name=name, exact=True), name, query.component)
                for name in SHELL
            ]
    for request in queries.name.package_requests:
        if request.optional and isinstance(found[request], Package):
            packages.append(describe(request, request.name, EVERY_IMAGE))
    return packages


def packages_refused(
    results: Sequence[LookupResult], platforms: PlatformResults
) -> PackagesRefused | None:
    """Return the error of a pull whose packages cannot be used; an index needs one platform."""
    refused = None
    for each in (results, *platforms.values()):
        try:
            make_evaluation(each, "")
        except PackagesRefused as error:
            refused = refused or error
        else:
            return None
    return refused


def _missing_platforms(
    request: PackageRequest, platforms: PlatformResults
) -> Iterator[tuple[str, str]]:
    for system, results in platforms.items():
        for each in results:
            if each.request == request and isinstance(each.result, PackageProblem):
                yield platform_label(system), each.result.message


def _exchange(repository: str, component: str, other: str) -> str:
    return "/".join(other if each == component else each for each in repository.split("/"))
