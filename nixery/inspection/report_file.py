"""
Encodes reports of images (:mod:`nixery.inspection.report`) for storage: compressed JSON with the
version of its format.

Paths are written once and referred to by their numbers, so that a closure of 5,000 paths takes some
hundreds of kilobytes. A report larger than :data:`MAX_STORED_BYTES` is stored without its
graph: most people look for the layers.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from graphlib import TopologicalSorter

from attrs import evolve

from nixery.errors import NixeryError
from nixery.image.closure import StorePath
from nixery.image.names import parse_digest
from nixery.inspection.report import (
    ImageReport,
    ReportedLayer,
    ReportedLicense,
    ReportedPackage,
    ReportedPath,
)

__all__ = ["MAX_STORED_BYTES", "VERSION", "decode_report", "encode_report"]

VERSION = 1
"""
The version of the format; raised when older reports cannot be read any more, which then count as
absent.
"""

MAX_STORED_BYTES = 4 * 2**20
"""Maximum size of a stored report, in bytes."""

MAX_EXPANDED_BYTES = 64 * 2**20
"""Maximum size of a decompressed report, in bytes: stops a manipulated one from filling memory."""


def encode_report(report: ImageReport, limit: int = MAX_STORED_BYTES) -> bytes:
    """Encode a report for storage; without its graph if it would take more than ``limit`` bytes."""
    data = _compress(report)
    if len(data) <= limit or not report.paths:
        return data
    return _compress(
        evolve(
            report,
            packages=tuple(evolve(package, paths=()) for package in report.packages),
            layers=tuple(evolve(layer, paths=()) for layer in report.layers),
            licenses=None,
            paths=(),
            omitted_paths=len(report.paths),
        )
    )


def decode_report(data: bytes) -> ImageReport:
    """:raises ValueError: the data are not a report, or one of another version."""
    try:
        expander = zlib.decompressobj()
        text = expander.decompress(data, MAX_EXPANDED_BYTES)
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
            omitted_paths=int(value["left_out"]),
            # Reports of before there were licences, notes or programs are good otherwise.
            licenses=_licenses(value.get("licenses")),
            notes=tuple(map(str, _items(value.get("notes", [])))),
            omitted_notes=_natural_number(value.get("more_notes", 0)),
            programs=_texts(value.get("programs")),
            omitted_programs=_natural_number(value.get("more_programs", 0)),
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
                "unpacked": layer.uncompressed_size,
                "title": layer.title,
                "reason": layer.reason,
                "paths": layer.paths,
            }
            for layer in report.layers
        ],
        # There are thousands of paths: they are stored without the names of their fields.
        "paths": [
            (path.path, path.size, path.closure, path.popularity, path.references)
            for path in report.paths
        ],
        "left_out": report.omitted_paths,
        "licenses": None
        if report.licenses is None
        else [[each.text, each.paths] for each in report.licenses],
        "notes": report.notes,
        "more_notes": report.omitted_notes,
        "programs": report.programs,
        "more_programs": report.omitted_programs,
    }
    # Escaped to ASCII: text from a package set may hold half of a surrogate pair.
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
        size=_natural_number(value["size"]),
        diff_id=parse_digest(str(value["diff_id"])),
        uncompressed_size=_natural_number(value["unpacked"]),
        title=str(value["title"]),
        reason=str(value["reason"]),
        paths=_numbers(value["paths"]),
    )


def _path(
    path: object, size: object, closure: object, popularity: object, references: object
) -> ReportedPath:
    return ReportedPath(
        path=StorePath(str(path)).path,
        size=_natural_number(size),
        closure=_natural_number(closure),
        popularity=_natural_number(popularity),
        references=_numbers(references),
    )


def _licenses(value: object) -> tuple[ReportedLicense, ...] | None:
    return (
        None
        if value is None
        else tuple(
            ReportedLicense(text=str(text), paths=_numbers(paths))
            for text, paths in map(_items, _items(value))
        )
    )


def _texts(value: object) -> tuple[str, ...] | None:
    return None if value is None else tuple(map(str, _items(value)))


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"not a list: {value!r:.40}")
    return value


def _numbers(value: object) -> tuple[int, ...]:
    return tuple(_natural_number(each) for each in _items(value))


def _natural_number(value: object) -> int:
    # isinstance(True, int) is true, too.
    if type(value) is not int or value < 0:
        raise TypeError(f"not a natural number: {value!r:.40}")
    return value


def _check_numbers(report: ImageReport) -> None:
    """:raises ValueError: a number is not the number of a path."""
    path_lists = [each.paths for each in report.packages] + [each.paths for each in report.layers]
    path_lists += [each.paths for each in report.licenses or ()]
    highest = max((number for paths in path_lists for number in paths), default=-1)
    highest = max([highest, *(path.references[-1] for path in report.paths if path.references)])
    if highest >= len(report.paths):
        raise ValueError(f"there is no path {highest}")
    for number, path in enumerate(report.paths):
        if number in path.references or list(path.references) != sorted(set(path.references)):
            raise ValueError(f"the references of path {number} are in disorder")
    # Nix registers no reference cycles, and code that follows references relies on that.
    TopologicalSorter(dict(enumerate(path.references for path in report.paths))).prepare()
