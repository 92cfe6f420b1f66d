"""
Describes how an image was made: packages, layers and closure.

A manifest has the sizes and the digests of layers. The store paths in each layer and the reason for
each layer, the references between paths, and the requested packages are known only while an image
is made: later the closure may have been garbage-collected, and the popularity data may have
changed. So a *report* is kept in storage beside the image, in the form of
:mod:`nixery.inspection.report_file`. It does not influence the image, and an image without a report
can be pulled like any other.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from nixery.artifacts.components import image_components
from nixery.builds.build_record import BuildRecord
from nixery.image.closure import STORE, package_name
from nixery.image.declarations import conjunction
from nixery.image.names import Digest

__all__ = [
    "ImageReport",
    "ReportedLayer",
    "ReportedLicense",
    "ReportedPackage",
    "ReportedPath",
    "make_report",
]

_NAME_START = len(STORE) + 34
"""The index after the store's directory, a slash, a hash of 32 characters and a dash."""

MAX_PROGRAMS = 1000
"""The most programs whose names are kept."""

MAX_NOTES = 200
"""The most sentences that are kept on entries that are not in an image's root."""

ROOT_REASON = "symbolic links to the packages' files"
"""The reason for the last layer of every image, which holds no store path."""


@frozen(kw_only=True)
class ReportedPackage:
    """
    A package that was requested.

    :param requested: the names it was requested by.
    :param paths: its outputs, as numbers of paths.
    """

    attribute: str
    name: str
    version: str
    description: str
    requested: tuple[str, ...]
    paths: tuple[int, ...]


@frozen(kw_only=True)
class ReportedPath:
    """
    A store path of the closure.

    :param path: the whole path.
    :param size: unpacked, in bytes.
    :param closure: unpacked size of the path and all that it needs, in bytes.
    :param popularity: number of store paths of the package set that need its package; 0 if that was
        unknown.
    :param references: the numbers of the paths it refers to, rising.
    """

    path: str
    size: int
    closure: int
    popularity: int
    references: tuple[int, ...]

    @property
    def name(self) -> str:
        """The part of the path behind the hash."""
        return self.path[_NAME_START:]

    @property
    def version(self) -> str:
        """The version and the output that the name contains; empty if there are none."""
        return self.name[len(package_name(self.name)) + 1 :]


@frozen(kw_only=True)
class ReportedLayer:
    """
    A layer and its contents.

    :param size: download size, in bytes.
    :param uncompressed_size: size of the archive, in bytes.
    :param title: names its main content.
    :param reason: says why it is a layer of its own.
    :param paths: the numbers of its paths, the main one first.
    """

    digest: Digest
    size: int
    diff_id: Digest
    uncompressed_size: int
    title: str
    reason: str
    paths: tuple[int, ...]


@frozen(kw_only=True)
class ReportedLicense:
    """
    The declared licence of some store paths, or several that hold together.

    :param text: as SPDX has it, or the licence's name.
    :param paths: the numbers of the paths, rising.
    """

    text: str
    paths: tuple[int, ...]


