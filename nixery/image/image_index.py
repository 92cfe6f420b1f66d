"""
Build and read indexes: one name for the images of several platforms.

An index has two forms, as an image has two manifests: an OCI index of the images' OCI manifests,
and a Docker manifest list of their Docker manifests.  Like those, they are bytes made from values.

Formats: OCI image specification 1.1, "Image Index"; Docker image manifest version 2, schema 2,
"Manifest List".
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from attrs import field, frozen

from nixery.errors import NixeryError
from nixery.image.canonical_json import Json, canonical_json
from nixery.image.config import Platform, platform_of
from nixery.image.errors import PlatformMissing
from nixery.image.manifests import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Image,
    Manifest,
    descriptor_json,
    digest_of,
)
from nixery.image.names import Digest, parse_digest

__all__ = [
    "SKIPPED_ANNOTATION",
    "ImageIndex",
    "build_index",
    "index_manifest",
    "index_manifests",
    "platform_label",
    "skip_reason",
]

SKIPPED_ANNOTATION = "nixery.platform.skipped."
"""The annotation that says why an index lacks a platform; the platform's label follows."""

MAX_REASON_CHARACTERS = 500
"""The longest reason for which a platform is skipped: the whole one is in the log."""

_MANIFEST_TYPES = {OCI_INDEX: OCI_MANIFEST, DOCKER_LIST: DOCKER_MANIFEST}
"""For each kind of index, the media type of the manifests that it names."""


@frozen(kw_only=True)
class ImageIndex(Image):
    """
    An index of images for several systems.

    :param manifests: the OCI index, and Docker's list if all images have Docker manifests.
    :param images: the images by their Nix systems, in the order of the index.
    :param system: the system whose image clients get that accept no index.
    :param skipped: the systems that it lacks, and why, in one line each.
    """

    images: Mapping[str, Image] = field(hash=False)
    system: str
    skipped: Mapping[str, str] = field(factory=dict, hash=False)
    digests: frozenset[Digest] = field(init=False, eq=False, repr=False)

    _by_type: Mapping[str, tuple[Manifest, ...]] = field(init=False, eq=False, repr=False)

    @digests.default
    def _digests(self) -> frozenset[Digest]:
        """Return all blobs that must be stored: those of the images, and the index."""
        own = {manifest.digest for manifest in self.manifests}
        return frozenset(own.union(*(image.digests for image in self.images.values())))

    @_by_type.default
    def _group_by_type(self) -> Mapping[str, tuple[Manifest, ...]]:
        # Not for each request: answers from memory are to cost no more than those of an image.
        return {
            index_type: tuple(
                manifest
                for image in self.images.values()
                for manifest in image.manifests
                if manifest.media_type == manifest_type
            )
            for index_type, manifest_type in _MANIFEST_TYPES.items()
        }

    @property
    def all_manifests(self) -> tuple[Manifest, ...]:
        """All manifests by which clients pull it: those of its images too."""
        return (
            *self.manifests,
            *(manifest for image in self.images.values() for manifest in image.manifests),
        )

    @property
    def default_image(self) -> Image:
        """
        The image for clients that accept no index.

        :raises PlatformMissing: the index lacks its platform.
        """
        image = self.images.get(self.system)
        if image is None:
            reason = self.skipped.get(self.system, "")
            raise PlatformMissing(platform=platform_label(self.system), reason=reason)
        return image

    def named_manifests(self, index: Manifest) -> tuple[Manifest, ...]:
        """Return the manifests that one of its forms names; none if it is no form of it."""
        return self._by_type.get(index.media_type, ())

    def choose_manifest(self, accepted: Collection[str]) -> Manifest:
        """
        Choose the manifest for a client, by the set of accepted types alone.

        A list is for clients that name one: many that accept anything cannot read any.

        :raises PlatformMissing: the client accepts no index, which lacks the platform of the image
            that is for such clients.
        """
        present = {media_type.strip().lower() for media_type in accepted}
        for manifest in self.manifests:
            if manifest.media_type in present:
                return manifest
        return self.default_image.choose_manifest(accepted)


def build_index(images: Mapping[str, Image], system: str, skipped: Mapping[str, str]) -> ImageIndex:
    """
    Build the index of some images.

    :param images: by their Nix systems, in order; at least one.
    :param system: the system whose image clients get that accept no index.
    :param skipped: the systems that are left out, and why.
    :raises UnknownSystem: images have no name for a system.
    """
    annotations: Mapping[str, Json] = {
        SKIPPED_ANNOTATION + platform_label(each): reason for each, reason in skipped.items()
    }
    manifests = []
    for media_type, manifest_type in _MANIFEST_TYPES.items():
        named = {
            each: manifest
            for each, image in images.items()
            for manifest in image.manifests
            if manifest.media_type == manifest_type
        }
        # Docker has no media type for some layers, and its list would lack their images.
        if len(named) < len(images):
            continue
        index: dict[str, Json] = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "manifests": [
                {**descriptor_json(manifest), "platform": _platform(each)}
                for each, manifest in named.items()
            ],
        }
        # Docker's format has no annotations.
        if annotations and media_type == OCI_INDEX:
            index["annotations"] = annotations
        body = canonical_json(index)
        manifests.append(Manifest(media_type=media_type, digest=digest_of(body), body=body))
    return ImageIndex(manifests=tuple(manifests), images=images, system=system, skipped=skipped)


def index_manifests(body: bytes) -> tuple[Digest, ...]:
    """
    Return the manifests of the platforms that an index names; none if it is no index of platforms,
    as one of referrers.
    """
    try:
        return tuple(
            parse_digest(each["digest"])
            for each in json.loads(body)["manifests"]
            if "platform" in each
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()


def index_manifest(body: bytes, system: str) -> Digest | None:
    """
    Return the manifest of a Nix system that an index names; ``None`` if it names none.

    :raises UnknownSystem: images have no name for the system.
    """
    platform = _platform(system)
    try:
        for each in json.loads(body)["manifests"]:
            if each.get("platform") == platform:
                return parse_digest(each["digest"])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, NixeryError):
        pass
    return None


def platform_label(system: str) -> str:
    """
    Return the name by which clients call a Nix system: ``arm64``.

    :raises UnknownSystem: images have no name for it.
    """
    platform = platform_of(system)
    # All arm64 has the same variant, which nobody names.
    variant = "" if platform.architecture == "arm64" else platform.variant or ""
    return platform.architecture + variant


def skip_reason(message: str) -> str:
    """Return the reason for which a platform is skipped, in one line, of an error's message."""
    first = message.partition("\n")[0]
    if len(first) <= MAX_REASON_CHARACTERS:
        return first
    return first[: MAX_REASON_CHARACTERS - 3] + "..."


def _platform(system: str) -> Mapping[str, Json]:
    platform: Platform = platform_of(system)
    described: dict[str, Json] = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant is not None:
        described["variant"] = platform.variant
    return described
