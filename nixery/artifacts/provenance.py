"""
Make the provenance of an image: what it was made of, by whom, and what was built for it.

The format is the predicate of SLSA 1.0, https://slsa.dev/spec/v1.0/provenance.  Unlike a bill of
materials it tells of the machine that made the image: another one may have downloaded what this
one has built.  So the first one that is published for an image is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from nixery.artifacts.encoding import encode_document
from nixery.image.closure import RuntimeGraph
from nixery.version import VERSION

__all__ = [
    "BUILD_TYPE",
    "MAX_LISTED_BUILDS",
    "UNNAMED_BUILDER",
    "Material",
    "Origins",
    "Provenance",
]

BUILD_TYPE = "urn:x-nixery:image:v1"
"""Names the meaning of the parameters; the page "What is in an image" documents it."""

UNNAMED_BUILDER = "urn:x-nixery:unnamed-builder"
"""The builder of a registry that has no public URL and no other id configured."""

MAX_LISTED_BUILDS = 10_000
"""The most derivations that are listed of those that were built."""


@frozen(kw_only=True)
class Material:
    """
    A package source, or a part of one.

    :param uri: its URI, without secrets.
    :param digest: identifies its content, by the name of the algorithm (``gitCommit``); empty for
        files that may change.
    """

    uri: str
    digest: Mapping[str, str] = field(factory=dict, hash=False)


@frozen(kw_only=True)
class Origins:
    """
    The origins of store paths that one command of Nix has made valid.

    :param built: the derivations that were built, in the order in which their builds began.
    :param omitted_builds: the number of such derivations that are not in ``built``.
    :param substituted: for each path that was downloaded, the binary cache it came from; ``None``
        if downloads have failed, and it is not known which.
    """

    built: tuple[str, ...] = ()
    omitted_builds: int = 0
    substituted: Mapping[str, str] | None = field(factory=dict, hash=False)


@frozen(kw_only=True)
class Provenance:
    """
    The provenance of an image.

    :param builder: the URI of who built it.
    :param image: its canonical name.
    :param system: the system of its packages.
    :param sources: the package set, then what it consists of besides.
    :param derivations: of the requested packages.
    :param evaluation: the settings that the evaluation depends on.
    :param nix_version: the version of Nix; empty if it is not known.
    :param finished_on: when it was made, as RFC 3339 has it; ``None`` to leave it out.
    """

    builder: str
    image: str
    system: str
    sources: Sequence[Material]
    derivations: Sequence[str]
    evaluation: Mapping[str, str]
    nix_version: str
    graph: RuntimeGraph
    origins: Origins
    finished_on: str | None = None

    def encode(self) -> bytes:
        """Return the bytes of the predicate."""
        versions = {"nixery": VERSION}
        if self.nix_version:
            versions["nix"] = self.nix_version
        run: dict[str, object] = {"builder": {"id": self.builder, "version": versions}}
        if self.finished_on is not None:
            run["metadata"] = {"finishedOn": self.finished_on}
        return encode_document(
            {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {"image": self.image, "system": self.system},
                    "internalParameters": {
                        "evaluation": dict(self.evaluation),
                        "storePaths": self._store_paths(),
                    },
                    "resolvedDependencies": [
                        *map(_source, self.sources),
                        *(
                            {"name": path, "uri": f"nix:{path}"}
                            for path in sorted(set(self.derivations))
                        ),
                    ],
                },
                "runDetails": run,
            }
        )

    def _store_paths(self) -> dict[str, object]:
        """Return how the closure became valid: downloaded, built now, or earlier."""
        value: dict[str, object] = {
            "closure": len(self.graph),
            "built": sorted(self.origins.built),
        }
        if self.origins.omitted_builds:
            value["builtAndNotListed"] = self.origins.omitted_builds
        if self.origins.substituted is not None:
            caches: dict[str, list[str]] = {}
            for path in self.graph.paths:
                cache = self.origins.substituted.get(path.path)
                if cache is not None:
                    caches.setdefault(cache, []).append(path.path)
            value["substituted"] = caches
        return value


def _source(material: Material) -> dict[str, object]:
    value: dict[str, object] = {"uri": material.uri}
    if material.digest:
        value["digest"] = dict(material.digest)
    return value
