"""
Compute the keys of caches.

A key is the SHA-256 of canonical JSON: equal values have one spelling, and two
different values never share one, as joined strings can
(``["a", "b c"]`` and ``["a b", "c"]``).  The hashed value includes the kind of the key, so
that keys of different kinds are never equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nixery.image.canonical_json import Json, sha256_hex
from nixery.image.closure import StorePath
from nixery.image.names import ImageName
from nixery.image.packages import Evaluation, Package
from nixery.sources.source import Revision

__all__ = ["image_key", "index_key", "layer_key", "request_key", "root_key"]


def image_key(evaluation: Evaluation, options: Mapping[str, Json]) -> str:
    """
    Return the key of an image whose packages have been evaluated.

    It covers all that an image's bytes depend on and nothing else: neither the spelling
    of the packages' names, nor the source and the revision that they come from,
    nor their derivations, which change more often than their outputs.

    :param evaluation: the packages.
    :param options: all else that determines an image: the layering, the popularity
        data, the compression, the versions of the code that makes each.
    """
    return sha256_hex(
        {
            "kind": "image",
            "options": options,
            "packages": [
                _package(package)
                for package in sorted(evaluation.packages, key=lambda package: package.attribute)
            ],
            "system": evaluation.system,
        }
    )


def index_key(images: Mapping[str, str], system: str, skipped: Mapping[str, str]) -> str:
    """
    Return the key of an index.

    :param images: the keys of its images, by their systems.
    :param system: the system whose image clients get that accept no index.
    :param skipped: the systems that it lacks, and why.
    """
    return sha256_hex(
        {
            "kind": "index",
            # A list, for the order of the images is part of the index.
            "images": [[each, key] for each, key in images.items()],
            "skipped": dict(skipped),
            "system": system,
        }
    )


def request_key(name: ImageName, revision: Revision, options: Mapping[str, Json]) -> str:
    """
    Return the key of an image that was requested and has not been evaluated yet.

    For a revision that is not pinned it identifies the job and the observed version of the
    package set, but not a result that is stored.

    :param options: as for :func:`image_key`, and the identity of the evaluation.
    """
    version = {} if revision.version is None else {"version": revision.version}
    platforms: Mapping[str, Json] = {"platforms": name.platforms} if name.platforms else {}
    return sha256_hex(
        {
            "kind": "request",
            "options": options,
            "requirements": [
                {"exact": item.exact, "name": item.name, "optional": item.optional}
                for item in name.package_requests
            ],
            "revision": revision.identity,
            "system": name.system,
            **platforms,
            **version,
        }
    )


def layer_key(paths: Iterable[StorePath | str], compression: str, format_version: int) -> str:
    """
    Return the key of a layer that holds the given store paths.

    :param paths: in any order; duplicates collapse.
    :param compression: the label of the compression, with its level.
    :param format_version: the version of the code that writes the archive.
    """
    return sha256_hex(
        {
            "compression": compression,
            "format": format_version,
            "kind": "layer",
            "paths": sorted({str(path) for path in paths}),
        }
    )


def root_key(tree: str, compression: str, format_version: int) -> str:
    """
    Return the key of a layer that holds the root of an image.

    :param tree: identifies the entries of the root.
    :param compression: as for :func:`layer_key`.
    :param format_version: as for :func:`layer_key`.
    """
    return sha256_hex(
        {"compression": compression, "format": format_version, "kind": "root", "tree": tree}
    )


def _package(package: Package) -> Json:
    return {
        "attribute": package.attribute,
        "description": package.description,
        "name": package.name,
        "outputs": {output.name: output.path for output in package.outputs},
        "pname": package.pname,
        "priority": package.priority,
        "version": package.version,
    }
