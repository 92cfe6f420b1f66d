"""
What is remembered of how an image was made, for those who look at it afterwards.

A manifest says how large layers are and what their digests are.  Which store paths lie
in which of them and why, which refer to which, and which of them somebody asked for, is
known while an image is made and nowhere afterwards: the closure may have been collected,
and the popularity data may be others.  So a *report* is kept in storage beside the
image.  It shapes no image, and an image without one is as good as any other.

As it is stored, a report is compressed JSON with the version of its format.  Paths are
written once and referred to by their numbers, so that a closure of 5,000 paths takes
some hundreds of kilobytes.  What is larger than :data:`MAX_STORED` is stored without
its graph: the layers are what most people look for.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter

from attrs import evolve, frozen

from nixery.errors import NixeryError
from nixery.graph import STORE, RuntimeGraph, StorePath, package_name
from nixery.layering.layerplan import LayerPlan, Popularity
from nixery.names import Digest, parse_digest
from nixery.oci import ImageLayer
from nixery.packages import Evaluation

__all__ = [
    "MAX_STORED",
    "VERSION",
    "ImageReport",
    "Made",
    "ReportedLayer",
    "ReportedPackage",
    "ReportedPath",
    "decode_report",
    "encode_report",
    "make_report",
]

VERSION = 1
"""Raised when reports of before can't be read any more: they then count as absent."""

MAX_STORED = 4 * 2**20
"""The most bytes that a report takes in storage."""

MAX_READ = 64 * 2**20
"""The most bytes that a report may have when it is expanded: what was tampered with ends here."""

_NAME_START = len(STORE) + 34
"""Behind the store's directory, a slash, a hash of 32 characters and a dash."""

ROOT_REASON = "symbolic links to the packages' files"
"""Why the last layer of every image is there, which holds no store path."""


@frozen(kw_only=True)
class ReportedPackage:
    """
    A package that was asked for.

    :param requested: the names it was asked for by.
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
    :param closure: the same with all that it needs.
    :param popularity: how many store paths of the package set need its package, as far
        as that was known; 0 where it was not.
    :param references: the numbers of the paths it refers to, rising.
    """

    path: str
    size: int
    closure: int
    popularity: int
    references: tuple[int, ...]

    @property
    def name(self) -> str:
        """What stands behind the hash."""
        return self.path[_NAME_START:]

    @property
    def version(self) -> str:
        """What the name says of a version and an output; empty if nothing."""
        return self.name[len(package_name(self.name)) + 1 :]


@frozen(kw_only=True)
class ReportedLayer:
    """
    A layer, and what lies in it.

    :param size: as clients download it, in bytes.
    :param unpacked: the archive's, in bytes.
    :param title: what it is about.
    :param reason: why it is a layer.
    :param paths: the numbers of its paths, the one it is about first.
    """

    digest: Digest
    size: int
    diff_id: Digest
    unpacked: int
    title: str
    reason: str
    paths: tuple[int, ...]


@frozen(kw_only=True)
class ImageReport:
    """
    How an image was made.

    :param digest: of its OCI manifest.
    :param source: the package set's revision, for people.
    :param popularity: where the popularity data came from, for people; may be empty.
    :param packages: those asked for, sorted by attribute path.
    :param layers: from the bottom to the top.
    :param paths: the closure, sorted by name; empty where it was too large to keep.
    :param left_out: how many paths the closure has that are not in ``paths``.
    """

    digest: Digest
    system: str
    source: str
    popularity: str
    packages: tuple[ReportedPackage, ...]
    layers: tuple[ReportedLayer, ...]
    paths: tuple[ReportedPath, ...]
    left_out: int = 0

    @property
    def requested(self) -> tuple[int, ...]:
        """The numbers of the paths that were asked for, rising."""
        return tuple(sorted({number for package in self.packages for number in package.paths}))

    @property
    def size(self) -> int:
        """What a client downloads that has no layer yet, in bytes."""
        return sum(layer.size for layer in self.layers)

    @property
    def unpacked(self) -> int:
        """What all layers take when they are unpacked, in bytes."""
        return sum(layer.unpacked for layer in self.layers)


@frozen(kw_only=True, eq=False)
class Made:
    """
    An image that has just been made, with what it was made of.

    :param digest: of its OCI manifest.
    :param source: the package set's revision, for people.
    :param layers: those of the plan, in its order, and whatever lies on top of them.
    """

    digest: Digest
    source: str
    evaluation: Evaluation
    graph: RuntimeGraph
    plan: LayerPlan
    layers: Sequence[ImageLayer]
    popularity: Popularity