@frozen(kw_only=True)
class ImageReport:
    """
    The report of how an image was made.

    :param digest: the digest of its OCI manifest.
    :param source: the package set's revision, for people.
    :param popularity: the origin of the popularity data, for people; may be empty.
    :param packages: the requested packages, sorted by attribute path.
    :param layers: from the bottom to the top.
    :param paths: the closure, sorted by name; empty where it was too large to keep.
    :param omitted_paths: number of paths of the closure that are not in ``paths``.
    :param licenses: the declared licences, sorted; ``None`` if that was not written down.
    :param notes: sentences on entries of the packages that are not in the image's root.
    :param omitted_notes: number of such sentences that are not in ``notes``.
    :param programs: the names of the entries of ``/bin``, sorted; ``None`` if they were not
        written down.
    :param omitted_programs: number of such names that are not in ``programs``.
    """

    digest: Digest
    system: str
    source: str
    popularity: str
    packages: tuple[ReportedPackage, ...]
    layers: tuple[ReportedLayer, ...]
    paths: tuple[ReportedPath, ...]
    omitted_paths: int = 0
    licenses: tuple[ReportedLicense, ...] | None = None
    notes: tuple[str, ...] = ()
    omitted_notes: int = 0
    programs: tuple[str, ...] | None = None
    omitted_programs: int = 0

    @property
    def requested(self) -> tuple[int, ...]:
        """The numbers of the requested paths, rising."""
        return tuple(sorted({number for package in self.packages for number in package.paths}))

    @property
    def license_counts(self) -> Mapping[str, int] | None:
        """The number of store paths by licence; ``None`` if licences were not written down."""
        if self.licenses is None:
            return None
        return {each.text: len(each.paths) for each in self.licenses}

    @property
    def unlicensed(self) -> int | None:
        """The number of paths without a licence; ``None`` as for :attr:`license_counts`."""
        if self.licenses is None:
            return None
        return len(self.paths) - len({path for each in self.licenses for path in each.paths})

    @property
    def size(self) -> int:
        """The download size for a client that has no layer yet, in bytes."""
        return sum(layer.size for layer in self.layers)

    @property
    def uncompressed_size(self) -> int:
        """The unpacked size of all layers, in bytes."""
        return sum(layer.uncompressed_size for layer in self.layers)


def make_report(record: BuildRecord) -> ImageReport:
    """Make the report of an image that has just been made."""
    graph, popularity = record.graph, record.popularity
    index_of = {path.path: index for index, path in enumerate(graph.paths)}
    sizes = graph.closure_sizes()
    has_popularity = bool(popularity.transitive or popularity.direct)
    groups = [
        (
            group.leader.name,
            group.reason,
            (
                index_of[group.leader.path],
                *(index_of[path.path] for path in group.paths if path != group.leader),
            ),
        )
        for group in record.plan
    ]
    groups += [("root", ROOT_REASON, ())] * (len(record.layers) - len(groups))
    return ImageReport(
        digest=record.digest,
        system=record.evaluation.system,
        source=record.source,
        popularity=popularity.source,
        packages=tuple(
            ReportedPackage(
                attribute=package.attribute,
                name=package.name,
                version=package.version,
                description=package.description,
                requested=package.requested,
                paths=tuple(
                    index_of[output.path] for output in package.outputs if output.path in index_of
                ),
            )
            for package in record.evaluation.packages
        ),
        layers=tuple(
            ReportedLayer(
                digest=layer.digest,
                size=layer.size,
                diff_id=layer.diff_id,
                uncompressed_size=layer.uncompressed_size,
                title=title,
                reason=reason,
                paths=paths,
            )
            for layer, (title, reason, paths) in zip(record.layers, groups, strict=True)
        ),
        paths=tuple(
            ReportedPath(
                path=path.path,
                size=info.nar_size,
                closure=sizes[path].nar_size,
                popularity=popularity.count_of(path) if has_popularity else 0,
                references=tuple(sorted(index_of[each.path] for each in info.references)),
            )
            for path, info in graph.paths.items()
        ),
        licenses=_licenses(record),
        notes=tuple(record.notes[:MAX_NOTES]),
        omitted_notes=len(record.notes[MAX_NOTES:]),
        programs=tuple(record.programs[:MAX_PROGRAMS]),
        omitted_programs=len(record.programs[MAX_PROGRAMS:]),
    )


def _licenses(record: BuildRecord) -> tuple[ReportedLicense, ...]:
    numbers: dict[str, list[int]] = {}
    # In the order of the graph, as the numbers of paths are.
    for number, component in enumerate(image_components(record.graph, record.evaluation)):
        if component.licenses:
            text = conjunction([each.text for each in component.licenses])
            numbers.setdefault(text, []).append(number)
    return tuple(
        ReportedLicense(text=text, paths=tuple(paths)) for text, paths in sorted(numbers.items())
    )