def make_report(made: Made) -> ImageReport:
    """The report of an image that has just been made."""
    graph, popularity = made.graph, made.popularity
    number = {path.path: index for index, path in enumerate(graph.paths)}
    sizes = graph.closure_sizes()
    known = bool(popularity.transitive or popularity.direct)
    groups = [
        (
            group.leader.name,
            group.reason,
            (
                number[group.leader.path],
                *(number[path.path] for path in group.paths if path != group.leader),
            ),
        )
        for group in made.plan
    ]
    groups += [("root", ROOT_REASON, ())] * (len(made.layers) - len(groups))
    return ImageReport(
        digest=made.digest,
        system=made.evaluation.system,
        source=made.source,
        popularity=popularity.source,
        packages=tuple(
            ReportedPackage(
                attribute=package.attribute,
                name=package.name,
                version=package.version,
                description=package.description,
                requested=package.requested,
                paths=tuple(
                    number[output.path] for output in package.outputs if output.path in number
                ),
            )
            for package in made.evaluation.packages
        ),
        layers=tuple(
            ReportedLayer(
                digest=layer.digest,
                size=layer.size,
                diff_id=layer.diff_id,
                unpacked=layer.uncompressed_size,
                title=title,
                reason=reason,
                paths=paths,
            )
            for layer, (title, reason, paths) in zip(made.layers, groups, strict=True)
        ),
        paths=tuple(
            ReportedPath(
                path=path.path,
                size=info.nar_size,
                closure=sizes[path].nar_size,
                popularity=popularity.of(path) if known else 0,
                references=tuple(sorted(number[each.path] for each in info.references)),
            )
            for path, info in graph.paths.items()
        ),
    )


def encode_report(report: ImageReport, limit: int = MAX_STORED) -> bytes:
    """A report as it is stored; without its graph if it would take more than ``limit`` bytes."""
    data = _compress(report)
    if len(data) <= limit or not report.paths:
        return data
    return _compress(
        evolve(
            report,
            packages=tuple(evolve(package, paths=()) for package in report.packages),
            layers=tuple(evolve(layer, paths=()) for layer in report.layers),
            paths=(),
            left_out=len(report.paths),
        )
    )


def decode_report(data: bytes) -> ImageReport:
    """:raises ValueError: it is no report, or one of another version."""
    try:
        expander = zlib.decompressobj()
        text = expander.decompress(data, MAX_READ)
        if not expander.eof:
            raise ValueError("cut short, or too large")
        value = json.loads(text)
        if value["version"] != VERSION:
            raise ValueError(f"version {value['version']}")
        report = ImageReport(
            digest=parse_digest(value["digest"]),
            system=str(value["system"]),
            source=str(value["source"]),
            popularity=str(value["popularity"]),
            packages=tuple(_package(each) for each in value["packages"]),
            layers=tuple(_layer(each) for each in value["layers"]),
            paths=tuple(_path(*each) for each in value["paths"]),
            left_out=int(value["left_out"]),
        )
        _check_numbers(report)
    except (
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
        zlib.error,
        NixeryError,
    ) as error:
        raise ValueError(f"no report of an image: {error}") from error
    return report


def _compress(report: ImageReport) -> bytes:
    value = {
        "version": VERSION,
        "digest": report.digest,
        "system": report.system,
        "source": report.source,
        "popularity": report.popularity,
        "packages": [
            {
                "attribute": package.attribute,
                "name": package.name,
                "version": package.version,
                "description": package.description,
                "requested": package.requested,
                "paths": package.paths,
            }
            for package in report.packages
        ],
        "layers": [
            {
                "digest": layer.digest,
                "size": layer.size,
                "diff_id": layer.diff_id,
                "unpacked": layer.unpacked,
                "title": layer.title,
                "reason": layer.reason,
                "paths": layer.paths,
            }
            for layer in report.layers
        ],
        # Thousands of them: without the names of their fields.
        "paths": [
            (path.path, path.size, path.closure, path.popularity, path.references)
            for path in report.paths
        ],
        "left_out": report.left_out,
    }
    # Escaped: text from a package set may hold half of a surrogate pair.
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode("ascii"))


def _package(value: Mapping[str, object]) -> ReportedPackage:
    return ReportedPackage(
        attribute=str(value["attribute"]),
        name=str(value["name"]),
        version=str(value["version"]),
        description=str(value["description"]),
        requested=tuple(map(str, _items(value["requested"]))),
        paths=_numbers(value["paths"]),
    )


def _layer(value: Mapping[str, object]) -> ReportedLayer:
    return ReportedLayer(
        digest=parse_digest(str(value["digest"])),
        size=_natural(value["size"]),
        diff_id=parse_digest(str(value["diff_id"])),
        unpacked=_natural(value["unpacked"]),
        title=str(value["title"]),
        reason=str(value["reason"]),
        paths=_numbers(value["paths"]),
    )


def _path(
    path: object, size: object, closure: object, popularity: object, references: object
) -> ReportedPath:
    return ReportedPath(
        path=StorePath(str(path)).path,
        size=_natural(size),
        closure=_natural(closure),
        popularity=_natural(popularity),
        references=_numbers(references),
    )


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"not a list: {value!r:.40}")
    return value


def _numbers(value: object) -> tuple[int, ...]:
    return tuple(_natural(each) for each in _items(value))


def _natural(value: object) -> int:
    # True is an int, too.
    if type(value) is not int or value < 0:
        raise TypeError(f"not a natural number: {value!r:.40}")
    return value


def _check_numbers(report: ImageReport) -> None:
    """:raises ValueError: a number is not that of a path."""
    named = [each.paths for each in report.packages] + [each.paths for each in report.layers]
    highest = max((number for paths in named for number in paths), default=-1)
    highest = max([highest, *(path.references[-1] for path in report.paths if path.references)])
    if highest >= len(report.paths):
        raise ValueError(f"there is no path {highest}")
    for number, path in enumerate(report.paths):
        if number in path.references or list(path.references) != sorted(set(path.references)):
            raise ValueError(f"the references of path {number} are in disorder")
    # Nix registers no circles, and what walks along references relies on that.
    TopologicalSorter(dict(enumerate(path.references for path in report.paths))).prepare()
